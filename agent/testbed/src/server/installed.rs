//! Where the servers' programs are.

use std::path::{Path, PathBuf};

use std::fmt;

/// Why a server cannot be started here: its program is not installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent(String);

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not installed; scripts/servers installs it", self.0)
    }
}

impl std::error::Error for Absent {}

/// A program that `scripts/servers` installs, by its path there.
pub(super) fn program(path: &str) -> Result<PathBuf, Absent> {
    let beside = std::env::current_exe().ok();
    let found = beside.iter().flat_map(|test| test.ancestors()).map(|above| above.join("servers").join(path));
    found.into_iter().find(|program| program.is_file()).ok_or_else(|| absent(path))
}

/// A program of the system.
pub(super) fn system_program(name: &str) -> Result<PathBuf, Absent> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    directories.map(|directory| directory.join(name)).find(|program| program.is_file()).ok_or_else(|| absent(name))
}

fn absent(path: &str) -> Absent {
    let name = Path::new(path).file_name().unwrap_or_default();
    Absent(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_named_with_what_to_do() {
        let sentence = "no-such-server is not installed; scripts/servers installs it";
        assert_eq!(program("bin/no-such-server").unwrap_err().to_string(), sentence);
        assert_eq!(system_program("no-such-server").unwrap_err().to_string(), sentence);
        assert!(system_program("sh").unwrap().is_absolute());
    }
}
