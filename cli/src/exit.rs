//! How the command ends: one line why, and a status that a script can tell apart.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use larder::Error;

use crate::output::ReaderGone;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const NO_AGENT: u8 = 4;
const DEADLINE: u8 = 5;
const EXISTS: u8 = 6;
const DENIED: u8 = 7;

/// What was typed makes no sense, in a way that the definition of the command line cannot express.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

/// What was asked for is not there.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
impl std::error::Error for Missing {}

/// Says why on standard error, unless nobody wants to hear it, and gives the status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    // A closed standard error leaves the status to say it.
    let _ = writeln!(io::stderr(), "larder: {}", sentence(error));
    ExitCode::from(status(error))
}

/// The error and its causes on one line. Larder's own errors name their causes themselves.
fn sentence(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        if cause.is::<Error>() {
            break;
        }
    }
    parts.join(": ").replace('\n', " ")
}

fn status(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return USAGE;
        }
        if cause.is::<Missing>() {
            return NOT_FOUND;
        }
        if let Some(error) = cause.downcast_ref::<Error>() {
            return status_of(error);
        }
    }
    FAILED
}

/// The status that an error of the library means.
fn status_of(error: &Error) -> u8 {
    match error {
        Error::InvalidKey(_) => USAGE,
        Error::NotFound | Error::NoNamespace(_) => NOT_FOUND,
        Error::NoAgent { .. } => NO_AGENT,
        // A timeout of zero is a deadline that has passed before the agent could be asked.
        Error::Deadline | Error::NotResident => DEADLINE,
        Error::AlreadyExists { .. } => EXISTS,
        Error::Denied(_) => DENIED,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anyhow::Context;
    use larder_protocol::key::KeyError;

    use super::*;

    #[test]
    fn each_kind_has_its_status_also_behind_context() {
        let no_agent =
            || Error::NoAgent { socket: "/s".into(), source: Arc::new(io::Error::from(io::ErrorKind::NotFound)) };
        for (error, expected) in [
            (Error::Invalid("options contradict".into()), FAILED),
            (Error::TooLarge { len_bytes: 2, limit_bytes: 1 }, FAILED),
            (Error::InvalidKey(KeyError::Empty), USAGE),
            (Error::NotFound, NOT_FOUND),
            (Error::NoNamespace("a".into()), NOT_FOUND),
            (no_agent(), NO_AGENT),
            (Error::Deadline, DEADLINE),
            (Error::NotResident, DEADLINE),
            (Error::AlreadyExists { held_bytes: 1, offered_bytes: 2 }, EXISTS),
            (Error::Denied("no".into()), DENIED),
        ] {
            assert_eq!(status(&error.clone().into()), expected, "{error}");
            assert_eq!(status(&anyhow::Error::new(error).context("key \"a\"")), expected);
        }
        assert_eq!(status(&Usage("no".into()).into()), USAGE);
        assert_eq!(status(&Missing("no".into()).into()), NOT_FOUND);
        assert_eq!(status(&anyhow::anyhow!("else")), FAILED);
        let printed = sentence(&no_agent().into());
        assert_eq!(printed.matches("entity not found").count(), 1, "{printed}");
    }

    #[test]
    fn causes_are_on_one_line() {
        let error = Err::<(), _>(io::Error::other("first\nsecond")).context("cannot open a").unwrap_err();
        assert_eq!(sentence(&error), "cannot open a: first second");
        assert_eq!(sentence(&anyhow::Error::new(Error::NotFound).context("key \"a\"")), "key \"a\": not found");
    }
}
