//! Real object stores.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use larder_testbed::server::{Azurite, BUCKET, GcsFacade, Moto, SeaweedFs, Server};
use larder_testbed::{Fault, FaultProxy, Rule};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};

use super::{OTHER, OWN, anybody, listed, open, options, origins, pattern, read};
use crate::config::{ListedOrigin, StoreOptions};
use crate::origin::policy::{Keys, Secret};
use crate::origin::{Caller, OriginError, SessionCredential, Validity};

const LEN: usize = 300_000;

/// A bucket to be written by a test, and how a site would list it.
struct Bucket {
    writer: Arc<dyn ObjectStore>,
    listed: ListedOrigin,
    /// Where its URLs begin.
    url: String,
    variables: HashMap<String, String>,
    /// Keys in a file, for as long as it is used.
    _file: Option<tempfile::NamedTempFile>,
}

impl Bucket {
    fn of(server: &dyn Server) -> Bucket {
        let store = server.store("");
        let variables: HashMap<String, String> = store.environment.into_iter().collect();
        let url = store.url.trim_end_matches('/').to_owned();
        let (scheme, bucket) = url.split_once("://").unwrap();
        let client = ClientOptions::new().with_allow_http(true);
        let of = |name: &str| variables[name].clone();
        let address = format!("http://{}", server.address());
        let mut options = StoreOptions { allow_http: true, endpoint: Some(address.clone()), ..options() };
        let (writer, keys): (Arc<dyn ObjectStore>, _) = match scheme {
            "s3" => {
                let (id, secret) = (of("AWS_ACCESS_KEY_ID"), of("AWS_SECRET_ACCESS_KEY"));
                let builder = AmazonS3Builder::new().with_bucket_name(bucket).with_endpoint(address);
                let builder = builder.with_access_key_id(&id).with_secret_access_key(&secret);
                let keys = format!("[site]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
                options.profile = Some("site".to_owned());
                (Arc::new(builder.with_client_options(client).build().unwrap()), Some(keys))
            }
            "az" => {
                let (account, key) = (of("AZURE_STORAGE_ACCOUNT_NAME"), of("AZURE_STORAGE_ACCOUNT_KEY"));
                options.account = Some(account.clone());
                options.endpoint = Some(of("AZURE_STORAGE_ENDPOINT"));
                let builder = MicrosoftAzureBuilder::new().with_account(account).with_access_key(&key);
                let builder = builder.with_container_name(bucket).with_endpoint(of("AZURE_STORAGE_ENDPOINT"));
                let keys = format!("account_key = {key}\n");
                (Arc::new(builder.with_client_options(client).build().unwrap()), Some(keys))
            }
            _ => {
                let account = of("GOOGLE_SERVICE_ACCOUNT_KEY");
                let builder = GoogleCloudStorageBuilder::new().with_service_account_key(account);
                let builder = builder.with_bucket_name(bucket).with_client_options(client);
                (Arc::new(builder.build().unwrap()), None)
            }
        };
        let file = keys.map(|keys| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(keys.as_bytes()).unwrap();
            file
        });
        options.credentials_file = file.as_ref().map(|file| file.path().to_owned());
        let is_anonymous = file.is_none();
        let listed = ListedOrigin { options, is_anonymous, ..listed(&format!("{url}/public/")) };
        Bucket { writer, listed, url, variables, _file: file }
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.writer.put(&Path::parse(key).unwrap(), bytes.into()).await.unwrap();
    }
}

/// What holds for every kind of bucket.
async fn is_read_like_any_origin(server: &dyn Server) {
    let bucket = Bucket::of(server);
    let origins = origins(vec![bucket.listed.clone()]);
    let bytes = pattern(LEN);
    bucket.put("public/a b%c/\u{fc}", bytes.clone()).await;
    bucket.put("public/empty", Vec::new()).await;
    bucket.put("secret/a", bytes.clone()).await;
    let url = format!("{}/public/a%20b%25c/%C3%BC", bucket.url);

    let source = open(&origins, &url, 10).await.unwrap().unwrap();
    assert_eq!((source.len_bytes, &source.first[..], source.is_ranged), (LEN as u64, &bytes[..10], true));
    let (one, two) = tokio::join!(read(&source, 10, 200_000), read(&source, 200_010, LEN - 200_010));
    assert!(one.unwrap() == bytes[10..200_010] && two.unwrap() == bytes[200_010..]);
    assert!(open(&origins, &url, usize::MAX >> 1).await.unwrap().unwrap().first == bytes);
    let version = source.version.clone().unwrap();
    assert_eq!(origins.check(&anybody(), &url, &version).await, Ok(Validity::Same));

    let empty = open(&origins, &format!("{}/public/empty", bucket.url), 10).await.unwrap().unwrap();
    assert_eq!((empty.len_bytes, empty.first.len()), (0, 0));
    assert!(open(&origins, &format!("{}/public/nothing", bucket.url), 10).await.unwrap().is_none());
    for hidden in ["secret/a", "public/../secret/a", "publicity"] {
        let error = open(&origins, &format!("{}/{hidden}", bucket.url), 10).await.unwrap_err();
        assert!(matches!(error, OriginError::Denied(_)), "{hidden}: {error:?}");
    }

    // The same length, and other bytes.
    bucket.put("public/a b%c/\u{fc}", vec![7; LEN]).await;
    assert!(matches!(read(&source, 10, 1000).await, Err(OriginError::Changed(_))));
    assert_eq!(origins.check(&anybody(), &url, &version).await, Ok(Validity::Changed));
    let now = open(&origins, &url, 10).await.unwrap().unwrap();
    assert!(now.version != source.version && read(&now, 0, LEN).await.unwrap() == vec![7; LEN]);
    bucket.writer.delete(&Path::parse("public/a b%c/\u{fc}").unwrap()).await.unwrap();
    assert!(matches!(read(&now, 10, 1000).await, Err(OriginError::Changed(_))));
    assert_eq!(origins.check(&anybody(), &url, &version).await, Ok(Validity::Gone));
}

