//! What an error of the library means for a store, in one sentence that no secret can get into: of what a server said
//! only its code and its message are repeated, and of a request never its URL.

use std::error::Error as _;

use object_store::Error;
use object_store::client::HttpError;

use super::StoreError;
use crate::config::{Service, StoreKind, StoreUrl};

/// Most characters of what a server said.
const SAID_CHARS_MAX: usize = 200;

/// Codes of an answer "not found" that is about the bucket and not about an object.
const NO_BUCKET: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"];

/// Codes of an answer that means: no room.
const NO_ROOM: [&str; 4] = ["QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "AccountQuotaExceeded"];

/// Where machines in a cloud ask for credentials.
const METADATA_SERVICES: [&str; 4] =
    ["169.254.169.254", "/latest/api/token", "/metadata/identity/", "/computeMetadata/"];

/// Whether there is no such object. A bucket that is not there is another matter: nothing at all would be found in it.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && !is_bucket_absent(error)
}

fn is_bucket_absent(error: &Error) -> bool {
    code(&error.to_string()).is_some_and(|code| NO_BUCKET.contains(&code))
}

/// Whether the object is not the one that was asked for, or has not the bytes that were.
pub(crate) fn is_other(error: &Error) -> bool {
    matches!(error, Error::Precondition { .. } | Error::NotModified { .. }) || status(&error.to_string()) == Some(416)
}

/// Whether the server refused before it did anything, so that nothing can have been written.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotFound { .. }
            | Error::NotImplemented { .. }
            | Error::NotSupported { .. }
            | Error::InvalidPath { .. }
    )
}

/// Whether it was the way to the server that failed, so that another try may get further.
pub(crate) fn is_transport(error: &Error) -> bool {
    http_error(error).is_some()
}

