//! Why nothing came from an origin. Each is one sentence for the user, with no secret in it: of a URL never the query.

use std::error::Error;

use thiserror::Error;

use super::address::Refused;
use super::url::OriginUrl;

/// Why an origin did not give what was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum OriginError {
    /// The caller may not, or the origin does not let the agent.
    #[error("{0}")]
    Denied(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It may work later.
    #[error("{0}")]
    Unavailable(String),
    /// It is not the version that was asked for any more.
    #[error("{0} changed while it was read; open it again")]
    Changed(String),
    /// Anything else: the origin does what it must not.
    #[error("{0}")]
    Failed(String),
}

/// Whether another try of a request is worth it.
#[derive(Debug)]
pub(super) enum Stop {
    /// It is, and the origin may have said when.
    Again(OriginError, Option<std::time::Duration>),
    /// It would end the same way.
    Final(OriginError),
}

impl From<OriginError> for Stop {
    fn from(error: OriginError) -> Stop {
        Stop::Final(error)
    }
}

impl From<Refused> for OriginError {
    fn from(refused: Refused) -> OriginError {
        OriginError::Denied(format!("not fetched: {refused}"))
    }
}

/// What an error of a request or of its body means.
pub(super) fn of_request(error: reqwest::Error, url: &OriginUrl) -> Stop {
    let error = error.without_url();
    if let Some(refused) = refused(&error) {
        return Stop::Final(refused);
    }
    let mut last: &dyn Error = &error;
    while let Some(source) = last.source() {
        last = source;
    }
    if error.is_builder() {
        return Stop::Final(OriginError::Invalid(format!("{url} cannot be asked for: {last}")));
    }
    let what = if error.is_timeout() {
        "it does not answer in time".to_owned()
    } else if error.is_connect() {
        format!("it cannot be reached ({last})")
    } else {
        format!("its answer broke off ({last})")
    };
    // A certificate that is not believed will not be the next time.
    if last.to_string().contains("certificate") {
        let why = format!(
            "its certificate is not trusted ({last}); add its authority to those of this machine, or to a file that \
             SSL_CERT_FILE names in the agent's environment"
        );
        return Stop::Final(OriginError::Failed(format!("cannot fetch {url}: {why}")));
    }
    Stop::Again(OriginError::Unavailable(format!("cannot fetch {url} now: {what}")), None)
}

/// The refusal of an address that is at the bottom of an error, if one is.
pub(super) fn refused(error: &dyn Error) -> Option<OriginError> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(refused) = source.downcast_ref::<Refused>() {
            return Some(refused.clone().into());
        }
        next = source.source();
    }
    None
}
