//! nginx with a configuration of ours, and its log of requests.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Absent, Running};
use crate::process::Program;

/// One request that was answered, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Such as `GET`.
    pub method: String,
    /// With the query.
    pub target: String,
    /// Such as 206.
    pub status: u16,
    /// Bytes of bodies that were sent.
    pub sent_bytes: u64,
    /// The range that was asked for, or `-`.
    pub range: String,
}

/// Starts nginx in a directory, on a configuration whose `@NAMES@` are replaced.
pub(super) fn start(directory: TempDir, configuration: &str, values: &[(&str, String)]) -> Result<Running, Absent> {
    let path = super::installed::system_program("nginx")?;
    let text = values.iter().fold(configuration.to_owned(), |text, (name, value)| text.replace(name, value));
    fs::write(directory.path().join("nginx.conf"), text).expect("there is room for a file");
    let prefix = directory.path().to_string_lossy().into_owned();
    // Until it has read its configuration it would log to a file of the system's.
    let arguments = ["-p", &prefix, "-c", "nginx.conf", "-e", "stderr"].map(str::to_owned).into();
    Ok(Running::start(Program { path, arguments, grace_tenths: 5, ..Program::default() }, directory))
}

/// The requests that have been answered, oldest first. nginx writes each when its answer has gone.
pub(super) fn accesses(running: &Running) -> Vec<Access> {
    let path: PathBuf = running.program.directory.join("access.log");
    let text = fs::read_to_string(path).unwrap_or_default();
    // A line that is just being written has no end yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(access).collect()
}

fn access(line: &str) -> Option<Access> {
    let mut fields = line.split(' ');
    let access = Access {
        method: fields.next()?.to_owned(),
        target: fields.next()?.to_owned(),
        status: fields.next()?.parse().ok()?,
        sent_bytes: fields.next()?.parse().ok()?,
        range: fields.next()?.to_owned(),
    };
    Some(access)
}
