//! How an origin is reached: with which patience, through which limits, over which client.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use object_store::{CredentialProvider, ObjectStore};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::redirect;
use tokio::sync::OwnedSemaphorePermit;

use super::address::{Reach, Resolver};
use super::failure::OriginError;
use super::policy::{Keys, Secret};
use super::url::Place;
use crate::config::StoreOptions;
use crate::store::remote::credentials::{FileCredentials, setting};
use crate::store::remote::limits::Limits;

/// What the agent calls itself.
const USER_AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));

/// The way to the URLs of one rule, or to all that no rule describes.
pub(super) struct Route {
    pub(super) reach: Arc<Reach>,
    pub(super) options: StoreOptions,
    /// Whether no keys of the agent are used for what is listed.
    pub(super) is_anonymous: bool,
    /// A proxy to go through.
    proxy: Option<String>,
    /// Keys that the site gives, for servers.
    keys: Option<FileCredentials<Keys>>,
    /// Clients of buckets.
    pub(super) stores: tokio::sync::Mutex<HashMap<Place, Arc<dyn ObjectStore>>>,
    /// Made when it is first needed: it reads the certificates of the system.
    client: OnceLock<Result<reqwest::Client, String>>,
    /// One line for each origin.
    limits: Mutex<HashMap<Place, Limits>>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The clients would print their keys.
        f.debug_struct("Route").field("reach", &self.reach).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Route {
    pub(super) fn new(reach: Reach, options: StoreOptions, proxy: Option<String>) -> Route {
        Route {
            reach: Arc::new(reach),
            options,
            is_anonymous: false,
            proxy,
            keys: None,
            stores: tokio::sync::Mutex::default(),
            client: OnceLock::new(),
            limits: Mutex::new(HashMap::new()),
        }
    }

    /// Without keys of the agent.
    pub(super) fn anonymous(self) -> Route {
        Route { is_anonymous: true, ..self }
    }

    /// With the keys that the site has in a file, if it names one. Blocks: reads the file.
    pub(super) fn with_keys(self) -> Result<Route, String> {
        let Some(path) = &self.options.credentials_file else { return Ok(self) };
        let keys = Some(FileCredentials::open(path, keys_in)?);
        Ok(Route { keys, ..self })
    }

    /// The keys that the site gives.
    pub(super) async fn keys(&self) -> Result<Option<Keys>, OriginError> {
        let Some(keys) = &self.keys else { return Ok(None) };
        let found = keys.get_credential().await;
        let found = found.map_err(|_| OriginError::Failed("the site's credentials cannot be read".to_owned()))?;
        Ok(Some((*found).clone()))
    }

    /// The client that all requests of this way go through.
    pub(super) fn client(&self) -> Result<&reqwest::Client, OriginError> {
        let made = self.client.get_or_init(|| self.make_client());
        made.as_ref().map_err(|why| OriginError::Failed(format!("the agent cannot make requests: {why}")))
    }

    fn make_client(&self) -> Result<reqwest::Client, String> {
        let identity = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(identity)
            .http1_only()
            // Each redirect is looked at as a request of its own.
            .redirect(redirect::Policy::none())
            // A proxy would look names up, and connect, where nobody checks the address.
            .no_proxy()
            .referer(false)
            .dns_resolver(Resolver(Arc::clone(&self.reach)))
            .connect_timeout(self.options.connect_timeout)
            .read_timeout(self.options.read_timeout)
            .pool_max_idle_per_host(self.options.concurrency as usize);
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(|error| error.without_url().to_string())?);
        }
        builder.build().map_err(|error| error.without_url().to_string())
    }

    /// Waits until another request to an origin may begin.
    pub(super) async fn turn(&self, place: &Place) -> OwnedSemaphorePermit {
        let limits = {
            let mut all = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= PLACES_MAX && !all.contains_key(place) {
                all.retain(|_, limits| limits.under_way() > 0);
            }
            let new = || Limits::new(self.options.concurrency, self.options.requests_per_second);
            all.entry(place.clone()).or_insert_with(new).clone()
        };
        limits.request().await
    }
}

/// Origins whose limits are remembered while nothing is asked of them.
const PLACES_MAX: usize = 256;

/// One line with a token, or one each with a user and a password. The error repeats nothing of it.
fn keys_in(text: &str) -> Result<Keys, String> {
    const FORM: &str = "must have one line bearer_token = TOKEN, or two, user = NAME and password = PASSWORD";
    let (mut token, mut user, mut password) = (None, None, None);
    for line in text.lines() {
        match setting(line) {
            Some(("bearer_token", value)) => token = Some(value),
            Some(("user", value)) => user = Some(value),
            Some(("password", value)) => password = Some(value),
            Some(_) => return Err(FORM.to_owned()),
            None => {}
        }
    }
    match (token, user, password) {
        (Some(token), None, None) => Ok(Keys::Bearer(Secret::new(token))),
        (None, Some(user), Some(password)) => {
            Ok(Keys::Basic { user: user.to_owned(), password: Secret::new(password) })
        }
        _ => Err(FORM.to_owned()),
    }
}
