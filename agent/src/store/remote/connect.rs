//! From a URL and options to clients.
//!
//! Each store has two: reading and writing need other patience. A read may take long as long as something comes; while a
//! body is sent nothing comes back at all, so a write has a time limit as a whole.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, HeaderValue, ObjectStore, RetryConfig};

use super::buffers::Buffers;
use super::credentials::{self, FileCredentials};
use super::limits::Limits;
use super::list::Order;
use super::{Place, StoreError};
use crate::config::{Bucket, Service, StoreOptions, StoreUrl};

/// How the library waits between tries.
const BACKOFF: BackoffConfig =
    BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(10), base: 2.0 };

/// Tries again when a store is asked for the first time: whoever starts an agent waits for the answer.
const FIRST_RETRIES_MAX: usize = 2;

/// What the agent calls itself.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")));

/// A store that has not been asked for anything.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) place: Place,
    /// For the first request.
    pub(super) first: Arc<dyn ObjectStore>,
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Read,
    Write,
    First,
}

/// The clients of a store, by use.
type Clients = [Arc<dyn ObjectStore>; 3];

/// Makes the clients of a store. Blocks: reads files.
pub(super) fn connect(url: &StoreUrl, options: &StoreOptions) -> Result<Connected, StoreError> {
    let (made, prefix) = match url {
        StoreUrl::Directory(_) => {
            return Err(StoreError::Failed(format!("{url} is a directory and no object store; please report it")));
        }
        StoreUrl::Memory => {
            let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            (Ok([Arc::clone(&memory), Arc::clone(&memory), memory]), "")
        }
        StoreUrl::Bucket(bucket) => {
            let made = match bucket.service {
                Service::S3 => s3(bucket, options),
                Service::Gcs => gcs(bucket, options),
                Service::Azure => azure(bucket, options),
            };
            (made, bucket.prefix.as_str())
        }
    };
    let [reads, writes, first] = made.map_err(|why| StoreError::Failed(format!("cannot use {url}: {why}")))?;
    let place = Place {
        reads,
        writes,
        prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
        url: url.clone(),
        limits: Limits::new(options.concurrency, options.requests_per_second),
        retries: options.retries,
        buffers: Buffers::new(),
        order: Order::default(),
    };
    Ok(Connected { place, first })
}

fn s3(bucket: &Bucket, options: &StoreOptions) -> Result<Clients, String> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&bucket.name)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // Every server knows how to delete one object.
        .with_disable_bulk_delete(true);
    // Not every server compares the hash that a request is signed with; a checksum it does compare.
    if builder.get_config_value(&AmazonS3ConfigKey::Checksum).is_none() {
        builder = builder.with_checksum_algorithm(Checksum::CRC64NVME);
    }
    if let Some(endpoint) = &options.endpoint {
        // The environment may name one for S3 alone, which would count more than another.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(path) = &options.credentials_file {
        let profile = options.profile.clone().unwrap_or_else(|| "default".to_owned());
        let file = FileCredentials::open(path, move |text| credentials::s3(text, &profile))?;
        builder = builder.with_credentials(Arc::new(file));
    } else if options.profile.is_some() {
        return Err("profile names a part of a file: set credentials_file too".to_owned());
    }
    let build = |builder: &AmazonS3Builder, what| {
        let client = client_options("AWS_", options, what);
        builder.clone().with_client_options(client).with_retry(retry(options, what)).build().map_err(said)
    };
    let reads = build(&builder, Use::Read)?;
    // One provider for all, so that a token is fetched once.
    let builder = builder.with_credentials(Arc::clone(reads.credentials()));
    Ok([Arc::new(reads), Arc::new(build(&builder, Use::Write)?), Arc::new(build(&builder, Use::First)?)])
}

fn gcs(bucket: &Bucket, options: &StoreOptions) -> Result<Clients, String> {
    // With a file nothing of the environment counts: two keys of service accounts would be refused.
    let is_given = options.credentials_file.is_some();
    let builder = if is_given { GoogleCloudStorageBuilder::new() } else { GoogleCloudStorageBuilder::from_env() };
    let mut builder = builder.with_bucket_name(&bucket.name);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(path) = &options.credentials_file {
        builder = builder.with_service_account_key(credentials::read(path)?.text);
    }
    let build = |builder: &GoogleCloudStorageBuilder, what| {
        let client = client_options("GOOGLE_", options, what);
        let built = builder.clone().with_client_options(client).with_retry(retry(options, what)).build();
        built.map_err(|error| match &options.credentials_file {
            // What the library says may repeat a part of the file.
            Some(path) => format!("{} is no key of a service account as JSON; get a new one", path.display()),
            None => said(error),
        })
    };
    let reads = build(&builder, Use::Read)?;
    let builder = builder.with_credentials(Arc::clone(reads.credentials()));
    Ok([Arc::new(reads), Arc::new(build(&builder, Use::Write)?), Arc::new(build(&builder, Use::First)?)])
}

fn azure(bucket: &Bucket, options: &StoreOptions) -> Result<Clients, String> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(&bucket.name);
    if let Some(account) = &options.account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(path) = &options.credentials_file {
        builder = builder.with_credentials(Arc::new(FileCredentials::open(path, credentials::azure)?));
    }
    let is_set = |key| builder.get_config_value(&key).is_some();
    let is_emulator = builder.get_config_value(&AzureConfigKey::UseEmulator).as_deref() == Some("true");
    if !is_set(AzureConfigKey::AccountName) && !is_emulator {
        return Err("no storage account is named; set account in [store_options], or AZURE_STORAGE_ACCOUNT_NAME".into());
    }
    let build = |builder: &MicrosoftAzureBuilder, what| {
        let client = client_options("AZURE_", options, what);
        builder.clone().with_client_options(client).with_retry(retry(options, what)).build().map_err(said)
    };
    let reads = build(&builder, Use::Read)?;
    let builder = builder.with_credentials(Arc::clone(reads.credentials()));
    Ok([Arc::new(reads), Arc::new(build(&builder, Use::Write)?), Arc::new(build(&builder, Use::First)?)])
}

/// Time limits, and what the environment says of the way to the server. Other variables of a client would undo the limits.
fn client_options(variables: &str, options: &StoreOptions, what: Use) -> ClientOptions {
    let mut client = ClientOptions::new()
        .with_user_agent(USER_AGENT)
        .with_connect_timeout(options.connect_timeout)
        .with_pool_max_idle_per_host(options.concurrency as usize);
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str().and_then(|name| name.strip_prefix(variables)), value.to_str())
        else {
            continue;
        };
        if let Ok(key) = name.to_ascii_lowercase().parse::<ClientConfigKey>()
            && is_of_the_way(key)
        {
            client = client.with_config(key, value);
        }
    }
    if options.allow_http {
        client = client.with_allow_http(true);
    }
    match what {
        Use::Read | Use::First => client.with_timeout_disabled().with_read_timeout(options.read_timeout),
        Use::Write => client.with_timeout(options.write_timeout),
    }
}

fn is_of_the_way(key: ClientConfigKey) -> bool {
    use ClientConfigKey::{AllowHttp, ProxyCaCertificate, ProxyExcludes, ProxyUrl};
    matches!(key, AllowHttp | ProxyUrl | ProxyCaCertificate | ProxyExcludes)
}

fn retry(options: &StoreOptions, what: Use) -> RetryConfig {
    let max_retries = options.retries as usize;
    let max_retries = if what == Use::First { max_retries.min(FIRST_RETRIES_MAX) } else { max_retries };
    RetryConfig { backoff: BACKOFF, max_retries, retry_timeout: options.retry_timeout }
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
