//! What happens when there is no agent.

use std::env;
use std::ffi::OsStr;

use crate::Error;

/// What a client does while there is no agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAbsent {
    /// Calls fail with [`Error::NoAgent`].
    #[default]
    Error,
    /// Calls behave as with a cache that is always empty: reads are [`Error::NotFound`], puts are
    /// [`PutOutcome::NotKept`](crate::PutOutcome::NotKept), lists have nothing. At most once a second a call looks
    /// whether an agent is there again.
    Direct,
}

impl OnAbsent {
    /// What the environment variable `LARDER_ON_ABSENT` says, [`OnAbsent::Error`] where it is not set.
    pub fn from_environment() -> Result<OnAbsent, Error> {
        env::var_os("LARDER_ON_ABSENT").map_or(Ok(OnAbsent::Error), |value| OnAbsent::parse(&value))
    }

    fn parse(value: &OsStr) -> Result<OnAbsent, Error> {
        match value.to_str() {
            Some("error") => Ok(OnAbsent::Error),
            Some("direct") => Ok(OnAbsent::Direct),
            _ => Err(Error::Invalid(format!("LARDER_ON_ABSENT is {value:?}; it can be `error` or `direct`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_words_are_known_and_others_refused() {
        assert_eq!(OnAbsent::parse("error".as_ref()).unwrap(), OnAbsent::Error);
        assert_eq!(OnAbsent::parse("direct".as_ref()).unwrap(), OnAbsent::Direct);
        for other in ["", "Direct", "ignore"] {
            let error = OnAbsent::parse(other.as_ref()).unwrap_err();
            assert!(error.to_string().contains("`error` or `direct`"), "{error}");
        }
    }
}
