//! Where what tasks ask for by URL may come from: the tables `[[origin]]`, and `--allow-origin`.
//!
//! Nothing in here is secret: keys are in files of their own or in the environment, and a prefix has neither user nor query.

use std::ffi::OsString;
use std::path::Path;

use super::problem::Problem;
use super::resolve::UID_NONE;
use super::source::{Given, Origin};
use super::store_options::{StoreOptions, is_for, parse_endpoint};
use super::store_url::{Service, StoreKind};
use super::value::{ValueError, parse_bool, parse_number};
use crate::origin::{Kind, kind_of_prefix};

/// Every key of a table.
pub(super) const ORIGIN_KEYS: [&str; 17] = [
    "prefix",
    "users",
    "public",
    "anonymous",
    "proxy",
    "endpoint",
    "region",
    "account",
    "allow_http",
    "credentials_file",
    "profile",
    "concurrency",
    "retries",
    "retry_timeout",
    "connect_timeout",
    "read_timeout",
    "requests_per_second",
];

/// What a site says of origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginsConfig {
    /// What may be fetched, by whom and how.
    pub listed: Vec<ListedOrigin>,
    /// How what is not listed is fetched, for those who may.
    pub unlisted: StoreOptions,
}

/// URLs that may be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedOrigin {
    /// How they begin.
    pub prefix: String,
    /// Who may fetch them; everybody if `None`.
    pub users: Option<Vec<u32>>,
    /// Whether what is named by its digest may be shared by all tenants.
    pub is_public: bool,
    /// Whether they are asked for without any keys of the agent.
    pub is_anonymous: bool,
    /// A proxy to go through, as a URL.
    pub proxy: Option<String>,
    /// How to reach the origin.
    pub options: StoreOptions,
    /// Whether a flag listed it, and no table.
    pub is_of_flag: bool,
}

/// What one table `[[origin]]` gives.
#[derive(Debug)]
pub(super) struct GivenOrigin {
    /// The line the table starts at.
    pub(super) line: usize,
    pub(super) keys: Vec<Given>,
    pub(super) users: Option<Vec<Given>>,
}

impl OriginsConfig {
    pub(super) fn resolve(
        path: Option<&Path>,
        tables: &[GivenOrigin],
        flags: &[String],
        problems: &mut Vec<Problem>,
    ) -> OriginsConfig {
        let mut listed = Vec::new();
        for table in tables {
            let Some(prefix) = table.keys.iter().find(|given| given.key == "prefix") else {
                let path = path.map(Path::to_owned).unwrap_or_default();
                problems.push(Problem::OriginWithoutPrefix { path, line: table.line });
                continue;
            };
            listed.extend(resolve_table(table, prefix, problems));
        }
        for text in flags {
            let given = Given { key: "allow_origin", text: OsString::from(text), origin: Origin::Flag };
            match read_prefix(&given) {
                Ok((prefix, _)) => listed.push(ListedOrigin {
                    // No keys of the agent: nobody said whose these would be.
                    is_anonymous: true,
                    is_of_flag: true,
                    ..ListedOrigin::everybody(prefix)
                }),
                Err(error) => problems.push(Problem::value(&given, error)),
            }
        }
        OriginsConfig { listed, unlisted: StoreOptions::default() }
    }

    /// Each prefix, what is said of it, and where.
    pub(super) fn describe(&self) -> Vec<(String, String, &'static str)> {
        let row = |origin: &ListedOrigin| {
            let users = match &origin.users {
                None => "everybody".to_owned(),
                Some(users) if users.is_empty() => "nobody".to_owned(),
                Some(users) => users.iter().map(|uid| format!("uid {uid}")).collect::<Vec<_>>().join(", "),
            };
            let public = if origin.is_public { ", public" } else { "" };
            let source = if origin.is_of_flag { Origin::Flag.name() } else { "file" };
            (format!("origin.{}", origin.prefix), format!("{users}{public}"), source)
        };
        self.listed.iter().map(row).collect()
    }
}

impl ListedOrigin {
    /// URLs that everybody may fetch, by the default way.
    pub fn everybody(prefix: impl Into<String>) -> ListedOrigin {
        ListedOrigin {
            prefix: prefix.into(),
            users: None,
            is_public: false,
            is_anonymous: false,
            proxy: None,
            options: StoreOptions::default(),
            is_of_flag: false,
        }
    }
}

fn resolve_table(table: &GivenOrigin, given_prefix: &Given, problems: &mut Vec<Problem>) -> Option<ListedOrigin> {
    let (prefix, kind) = match read_prefix(given_prefix) {
        Ok(read) => read,
        Err(error) => {
            problems.push(Problem::value(given_prefix, error));
            return None;
        }
    };
    let mut origin = ListedOrigin::everybody(prefix.clone());
    for given in table.keys.iter().filter(|given| given.key != "prefix") {
        if !is_for_kind(given.key, kind) {
            problems.push(Problem::OriginOptionNotForKind { given: given.clone(), prefix: prefix.clone() });
        } else if let Err(error) = set(&mut origin, given) {
            problems.push(Problem::value(given, error));
        }
    }
    if let Some(users) = &table.users {
        let mut uids = Vec::new();
        for given in users {
            let text = given.text.to_str().ok_or(ValueError::NotUtf8);
            match text.and_then(|text| parse_number(text.trim(), 0, UID_NONE - 1)) {
                Ok(uid) => uids.push(uid),
                Err(error) => problems.push(Problem::value(given, error)),
            }
        }
        origin.users = Some(uids);
    }
    let find = |key| table.keys.iter().find(|given| given.key == key);
    if let (Some(given), true) = (find("credentials_file"), origin.is_anonymous) {
        problems.push(Problem::OriginAnonymousWithKeys { given: given.clone() });
    }
    let options = &origin.options;
    if kind == Kind::Http && options.credentials_file.is_some() && !options.allow_http {
        problems.push(Problem::OriginKeysNotSecret { given: given_prefix.clone() });
    }
    if let (Some(given), Some(url), false) = (find("endpoint"), &options.endpoint, options.allow_http)
        && url.starts_with("http://")
    {
        problems.push(Problem::StoreEndpointNotSecret { given: given.clone() });
    }
    Some(origin)
}

fn read_prefix(given: &Given) -> Result<(String, Kind), ValueError> {
    let text = given.text.to_str().ok_or(ValueError::NotUtf8)?.trim();
    let kind = kind_of_prefix(text).map_err(ValueError::Prefix)?;
    Ok((text.to_owned(), kind))
}

fn set(origin: &mut ListedOrigin, given: &Given) -> Result<(), ValueError> {
    let text = given.text.to_str().ok_or(ValueError::NotUtf8)?.trim();
    match given.key {
        "public" => origin.is_public = parse_bool(text)?,
        "anonymous" => origin.is_anonymous = parse_bool(text)?,
        "proxy" => origin.proxy = Some(parse_endpoint(text)?),
        _ => origin.options.set(given)?,
    }
    Ok(())
}

/// Whether a key means something for an origin of a kind.
fn is_for_kind(key: &str, kind: Kind) -> bool {
    let service = match kind {
        Kind::S3 => Service::S3,
        Kind::Gcs => Service::Gcs,
        Kind::Azure => Service::Azure,
        Kind::Http | Kind::Https => {
            return !matches!(key, "anonymous" | "endpoint" | "region" | "account" | "profile");
        }
    };
    matches!(key, "public" | "anonymous" | "proxy") || is_for(key, StoreKind::Bucket(service))
}
