//! The engines that Larder is measured beside, each behind the least code that drives it at its own speed.

pub(crate) mod lmdb;
pub(crate) mod memcached;
pub(crate) mod redis;
pub(crate) mod segment;
pub(crate) mod socket;