#[tokio::test]
async fn a_bucket_of_s3_is_read_like_any_origin() {
    match SeaweedFs::start() {
        Ok(server) => is_read_like_any_origin(&server).await,
        Err(absent) => println!("SKIPPED: {absent}"),
    }
    match Moto::start() {
        Ok(server) => is_read_like_any_origin(&server).await,
        Err(absent) => println!("SKIPPED: {absent}"),
    }
}

#[tokio::test]
async fn a_bucket_of_gcs_is_read_like_any_origin() {
    match GcsFacade::start() {
        Ok(server) => is_read_like_any_origin(&server).await,
        Err(absent) => println!("SKIPPED: {absent}"),
    }
}

#[tokio::test]
async fn a_container_of_azure_is_read_like_any_origin() {
    match Azurite::start() {
        Ok(server) => is_read_like_any_origin(&server).await,
        Err(absent) => println!("SKIPPED: {absent}"),
    }
}

#[tokio::test]
async fn keys_of_a_session_open_what_they_are_for_and_nothing_of_this_machine() {
    let server = match SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => return println!("SKIPPED: {absent}"),
    };
    let bucket = Bucket::of(&server);
    bucket.put("mine/a", pattern(100)).await;
    let keys = |secret: &str, endpoint: Option<String>| {
        let keys = Keys::S3 {
            key_id: bucket.variables["AWS_ACCESS_KEY_ID"].clone(),
            secret_key: Secret::new(secret),
            token: None,
            region: Some("us-east-1".to_owned()),
            endpoint,
        };
        [SessionCredential::new(&format!("s3://{BUCKET}/mine/"), keys).unwrap()]
    };
    let good = bucket.variables["AWS_SECRET_ACCESS_KEY"].clone();
    let url = format!("s3://{BUCKET}/mine/a");
    // The way to the bucket is listed, and its keys are for others.
    let options = StoreOptions { credentials_file: None, profile: None, ..bucket.listed.options.clone() };
    let way = ListedOrigin { options, is_anonymous: true, is_public: true, ..listed(&format!("s3://{BUCKET}/")) };
    let with_way = origins(vec![way]);
    let source =
        with_way.open(&Caller { uid: OTHER, credentials: &keys(&good, None) }, &url, 200).await.unwrap().unwrap();
    assert!(source.first == pattern(100) && !source.is_public);
    for text in [format!("{source:?}"), format!("{with_way:?}")] {
        assert!(!text.contains(&good), "{text}");
    }
    for credentials in [&keys("geheim", None)[..], &[]] {
        let error = with_way.open(&Caller { uid: OTHER, credentials }, &url, 200).await.unwrap_err();
        assert!(matches!(&error, OriginError::Denied(why) if !why.contains("geheim")), "{error:?}");
    }
    // A server that the session names itself gets no further than the session could.
    let nothing = origins(Vec::new());
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let endpoint = format!("http://{host}:{}", server.address().port());
        let own = keys(&good, Some(endpoint));
        for (uid, origins) in [(OTHER, &nothing), (OWN, &nothing), (OTHER, &with_way)] {
            let error = origins.open(&Caller { uid, credentials: &own }, &url, 200).await.unwrap_err();
            assert!(matches!(&error, OriginError::Denied(why) if why.contains("this machine itself")), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_bucket_that_is_open_to_all_is_read_without_keys() {
    let server = match SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => return println!("SKIPPED: {absent}"),
    };
    let bucket = Bucket::of(&server);
    bucket.put("a", pattern(10)).await;
    let options = StoreOptions { credentials_file: None, profile: None, ..bucket.listed.options.clone() };
    let anonymous = |name: &str| {
        let prefix = format!("s3://{name}/");
        ListedOrigin { options: options.clone(), is_anonymous: true, is_public: true, ..listed(&prefix) }
    };
    let origins = origins(vec![anonymous("larder-open"), anonymous(BUCKET)]);
    assert!(open(&origins, "s3://larder-open/nothing", 10).await.unwrap().is_none());
    let error = open(&origins, &format!("s3://{BUCKET}/a"), 10).await.unwrap_err();
    assert!(matches!(error, OriginError::Denied(_)), "{error:?}");
}

// The proxy has a runtime of its own, and is made where there is none yet.
#[test]
fn a_server_that_breaks_off_is_asked_for_the_rest() {
    let server = match SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => return println!("SKIPPED: {absent}"),
    };
    let proxy = FaultProxy::before(server.address());
    let bucket = Bucket::of(&server);
    let endpoint = Some(format!("http://{}", proxy.address()));
    let options = StoreOptions { endpoint, retries: 3, ..bucket.listed.options.clone() };
    let origins = origins(vec![ListedOrigin { options, ..bucket.listed.clone() }]);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        bucket.put("public/a", pattern(LEN)).await;
        let source = open(&origins, &format!("{}/public/a", bucket.url), 10).await.unwrap().unwrap();
        // More often than there are tries, each time a part of the way on.
        proxy.inject(Rule::times(Fault::CutAfter { sent_bytes: 50_000 }, 5));
        assert!(read(&source, 0, LEN).await.unwrap() == pattern(LEN));
        assert_eq!(proxy.counts().faults, 5);
        // A server whose tags are those of no object has another one each time.
        proxy.inject(Rule::always(Fault::LyingEtag));
        let error = read(&source, 0, 1000).await.unwrap_err();
        assert!(matches!(error, OriginError::Changed(_)), "{error:?}");
    });
}
