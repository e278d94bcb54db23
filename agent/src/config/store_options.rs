//! How to reach a store: the table `[store_options]` of the configuration file.
//!
//! Nothing in here is secret: credentials are in the environment or in a file of their own.

use std::path::PathBuf;
use std::time::Duration;

use super::problem::Problem;
use super::source::Given;
use super::store_url::{Service, StoreKind};
use super::value::{ValueError, parse_bool, parse_number};

/// Every key of the table.
pub(super) const STORE_KEYS: [&str; STORE_KEY_COUNT] = [
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
    "write_timeout",
    "requests_per_second",
];
pub(super) const STORE_KEY_COUNT: usize = 13;

/// How to reach a store. What is not given has the default of the protocol, or of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// The server, as a URL without a path beyond the account's.
    pub endpoint: Option<String>,
    /// The region that requests are signed for (S3).
    pub region: Option<String>,
    /// The storage account (Azure).
    pub account: Option<String>,
    /// Whether a server without TLS is good enough.
    pub allow_http: bool,
    /// Where the credentials are, if not in the environment.
    pub credentials_file: Option<PathBuf>,
    /// Which of the profiles in that file (S3).
    pub profile: Option<String>,
    /// Requests that may be under way at once.
    pub concurrency: u32,
    /// How often a request is tried again.
    pub retries: u32,
    /// How long after the first try no other begins. Below five minutes, since all tries carry one signature.
    pub retry_timeout: Duration,
    /// The most that a connection may take.
    pub connect_timeout: Duration,
    /// The most that a server may be silent while it answers a read.
    pub read_timeout: Duration,
    /// The most that one try of a write of up to 8 MiB may take.
    pub write_timeout: Duration,
    /// Requests that are begun in a second, at most; no limit if `None`.
    pub requests_per_second: Option<u32>,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            endpoint: None,
            region: None,
            account: None,
            allow_http: false,
            credentials_file: None,
            profile: None,
            concurrency: 16,
            retries: 10,
            retry_timeout: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            requests_per_second: None,
        }
    }
}

/// What the table gives: where it begins, and each of its keys.
#[derive(Debug)]
pub(super) struct GivenStoreOptions {
    pub(super) line: usize,
    pub(super) keys: Vec<Given>,
}

impl StoreOptions {
    /// The options that a table gives for a store of a kind.
    pub(super) fn resolve(given: &[Given], kind: StoreKind, problems: &mut Vec<Problem>) -> StoreOptions {
        let mut options = StoreOptions::default();
        for given in given {
            if !is_for(given.key, kind) {
                problems.push(Problem::StoreOptionNotForKind { given: given.clone(), kind });
                continue;
            }
            if let Err(error) = options.set(given) {
                problems.push(Problem::value(given, error));
            }
        }
        // An endpoint is the only thing that tells plain HTTP; without one every provider is asked by HTTPS.
        let endpoint = given.iter().find(|given| given.key == "endpoint");
        if let (Some(given), Some(url), false) = (endpoint, &options.endpoint, options.allow_http)
            && url.starts_with("http://")
        {
            problems.push(Problem::StoreEndpointNotSecret { given: given.clone() });
        }
        options
    }

    pub(super) fn set(&mut self, given: &Given) -> Result<(), ValueError> {
        let text = given.text.to_str().ok_or(ValueError::NotUtf8)?.trim();
        if text.is_empty() {
            return Err(ValueError::Empty);
        }
        let seconds = |most| parse_number(text, 1, most).map(|seconds| Duration::from_secs(seconds.into()));
        match given.key {
            "endpoint" => self.endpoint = Some(parse_endpoint(text)?),
            "region" => self.region = Some(text.to_owned()),
            "account" => self.account = Some(text.to_owned()),
            "allow_http" => self.allow_http = parse_bool(text)?,
            "credentials_file" => self.credentials_file = Some(parse_path(text)?),
            "profile" => self.profile = Some(text.to_owned()),
            "concurrency" => self.concurrency = parse_number(text, 1, 256)?,
            "retries" => self.retries = parse_number(text, 0, 100)?,
            "retry_timeout" => self.retry_timeout = seconds(280)?,
            "connect_timeout" => self.connect_timeout = seconds(300)?,
            "read_timeout" => self.read_timeout = seconds(3600)?,
            "write_timeout" => self.write_timeout = seconds(3600)?,
            _ => self.requests_per_second = Some(parse_number(text, 1, 1_000_000)?),
        }
        Ok(())
    }

    /// The options that mean something for a store of a kind, as text.
    pub(super) fn describe(&self, kind: StoreKind) -> Vec<(&'static str, String)> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "default".to_owned());
        let seconds = |time: Duration| time.as_secs().to_string();
        let file = self.credentials_file.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
        let rate = self.requests_per_second.map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string());
        let values = [
            text(&self.endpoint),
            text(&self.region),
            text(&self.account),
            self.allow_http.to_string(),
            file,
            text(&self.profile),
            self.concurrency.to_string(),
            self.retries.to_string(),
            seconds(self.retry_timeout),
            seconds(self.connect_timeout),
            seconds(self.read_timeout),
            seconds(self.write_timeout),
            rate,
        ];
        STORE_KEYS.into_iter().zip(values).filter(|(key, _)| is_for(key, kind)).collect()
    }
}

/// Whether a key means something for a store of a kind.
pub(super) fn is_for(key: &str, kind: StoreKind) -> bool {
    match kind {
        StoreKind::Directory => false,
        StoreKind::Memory => matches!(key, "concurrency" | "requests_per_second"),
        StoreKind::Bucket(service) => match key {
            "region" | "profile" => service == Service::S3,
            "account" => service == Service::Azure,
            _ => true,
        },
    }
}

/// A server's URL. What is wrong with it is said without it: somebody may have written a password into it.
pub(super) fn parse_endpoint(text: &str) -> Result<String, ValueError> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or(ValueError::Endpoint)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/[]".contains(&byte);
    if rest.is_empty() || rest.starts_with('/') || !rest.bytes().all(is_plain) {
        return Err(ValueError::Endpoint);
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn parse_path(text: &str) -> Result<PathBuf, ValueError> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(ValueError::Choice { accepted: "an absolute path" }) }
}
