//! How a request failed, inside the crate: what the caller sees as an [`Error`], and what is tried again instead.

use larder_protocol::message::{Refusal, Reply};

use crate::Error;
use crate::deadline::Passed;

/// How a request failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The session is over: connect anew and try again.
    Lost,
    /// The agent said no.
    Refused(Refusal),
    /// Nothing more to try.
    Final(Error),
}

impl Fault {
    /// An answer that does not fit the question.
    pub(crate) fn unexpected(reply: &Reply) -> Fault {
        let mut text = format!("{reply:?}");
        text.truncate(text.floor_char_boundary(80));
        Fault::Final(Error::Agent(format!("the agent gave an answer that does not fit the question: {text}")))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Final(error)
    }
}

impl From<Passed> for Fault {
    fn from(_: Passed) -> Fault {
        Fault::Final(Error::Deadline)
    }
}

impl From<Passed> for Error {
    fn from(_: Passed) -> Error {
        Error::Deadline
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        match fault {
            Fault::Lost => Error::Busy,
            Fault::Refused(refusal) => refusal.into(),
            Fault::Final(error) => error,
        }
    }
}
