//! From a bucket and keys to a client that asks nobody else.
//!
//! All requests for objects go through the client of the route, which follows no redirect and resolves names itself.
//! What the library asks of others to get keys (a token service, the metadata service of a cloud) goes through a client
//! of its own: no caller has a say in where that leads.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder, split_sas};
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider};

use super::super::failure::OriginError;
use super::super::policy::Keys;
use super::super::route::Route;
use super::super::url::{Host, OriginUrl, Place, Scheme};
use crate::config::StoreOptions;
use crate::store::remote::credentials::{self, FileCredentials};

/// Tries again of a service that gives keys: where there is none a caller waits for nothing.
const KEYS_RETRIES_MAX: usize = 2;

/// Whose keys a bucket is read with.
#[derive(Clone, Debug)]
pub(super) enum KeysFrom {
    /// Without any: the bucket is open to all.
    Nobody,
    /// The caller's session.
    Session(Keys),
    /// The file that the site names.
    File,
    /// The environment of the agent.
    Environment,
}

/// Hands the client of a route to the library.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// The server that the buckets of a kind are at, where the options or the environment name one.
fn endpoint(scheme: Scheme, options: &StoreOptions) -> Option<String> {
    options.endpoint.clone().or_else(|| match scheme {
        Scheme::S3 => AmazonS3Builder::from_env().get_config_value(&AmazonS3ConfigKey::Endpoint),
        Scheme::Gcs => GoogleCloudStorageBuilder::from_env().get_config_value(&GoogleConfigKey::BaseUrl),
        Scheme::Azure => MicrosoftAzureBuilder::from_env().get_config_value(&AzureConfigKey::Endpoint),
        Scheme::Http | Scheme::Https => None,
    })
}

/// The host of that server: the site has named it, wherever it is.
pub(crate) fn endpoint_host(scheme: Scheme, options: &StoreOptions) -> Option<Host> {
    let endpoint = OriginUrl::parse(&endpoint(scheme, options)?).ok()?;
    Some(endpoint.place().host.clone())
}

/// Whether the site's keys are in a file that can be used, where it names one. Blocks: reads it.
pub(crate) fn check_keys(options: &StoreOptions) -> Result<(), String> {
    match &options.credentials_file {
        Some(path) => credentials::read(path).map(drop),
        None if options.profile.is_some() => Err("profile names a part of a file: set credentials_file too".to_owned()),
        None => Ok(()),
    }
}

/// Makes a client. Blocks: reads files.
pub(super) fn connect(place: &Place, route: &Route, keys: &KeysFrom) -> Result<Arc<dyn ObjectStore>, OriginError> {
    let (name, options) = (place.host.to_string(), &route.options);
    let own = match keys {
        KeysFrom::Session(Keys::S3 { endpoint, .. }) => endpoint.clone(),
        _ => None,
    };
    let is_own = own.is_some();
    let endpoint = own.or_else(|| endpoint(place.scheme, options));
    if let Some(endpoint) = &endpoint {
        check_endpoint(endpoint, route, is_own)?;
    }
    let connector = Connector(route.client()?.clone());
    let made = match place.scheme {
        Scheme::S3 => s3(&name, options, endpoint, keys, connector),
        Scheme::Gcs => gcs(&name, options, endpoint, keys, connector),
        Scheme::Azure => azure(&name, options, endpoint, keys, connector),
        Scheme::Http | Scheme::Https => Err("it is in no bucket; please report it".to_owned()),
    };
    made.map_err(OriginError::Failed)
}

/// Whether a server may be asked, where that can be told before its name is resolved.
fn check_endpoint(endpoint: &str, route: &Route, is_own: bool) -> Result<(), OriginError> {
    let url = OriginUrl::parse(endpoint).map_err(|why| OriginError::Invalid(format!("the endpoint: {why}")))?;
    let place = url.place();
    if place.scheme.is_bucket() {
        return Err(OriginError::Invalid(format!("the endpoint {url} is no server; give one with https://")));
    }
    // A session's own endpoint is the caller's business, and was written with its scheme.
    if place.scheme == Scheme::Http && !is_own && !route.options.allow_http && !is_http_allowed_by_environment() {
        return Err(OriginError::Failed(format!(
            "the endpoint {url} sends what is fetched unencrypted; use https, or allow it with allow_http = true"
        )));
    }
    route.reach.check_host(&place.host).map_err(OriginError::from)
}