/// The error of a request.
pub(crate) fn failure(error: &Error, what: &str, name: &str, url: &StoreUrl) -> StoreError {
    let text = error.to_string();
    let cannot = format!("cannot {what} {name} in {url}");
    if METADATA_SERVICES.iter().any(|service| text.contains(service)) {
        return StoreError::Denied(format!("cannot use {url}: {}", no_credentials(url.kind())));
    }
    if matches!(error, Error::NotFound { .. }) && is_bucket_absent(error) {
        let StoreUrl::Bucket(bucket) = url else { return StoreError::Failed(cannot) };
        let what = if bucket.service == Service::Azure { "container" } else { "bucket" };
        return StoreError::Failed(format!("{cannot}: the {what} {} is not there; create it", bucket.name));
    }
    let said = said(error, &text);
    match (error, status(&text)) {
        _ if code(&text).is_some_and(|code| NO_ROOM.contains(&code)) => {
            StoreError::Full(format!("{cannot}: there is no room ({said}); make some or raise the quota"))
        }
        (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => StoreError::Denied(format!(
            "{cannot}: the server refuses it ({said}); check the credentials, what they may do with the bucket, and \
             this machine's clock"
        )),
        (Error::NotFound { .. }, _) => StoreError::Failed(format!("{cannot}: it is not there ({said})")),
        (Error::NotImplemented { .. } | Error::NotSupported { .. }, _) | (_, Some(501)) => {
            StoreError::Failed(format!("{cannot}: this kind of store cannot do that ({said})"))
        }
        (_, Some(507)) => StoreError::Full(format!("{cannot}: there is no room ({said}); make some")),
        (_, Some(429 | 500..=599)) => StoreError::Unavailable(format!("{cannot} now: the server says {said}")),
        (Error::AlreadyExists { .. }, _) => {
            StoreError::Unavailable(format!("{cannot} now: others change it at the same time ({said})"))
        }
        _ if text.contains("non-partial response") => StoreError::Failed(format!(
            "{cannot}: the server answers a read of a part with the whole object, so that it cannot be used"
        )),
        _ if said.contains("invalid peer certificate") => StoreError::Denied(format!(
            "{cannot}: the server's certificate is not trusted ({said}); add its authority to those of the system, or name \
             a file that has it in SSL_CERT_FILE"
        )),
        _ if is_transport(error) => StoreError::Unavailable(format!("{cannot} now: {said}")),
        _ => StoreError::Failed(format!("{cannot}: {said}")),
    }
}

/// What to do about credentials that are nowhere.
fn no_credentials(kind: StoreKind) -> String {
    let variables = match kind {
        StoreKind::Bucket(Service::Gcs) => "GOOGLE_APPLICATION_CREDENTIALS",
        StoreKind::Bucket(Service::Azure) => "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        _ => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    };
    format!(
        "no credentials are set, and this machine has no metadata service that gives any; set {variables} in the \
         environment, or credentials_file in [store_options]"
    )
}

/// The error of the way to the server, if it was that.
fn http_error(error: &Error) -> Option<&HttpError> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

/// What the server, or the way to it, said.
fn said(error: &Error, text: &str) -> String {
    if let Some(error) = http_error(error) {
        let mut last: &dyn std::error::Error = error;
        while let Some(source) = last.source() {
            last = source;
        }
        return excerpt(&last.to_string());
    }
    match (code(text), between(text, "<Message>", "</Message>"), status(text)) {
        (Some(code), Some(message), _) => excerpt(&format!("{code}: {message}")),
        (Some(code), None, _) => excerpt(code),
        (None, _, Some(status)) => format!("status {status}"),
        // Of the library itself, about what it got; none of these has a URL with a query in it.
        (None, _, None) => {
            let mut last: &dyn std::error::Error = error;
            while let Some(source) = last.source() {
                last = source;
            }
            excerpt(&last.to_string())
        }
    }
}

/// The status of the answer, from the library's text: it keeps the number to itself.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The code in an answer of any of the protocols.
fn code(text: &str) -> Option<&str> {
    between(text, "<Code>", "</Code>")
}

fn between<'a>(text: &'a str, before: &str, behind: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(behind).map(|(found, _)| found.trim())
}

/// The start of a text, as one line and without what may be a signed URL.
fn excerpt(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !word.contains('?') && !word.contains("sig="));
    let line = words.collect::<Vec<_>>().join(" ");
    let mut shown: String = line.chars().filter(|character| !character.is_control()).take(SAID_CHARS_MAX).collect();
    if line.chars().count() > SAID_CHARS_MAX {
        shown.push_str("...");
    }
    shown.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpErrorKind;

    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    fn answer(status: &str, code: &str) -> String {
        format!(
            "Error performing PUT http://h/b/k?X-Amz-Signature=geheim in 1s - Server returned non-2xx status code: {status}: \
             <?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>What\n it says.</Message><Key>geheim</Key></Error>"
        )
    }

    #[test]
    fn each_answer_has_its_kind_and_sentence() {
        let url: StoreUrl = "s3://bucket/p".parse().unwrap();
        let of = |error: &Error| failure(error, "write", "a/b", &url);
        let source = |text: String| Box::<dyn std::error::Error + Send + Sync>::from(text);
        let path = || "a/b".to_owned();
        assert_eq!(
            of(&Error::PermissionDenied { path: path(), source: source(answer("403 Forbidden", "AccessDenied")) }),
            StoreError::Denied(
                "cannot write a/b in s3://bucket/p: the server refuses it (AccessDenied: What it says); check the \
                 credentials, what they may do with the bucket, and this machine's clock"
                    .into()
            )
        );
        assert_eq!(
            of(&Error::NotFound { path: path(), source: source(answer("404 Not Found", "NoSuchBucket")) }),
            StoreError::Failed("cannot write a/b in s3://bucket/p: the bucket bucket is not there; create it".into())
        );
        assert_eq!(
            of(&generic(&answer("503 Slow", "SlowDown"))),
            StoreError::Unavailable(
                "cannot write a/b in s3://bucket/p now: the server says SlowDown: What it says".into()
            )
        );
        assert!(matches!(of(&generic(&answer("507 Insufficient", "Other"))), StoreError::Full(_)));
        assert!(matches!(of(&generic(&answer("403 Forbidden", "QuotaExceeded"))), StoreError::Full(_)));
        assert!(matches!(of(&generic(&answer("501 No", "NotImplemented"))), StoreError::Failed(_)));
        assert!(matches!(of(&generic(&answer("400 Bad", "InvalidRequest"))), StoreError::Failed(_)));
        let token = generic("Error performing PUT http://169.254.169.254/latest/api/token in 1s - HTTP error");
        assert!(matches!(of(&token), StoreError::Denied(why) if why.contains("AWS_ACCESS_KEY_ID")));
        let timed_out = std::io::Error::other("operation timed out");
        let way = HttpError::new(HttpErrorKind::Timeout, timed_out);
        let way = Error::Generic { store: "S3", source: Box::new(way) };
        assert!(matches!(of(&way), StoreError::Unavailable(why) if why.ends_with("operation timed out")));
        let untrusted = std::io::Error::other("invalid peer certificate: UnknownIssuer");
        let way = HttpError::new(HttpErrorKind::Connect, untrusted);
        let way = Error::Generic { store: "S3", source: Box::new(way) };
        assert!(matches!(of(&way), StoreError::Denied(why) if why.contains("SSL_CERT_FILE")));
    }

    #[test]
    fn nothing_of_a_request_but_its_name_is_repeated() {
        let url: StoreUrl = "az://container".parse().unwrap();
        for text in [answer("500 Oh", "X"), answer("400 Oh", "X"), "at http://h/c?sig=geheim".to_owned()] {
            let said = failure(&generic(&text), "read", "a", &url).to_string();
            assert!(!said.contains("geheim") && said.lines().count() == 1, "{said}");
        }
    }

    #[test]
    fn a_missing_bucket_is_no_missing_object() {
        let of = |code: &str| Error::NotFound { path: String::new(), source: answer("404 Not Found", code).into() };
        assert!(is_absent(&of("NoSuchKey")) && !is_absent(&of("NoSuchBucket")) && !is_absent(&of("ContainerNotFound")));
        assert!(is_other(&generic(&answer("416 Range", "InvalidRange"))) && !is_other(&generic("x")));
    }
}
