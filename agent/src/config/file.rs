//! The configuration file: TOML, every key optional, unknown keys refused.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::origins::{GivenOrigin, ORIGIN_KEYS};
use super::problem::Problem;
use super::source::{Given, Origin, SCALAR_COUNT, SCALAR_KEYS};
use super::store_options::{GivenStoreOptions, STORE_KEY_COUNT, STORE_KEYS};

/// A larger file is a mistake (a device, a log), and is not read to its end.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The key that holds the tables of tenants, and the keys of such a table.
const TENANT: &str = "tenant";
const TENANT_KEYS: [&str; 3] = ["uid", "quota", "guaranteed"];

/// The key that holds the tables of origins.
const ORIGIN: &str = "origin";

/// The key of the table of the store's options.
const STORE_OPTIONS: &str = "store_options";

/// The file as it is written: each value still text, with its place for messages.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// As [`super::Config::capacity`], or a percentage.
    pub capacity: Option<Spanned<Scalar>>,
    /// As [`super::Config::huge_pages`].
    pub huge_pages: Option<Spanned<Scalar>>,
    /// As [`super::Config::populate`].
    pub populate: Option<Spanned<Scalar>>,
    /// As [`super::Config::segment_size`].
    pub segment_size: Option<Spanned<Scalar>>,
    /// As [`super::Config::staging`].
    pub staging: Option<Spanned<Scalar>>,
    /// As [`super::Config::numa`].
    pub numa: Option<Spanned<Scalar>>,
    /// As [`super::Config::cpus`].
    pub cpus: Option<Spanned<Scalar>>,
    /// As [`super::Config::spin`].
    pub spin: Option<Spanned<Scalar>>,
    /// As [`super::Config::tenant_quota`].
    pub tenant_quota: Option<Spanned<Scalar>>,
    /// As [`super::Config::pinned_quota`].
    pub pinned_quota: Option<Spanned<Scalar>>,
    /// As [`super::Config::max_sessions_per_uid`].
    pub max_sessions_per_uid: Option<Spanned<Scalar>>,
    /// As [`super::Config::max_slots_per_session`].
    pub max_slots_per_session: Option<Spanned<Scalar>>,
    /// As [`super::Config::store`].
    pub store: Option<Spanned<Scalar>>,
    /// As [`super::Config::store_timeout`].
    pub store_timeout: Option<Spanned<Scalar>>,
    /// The path of [`super::Config::disk`].
    pub disk: Option<Spanned<Scalar>>,
    /// The capacity of [`super::Config::disk`].
    pub disk_capacity: Option<Spanned<Scalar>>,
    /// As [`super::Config::socket`].
    pub socket: Option<Spanned<Scalar>>,
    /// As [`super::Config::log`].
    pub log: Option<Spanned<Scalar>>,
    /// As [`super::Config::tenants`].
    #[serde(default)]
    pub tenant: Vec<Spanned<TenantTable>>,
    /// As [`super::Config::store_options`].
    pub store_options: Option<Spanned<StoreOptionsTable>>,
    /// As [`super::Config::origins`].
    #[serde(default)]
    pub origin: Vec<Spanned<OriginTable>>,
}

/// One table `[[origin]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginTable {
    /// As [`super::ListedOrigin::prefix`].
    pub prefix: Option<Spanned<Scalar>>,
    /// As [`super::ListedOrigin::users`].
    pub users: Option<Vec<Spanned<Scalar>>>,
    /// As [`super::ListedOrigin::is_public`].
    pub public: Option<Spanned<Scalar>>,
    /// As [`super::ListedOrigin::is_anonymous`].
    pub anonymous: Option<Spanned<Scalar>>,
    /// As [`super::ListedOrigin::proxy`].
    pub proxy: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::endpoint`].
    pub endpoint: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::region`].
    pub region: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::account`].
    pub account: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::allow_http`].
    pub allow_http: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::credentials_file`].
    pub credentials_file: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::profile`].
    pub profile: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::concurrency`].
    pub concurrency: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::retries`].
    pub retries: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::retry_timeout`], in seconds.
    pub retry_timeout: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::connect_timeout`], in seconds.
    pub connect_timeout: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::read_timeout`], in seconds.
    pub read_timeout: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::requests_per_second`].
    pub requests_per_second: Option<Spanned<Scalar>>,
}

