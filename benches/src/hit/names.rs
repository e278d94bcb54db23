//! The names of contenders and ways that goals refer to.

pub(crate) const LMDB: &str = "LMDB";
pub(crate) const REDIS: &str = "Redis, UNIX socket";
pub(crate) const MEMCACHED: &str = "memcached, UNIX socket";

pub(crate) const DEPENDENT: &str = "dependent";
pub(crate) const LONG_SNAPSHOT: &str = "dependent, one long snapshot";
pub(crate) const SNAPSHOT_PER_GET: &str = "dependent, a snapshot per get";
