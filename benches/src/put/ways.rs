//! The ways in which Larder is put to, as the rows and the goals name them.

pub(crate) const PUT: &str = "put, blocking waits";
pub(crate) const PUT_SPIN: &str = "put, --spin";
pub(crate) const PUT_MANY: &str = "put_many, blocking waits";
pub(crate) const PUT_MANY_SPIN: &str = "put_many, --spin";
pub(crate) const WRITER: &str = "Writer, filled by a copy";