fn is_http_allowed_by_environment() -> bool {
    ["AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|value| value.eq_ignore_ascii_case("true") || value == "1"))
}

fn s3(
    name: &str,
    options: &StoreOptions,
    endpoint: Option<String>,
    keys: &KeysFrom,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, String> {
    let environment = AmazonS3Builder::from_env();
    let region = environment.get_config_value(&AmazonS3ConfigKey::Region);
    let mut builder = match keys {
        KeysFrom::Environment => environment,
        _ => AmazonS3Builder::new(),
    };
    builder = builder.with_bucket_name(name).with_client_options(client_options(options));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let own_region = match keys {
        KeysFrom::Session(Keys::S3 { region, .. }) => region.clone(),
        _ => None,
    };
    if let Some(region) = own_region.or_else(|| options.region.clone()).or(region) {
        builder = builder.with_region(region);
    }
    let fixed = |key_id: &str, secret_key: &str, token: Option<&str>| {
        Arc::new(StaticCredentialProvider::new(AwsCredential {
            key_id: key_id.to_owned(),
            secret_key: secret_key.to_owned(),
            token: token.map(str::to_owned),
        }))
    };
    builder = match keys {
        KeysFrom::Nobody => builder.with_skip_signature(true).with_credentials(fixed("", "", None)),
        KeysFrom::Session(Keys::S3 { key_id, secret_key, token, .. }) => {
            let token = token.as_ref().map(super::super::policy::Secret::reveal);
            builder.with_credentials(fixed(key_id, secret_key.reveal(), token))
        }
        KeysFrom::Session(_) => return Err(no_fit()),
        KeysFrom::File => {
            let profile = options.profile.clone().unwrap_or_else(|| "default".to_owned());
            let file = FileCredentials::open(file_of(options)?, move |text| credentials::s3(text, &profile))?;
            builder.with_credentials(Arc::new(file))
        }
        KeysFrom::Environment => {
            let with_keys = builder.clone().with_retry(retry(options, KEYS_RETRIES_MAX)).build().map_err(said)?;
            builder.with_credentials(Arc::clone(with_keys.credentials()))
        }
    };
    let built = builder.with_retry(retry(options, usize::MAX)).with_http_connector(connector).build();
    Ok(Arc::new(built.map_err(said)?))
}

fn gcs(
    name: &str,
    options: &StoreOptions,
    endpoint: Option<String>,
    keys: &KeysFrom,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, String> {
    let mut builder = match keys {
        KeysFrom::Environment => GoogleCloudStorageBuilder::from_env(),
        _ => GoogleCloudStorageBuilder::new(),
    };
    builder = builder.with_bucket_name(name).with_client_options(client_options(options));
    if let Some(endpoint) = &endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let fixed = |bearer: &str| Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: bearer.to_owned() }));
    builder = match keys {
        KeysFrom::Nobody => builder.with_skip_signature(true).with_credentials(fixed("")),
        KeysFrom::Session(Keys::Bearer(token)) => builder.with_credentials(fixed(token.reveal())),
        KeysFrom::Session(_) => return Err(no_fit()),
        KeysFrom::File | KeysFrom::Environment => {
            let mut with_keys = builder.clone().with_retry(retry(options, KEYS_RETRIES_MAX));
            if matches!(keys, KeysFrom::File) {
                with_keys = with_keys.with_service_account_key(credentials::read(file_of(options)?)?.text);
            }
            let with_keys = with_keys.build().map_err(|error| match &options.credentials_file {
                // What the library says may repeat a part of the file.
                Some(path) => format!("{} is no key of a service account as JSON; get a new one", path.display()),
                None => said(error),
            })?;
            builder.with_credentials(Arc::clone(with_keys.credentials()))
        }
    };
    let built = builder.with_retry(retry(options, usize::MAX)).with_http_connector(connector).build();
    Ok(Arc::new(built.map_err(said)?))
}

fn azure(
    name: &str,
    options: &StoreOptions,
    endpoint: Option<String>,
    keys: &KeysFrom,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, String> {
    let environment = MicrosoftAzureBuilder::from_env();
    let account = options.account.clone().or_else(|| environment.get_config_value(&AzureConfigKey::AccountName));
    let account =
        account.ok_or("no storage account is named; set account in [[origin]], or AZURE_STORAGE_ACCOUNT_NAME")?;
    let mut builder = match keys {
        KeysFrom::Environment => environment,
        _ => MicrosoftAzureBuilder::new(),
    };
    builder = builder.with_container_name(name).with_account(account).with_client_options(client_options(options));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let fixed = |credential| Arc::new(StaticCredentialProvider::new(credential));
    builder = match keys {
        KeysFrom::Nobody => {
            builder.with_skip_signature(true).with_credentials(fixed(AzureCredential::BearerToken(String::new())))
        }
        KeysFrom::Session(keys) => builder.with_credentials(fixed(azure_keys(keys)?)),
        KeysFrom::File => {
            builder.with_credentials(Arc::new(FileCredentials::open(file_of(options)?, credentials::azure)?))
        }
        KeysFrom::Environment => {
            let with_keys = builder.clone().with_retry(retry(options, KEYS_RETRIES_MAX)).build().map_err(said)?;
            builder.with_credentials(Arc::clone(with_keys.credentials()))
        }
    };
    let built = builder.with_retry(retry(options, usize::MAX)).with_http_connector(connector).build();
    Ok(Arc::new(built.map_err(said)?))
}

fn azure_keys(keys: &Keys) -> Result<AzureCredential, String> {
    match keys {
        Keys::Bearer(token) => Ok(AzureCredential::BearerToken(token.reveal().to_owned())),
        Keys::AzureKey(key) => AzureAccessKey::try_new(key.reveal())
            .map(AzureCredential::AccessKey)
            .map_err(|_| "the session's account key is not base64; copy it again".to_owned()),
        Keys::AzureSas(token) => split_sas(token.reveal())
            .map(AzureCredential::SASToken)
            .map_err(|_| "the session's shared access signature is none; copy it again".to_owned()),
        Keys::Basic { .. } | Keys::S3 { .. } => Err(no_fit()),
    }
}

fn no_fit() -> String {
    "the session's keys are of another kind".to_owned()
}

fn file_of(options: &StoreOptions) -> Result<&std::path::Path, String> {
    options.credentials_file.as_deref().ok_or_else(|| "no credentials_file is named; please report it".to_owned())
}

/// For the client that gets keys; the other is made already.
fn client_options(options: &StoreOptions) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(true)
        .with_connect_timeout(options.connect_timeout)
        .with_timeout(options.read_timeout)
}

fn retry(options: &StoreOptions, most: usize) -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(10), base: 2.0 };
    let max_retries = (options.retries as usize).min(most);
    RetryConfig { backoff, max_retries, retry_timeout: options.retry_timeout }
}

/// What the library says of settings that do not fit, as the end of a sentence.
#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn said(error: object_store::Error) -> String {
    let mut last: &dyn std::error::Error = &error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
