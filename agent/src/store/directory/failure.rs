//! What an error of the file system means for a store.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::StoreError;

/// The error of a call, in one sentence.
pub(super) fn failure(error: Errno, what: &str, path: &Path) -> StoreError {
    let path = path.display();
    let said = error.desc();
    match error {
        Errno::ENOSPC => StoreError::Full(format!("cannot {what} {path}: its file system is full; make room")),
        Errno::EDQUOT => {
            StoreError::Full(format!("cannot {what} {path}: the agent's user is over its quota there; raise it"))
        }
        Errno::EROFS => StoreError::Denied(format!("cannot {what} {path}: it is mounted read-only")),
        Errno::EACCES | Errno::EPERM => StoreError::Denied(format!(
            "cannot {what} {path}: {said}; let the agent's user read and write the store's directory"
        )),
        error if may_pass(error) => StoreError::Unavailable(format!("cannot {what} {path} now: {said}")),
        Errno::ENOTDIR | Errno::ELOOP => StoreError::Failed(format!(
            "cannot {what} {path}: a part of it is a symbolic link or no directory, which the store never made"
        )),
        _ => StoreError::Failed(format!("cannot {what} {path}: {said}")),
    }
}

/// The same for an error of the standard library.
pub(super) fn of_io(error: &io::Error, what: &str, path: &Path) -> StoreError {
    match error.raw_os_error() {
        Some(number) => failure(Errno::from_raw(number), what, path),
        None => StoreError::Failed(format!("cannot {what} {}: {error}", path.display())),
    }
}

/// Whether the same call may work later: a server that is away, an evicted client, too many open files.
fn may_pass(error: Errno) -> bool {
    matches!(
        error,
        Errno::EIO
            | Errno::ESTALE
            | Errno::ETIMEDOUT
            | Errno::EINTR
            | Errno::EAGAIN
            | Errno::EBUSY
            | Errno::ENOMEM
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::EREMOTEIO
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::ECONNREFUSED
            | Errno::ECONNRESET
            | Errno::ECONNABORTED
            | Errno::ENOTCONN
            | Errno::ESHUTDOWN
    )
}
