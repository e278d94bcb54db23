//! Where the agent's socket is, and whether what listens there may be trusted.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_protocol::socket;

use crate::Error;

/// Where an agent of the whole node listens.
const NODE_SOCKET: &str = "/run/larder/larder.sock";

/// Where to look, and whom to trust.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    /// What the caller or `LARDER_SOCKET` named.
    named: Option<PathBuf>,
    own_uid: u32,
    agent_uid: Option<u32>,
}

impl Discovery {
    /// Takes what the caller said, then what the environment says.
    pub(crate) fn new(socket: Option<PathBuf>, agent_uid: Option<u32>) -> Result<Discovery, Error> {
        let from_environment = || env::var_os("LARDER_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
        let agent_uid = match (agent_uid, env::var_os("LARDER_AGENT_UID")) {
            (Some(uid), _) => Some(uid),
            (None, None) => None,
            (None, Some(text)) => Some(text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
                Error::Invalid(format!("LARDER_AGENT_UID is {text:?}; it must be the number of a user"))
            })?),
        };
        // The kernel vouches for both ends of a pair with the effective user of its maker.
        let (own, _other) = UnixStream::pair()?;
        let own_uid = socket::peer(&own)?.uid;
        Ok(Discovery { named: socket.or_else(from_environment), own_uid, agent_uid })
    }

    /// The socket's path: the one that was named, else the first of the usual ones that is there.
    pub(crate) fn socket(&self) -> PathBuf {
        if let Some(named) = &self.named {
            return named.clone();
        }
        let own = env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("larder/larder.sock"));
        let last = PathBuf::from(format!("/tmp/larder-{}/larder.sock", self.own_uid));
        let usual = [Some(PathBuf::from(NODE_SOCKET)), own, Some(last)];
        usual.into_iter().flatten().find(|path| path.exists()).unwrap_or_else(|| PathBuf::from(NODE_SOCKET))
    }

    /// Connects, after a look at the socket's directory and before the first byte a look at who listens.
    pub(crate) fn connect(&self, path: &Path) -> Result<OwnedFd, Error> {
        self.check_directory(path)?;
        let no_agent = |error| Error::NoAgent { socket: path.to_owned(), source: Arc::new(error) };
        let fd = socket::connect_to(path).map_err(no_agent)?;
        let uid = socket::peer(&fd).map_err(no_agent)?.uid;
        if !self.trusts(uid) {
            return Err(Error::Impostor { uid, socket: path.to_owned() });
        }
        Ok(fd)
    }

    fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid || Some(uid) == self.agent_uid
    }

    fn check_directory(&self, path: &Path) -> Result<(), Error> {
        let directory = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        let metadata = directory
            .metadata()
            .map_err(|error: io::Error| Error::NoAgent { socket: path.to_owned(), source: Arc::new(error) })?;
        let unsafe_because = |reason| Err(Error::UnsafeDirectory { directory: directory.to_owned(), reason });
        if !self.trusts(metadata.uid()) {
            return unsafe_because(format!("belongs to user {}", metadata.uid()));
        }
        if metadata.mode() & 0o022 != 0 {
            return unsafe_because(format!("has mode {:04o}", metadata.mode() & 0o7777));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn discovery(socket: &Path) -> Discovery {
        Discovery {
            named: Some(socket.to_owned()),
            own_uid: fs::metadata("/proc/self").unwrap().uid(),
            agent_uid: None,
        }
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("larder.sock");
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            let error = discovery(&socket).connect(&socket).unwrap_err();
            assert!(matches!(&error, Error::UnsafeDirectory { reason, .. } if reason.contains(&format!("{mode:04o}"))));
        }
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(discovery(&socket).connect(&socket), Err(Error::NoAgent { .. })));
    }

    #[test]
    fn a_directory_of_a_stranger_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("larder.sock");
        let mut here = discovery(&socket);
        // Root gives the directory away; anybody else looks at it as another user would.
        let owner = if here.own_uid == 0 { 12_345 } else { here.own_uid };
        if here.own_uid == 0 {
            std::os::unix::fs::chown(directory.path(), Some(owner), None).unwrap();
        } else {
            here.own_uid += 1;
        }
        let error = here.connect(&socket).unwrap_err();
        assert!(matches!(&error, Error::UnsafeDirectory { reason, .. } if reason.contains(&owner.to_string())));
        here.agent_uid = Some(owner);
        assert!(matches!(here.connect(&socket), Err(Error::NoAgent { .. })));
    }

    #[test]
    fn root_oneself_and_the_named_user_are_trusted() {
        let here = Discovery { named: None, own_uid: 1000, agent_uid: Some(990) };
        assert_eq!([0, 1000, 990, 991].map(|uid| here.trusts(uid)), [true, true, true, false]);
        assert!(!Discovery { agent_uid: None, ..here }.trusts(990));
    }

    #[test]
    fn nobody_at_home_is_no_agent() {
        let missing = Path::new("/nonexistent/larder.sock");
        let error = discovery(missing).connect(missing).unwrap_err();
        assert!(matches!(&error, Error::NoAgent { socket, .. } if socket == missing), "{error}");
    }
}