impl OriginTable {
    /// Each single value beside its key.
    fn scalars(&self) -> [(&'static str, &Option<Spanned<Scalar>>); 16] {
        [
            ("prefix", &self.prefix),
            ("public", &self.public),
            ("anonymous", &self.anonymous),
            ("proxy", &self.proxy),
            ("endpoint", &self.endpoint),
            ("region", &self.region),
            ("account", &self.account),
            ("allow_http", &self.allow_http),
            ("credentials_file", &self.credentials_file),
            ("profile", &self.profile),
            ("concurrency", &self.concurrency),
            ("retries", &self.retries),
            ("retry_timeout", &self.retry_timeout),
            ("connect_timeout", &self.connect_timeout),
            ("read_timeout", &self.read_timeout),
            ("requests_per_second", &self.requests_per_second),
        ]
    }
}

/// The table `[store_options]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreOptionsTable {
    /// As [`super::StoreOptions::endpoint`].
    pub endpoint: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::region`].
    pub region: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::account`].
    pub account: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::allow_http`].
    pub allow_http: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::credentials_file`].
    pub credentials_file: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::profile`].
    pub profile: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::concurrency`].
    pub concurrency: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::retries`].
    pub retries: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::retry_timeout`], in seconds.
    pub retry_timeout: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::connect_timeout`], in seconds.
    pub connect_timeout: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::read_timeout`], in seconds.
    pub read_timeout: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::write_timeout`], in seconds.
    pub write_timeout: Option<Spanned<Scalar>>,
    /// As [`super::StoreOptions::requests_per_second`].
    pub requests_per_second: Option<Spanned<Scalar>>,
}

impl StoreOptionsTable {
    /// Each value beside its key, in the order of `STORE_KEYS`.
    fn into_scalars(self) -> [(&'static str, Option<Spanned<Scalar>>); STORE_KEY_COUNT] {
        [
            ("endpoint", self.endpoint),
            ("region", self.region),
            ("account", self.account),
            ("allow_http", self.allow_http),
            ("credentials_file", self.credentials_file),
            ("profile", self.profile),
            ("concurrency", self.concurrency),
            ("retries", self.retries),
            ("retry_timeout", self.retry_timeout),
            ("connect_timeout", self.connect_timeout),
            ("read_timeout", self.read_timeout),
            ("write_timeout", self.write_timeout),
            ("requests_per_second", self.requests_per_second),
        ]
    }
}

/// One table `[[tenant]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantTable {
    /// As [`super::TenantLimits::uid`].
    pub uid: Option<Spanned<Scalar>>,
    /// As [`super::TenantLimits::quota`].
    pub quota: Option<Spanned<Scalar>>,
    /// As [`super::TenantLimits::guaranteed`].
    pub guaranteed: Option<Spanned<Scalar>>,
}

/// A single value of the file as text, whatever type TOML gives it: `4096` and `"4096"` are the same size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text, a number, or true or false.
    Text(String),
    /// A list, a table or a date: no key takes one. Kept, so that other mistakes in the file are found as well.
    NotScalar,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, or true or false")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::NotScalar)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Scalar, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::NotScalar)
    }
}

impl FileConfig {
    fn into_scalars(self) -> [(&'static str, Option<Spanned<Scalar>>); SCALAR_COUNT] {
        [
            ("capacity", self.capacity),
            ("huge_pages", self.huge_pages),
            ("populate", self.populate),
            ("segment_size", self.segment_size),
            ("staging", self.staging),
            ("numa", self.numa),
            ("cpus", self.cpus),
            ("spin", self.spin),
            ("tenant_quota", self.tenant_quota),
            ("pinned_quota", self.pinned_quota),
            ("max_sessions_per_uid", self.max_sessions_per_uid),
            ("max_slots_per_session", self.max_slots_per_session),
            ("store", self.store),
            ("store_timeout", self.store_timeout),
            ("disk", self.disk),
            ("disk_capacity", self.disk_capacity),
            ("socket", self.socket),
            ("log", self.log),
        ]
    }
}

/// What a file gives.
#[derive(Debug, Default)]
pub(super) struct GivenByFile {
    pub(super) scalars: Vec<Given>,
    pub(super) tenants: Vec<GivenTenant>,
    pub(super) store_options: Option<GivenStoreOptions>,
    pub(super) origins: Vec<GivenOrigin>,
}

/// What one table `[[tenant]]` gives.
#[derive(Debug)]
pub(super) struct GivenTenant {
    /// The line the table starts at.
    pub(super) line: usize,
    pub(super) uid: Option<Given>,
    pub(super) quota: Option<Given>,
    pub(super) guaranteed: Option<Given>,
}

/// Reads a file. `None` means that it could not be read as a whole; then, and for every key that is wrong by itself,
/// `problems` says why.
pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Option<GivenByFile> {
    match read_text(path) {
        Ok(text) => parse(path, &text, problems),
        Err(source) => {
            problems.push(Problem::FileUnreadable { path: path.to_owned(), source });
            None
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

pub(super) fn parse(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Option<GivenByFile> {
    let mut lines = Lines { path, text, problems };
    let mut root = lines.or_problem(DeTable::parse(text))?;
    lines.take_unknown_keys(root.get_mut());
    let file: FileConfig = lines.or_problem(deserialize(root))?;
    let (tenants, store_options, origins) = (file.tenant.clone(), file.store_options.clone(), file.origin.clone());
    let scalars = file.into_scalars().into_iter().filter_map(|(key, value)| lines.given(key, value)).collect();
    let tenants = tenants.into_iter().map(|table| {
        let line = lines.line_at(table.span().start);
        let TenantTable { uid, quota, guaranteed } = table.into_inner();
        GivenTenant {
            line,
            uid: lines.given("uid", uid),
            quota: lines.given("quota", quota),
            guaranteed: lines.given("guaranteed", guaranteed),
        }
    });
    let tenants = tenants.collect();
    let store_options = store_options.map(|table| {
        let line = lines.line_at(table.span().start);
        let keys = table.into_inner().into_scalars();
        GivenStoreOptions { line, keys: keys.into_iter().filter_map(|(key, value)| lines.given(key, value)).collect() }
    });
    let origins = origins.into_iter().map(|table| {
        let line = lines.line_at(table.span().start);
        let table = table.into_inner();
        let scalars = table.scalars().into_iter();
        let keys = scalars.filter_map(|(key, value)| lines.given(key, value.clone())).collect();
        let users = table.users.clone();
        let users = users.map(|users| users.into_iter().filter_map(|uid| lines.given("users", Some(uid))).collect());
        GivenOrigin { line, keys, users }
    });
    let origins = origins.collect();
    Some(GivenByFile { scalars, tenants, store_options, origins })
}

fn deserialize<T: DeserializeOwned>(root: Spanned<DeTable<'_>>) -> Result<T, toml::de::Error> {
    T::deserialize(toml::de::Deserializer::from(root))
}

/// Ties what is read to lines of the text, and collects what is wrong there.
struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Lines<'_> {
    /// The line that a byte of the text stands on, from 1.
    fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
    }

    fn or_problem<T>(&mut self, result: Result<T, toml::de::Error>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        self.problems.push(Problem::FileSyntax {
            path: self.path.to_owned(),
            line: self.line_at(error.span().map_or(0, |span| span.start)),
            detail: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
        });
        None
    }

    fn given(&mut self, key: &'static str, value: Option<Spanned<Scalar>>) -> Option<Given> {
        let value = value?;
        let line = self.line_at(value.span().start);
        match value.into_inner() {
            Scalar::Text(text) => Some(Given {
                key,
                text: OsString::from(text),
                origin: Origin::File { path: self.path.to_owned(), line },
            }),
            Scalar::NotScalar => {
                self.problems.push(Problem::NotScalar { path: self.path.to_owned(), line, key });
                None
            }
        }
    }

    /// Reports and removes every unknown key, where serde by itself would stop at the first.
    fn take_unknown_keys(&mut self, root: &mut DeTable<'_>) {
        let known: Vec<&'static str> = SCALAR_KEYS.into_iter().chain([TENANT, STORE_OPTIONS, ORIGIN]).collect();
        self.take_unknown(root, &known);
        if let Some(options) = root.get_mut(STORE_OPTIONS) {
            let line = self.line_at(options.span().start);
            match options.get_mut() {
                DeValue::Table(table) => self.take_unknown(table, &STORE_KEYS),
                _ => {
                    self.problems.push(Problem::StoreOptionsNotTable { path: self.path.to_owned(), line });
                    root.remove(STORE_OPTIONS);
                }
            }
        }
        self.take_unknown_of_tables(root, TENANT, &TENANT_KEYS);
        self.take_unknown_of_tables(root, ORIGIN, &ORIGIN_KEYS);
    }

    fn take_unknown_of_tables(&mut self, root: &mut DeTable<'_>, name: &'static str, known: &[&'static str]) {
        let Some(list) = root.get_mut(name) else {
            return;
        };
        let line = self.line_at(list.span().start);
        let DeValue::Array(tables) = list.get_mut() else {
            return self.refuse_tables(root, name, line);
        };
        for table in tables.iter_mut() {
            let line = self.line_at(table.span().start);
            match table.get_mut() {
                DeValue::Table(table) => self.take_unknown(table, known),
                _ => return self.refuse_tables(root, name, line),
            }
        }
    }

    fn refuse_tables(&mut self, root: &mut DeTable<'_>, name: &'static str, line: usize) {
        let path = self.path.to_owned();
        self.problems.push(match name {
            TENANT => Problem::TenantNotTables { path, line },
            _ => Problem::OriginNotTables { path, line },
        });
        root.remove(name);
    }

    fn take_unknown(&mut self, table: &mut DeTable<'_>, known: &[&'static str]) {
        let is_unknown = |name: &str| !known.contains(&name);
        let mut unknown: Vec<_> = table.keys().filter(|key| is_unknown(key.get_ref())).cloned().collect();
        // The table is sorted by name; a reader goes through the file from top to bottom.
        unknown.sort_by_key(|key| key.span().start);
        for key in unknown {
            let name: &str = key.get_ref();
            let line = self.line_at(key.span().start);
            self.problems.push(Problem::unknown_key(self.path, line, name, known));
            table.remove(name);
        }
    }
}
