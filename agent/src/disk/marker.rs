//! The file `tier`: that a directory is a tier, whose files count, and how its last agent ended.
//!
//! Text of a fixed form:
//!
//! ```text
//! larder-disk 1
//! instance 0123456789abcdef
//! directory 1234567
//! boot 3f6d0a52-...
//! state open
//! checksum 0123456789abcdef
//! ```

use std::fmt::Write;
use std::fs;

use larder_protocol::checksum::crc64;

/// Begins every marker, of whatever version.
const KIND: &str = "larder-disk ";
const VERSION: &str = "1";

/// How the agent that had the tier last left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It was killed, or runs.
    Open,
    /// It ended, and what it wrote may be in the kernel's memory alone.
    Closed,
    /// It ended, and all that it wrote had reached the disk.
    Flushed,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// Names the directory of the files that count, and seeds the hashes of their names. Never used again.
    pub(super) instance: u64,
    /// Inode of the tier's directory: a copy has another.
    pub(super) directory: u64,
    /// The kernel's name for this run of the machine; empty when it is not known.
    pub(super) boot: String,
    pub(super) state: State,
}

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Whole(Marker),
    /// Nothing that larderd wrote.
    Foreign,
    OtherVersion(String),
    /// Begins as one should, and goes on otherwise.
    Damaged,
}

const STATES: [(State, &str); 3] = [(State::Open, "open"), (State::Closed, "closed"), (State::Flushed, "flushed")];

impl Marker {
    /// The file's text.
    pub(super) fn to_text(&self) -> String {
        let Marker { instance, directory, boot, state } = self;
        let state = STATES.iter().find(|(known, _)| known == state).map_or("", |(_, word)| word);
        let mut text =
            format!("{KIND}{VERSION}\ninstance {instance:016x}\ndirectory {directory}\nboot {boot}\nstate {state}\n");
        let checksum = crc64(text.as_bytes());
        writeln!(text, "checksum {checksum:016x}").expect("a string takes whatever is written to it");
        text
    }

    /// Reads a file's text. There is one text for a marker and everything else is damage.
    pub(super) fn read(text: &str) -> Read {
        let Some(rest) = text.strip_prefix(KIND) else { return Read::Foreign };
        let version = rest.lines().next().unwrap_or_default();
        if version != VERSION {
            return Read::OtherVersion(version.chars().take(20).collect());
        }
        let value = |line: usize, key: &str| text.lines().nth(line)?.strip_prefix(key)?.strip_prefix(' ');
        let marker = || {
            let state = value(4, "state")?;
            Some(Marker {
                instance: u64::from_str_radix(value(1, "instance")?, 16).ok()?,
                directory: value(2, "directory")?.parse().ok()?,
                boot: value(3, "boot")?.to_owned(),
                state: STATES.iter().find(|(_, word)| *word == state)?.0,
            })
        };
        marker().filter(|marker| marker.to_text() == text).map_or(Read::Damaged, Read::Whole)
    }

    /// Whether the files of this instance are as their agent left them: nothing that it removed can have come back, and
    /// nothing that it wrote can be missing.
    pub(super) fn is_trusted(&self, directory: u64, boot: &str) -> bool {
        let is_same_run = !boot.is_empty() && self.boot == boot;
        self.directory == directory && (is_same_run || self.state == State::Flushed)
    }
}

/// The kernel's name for this run of the machine; empty when it does not say.
pub(super) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let text = text.trim();
    if text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic()) { text.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(state: State) -> Marker {
        Marker { instance: 0xabc, directory: 77, boot: "run-1".to_owned(), state }
    }

    #[test]
    fn a_marker_is_read_back_and_everything_else_is_not_one() {
        for (state, _) in STATES {
            let marker = marker(state);
            let text = marker.to_text();
            assert_eq!(Marker::read(&text), Read::Whole(marker));
            for at in KIND.len() + 2..text.len() {
                let mut bad = text.clone().into_bytes();
                bad[at] ^= 1;
                assert_eq!(Marker::read(&String::from_utf8(bad).unwrap()), Read::Damaged, "byte {at}");
                assert_eq!(Marker::read(&text[..at]), Read::Damaged, "{at} bytes");
            }
            assert_eq!(Marker::read(&format!("{text}\n")), Read::Damaged);
            assert_eq!(Marker::read(&text.replace("disk 1", "disk 2")), Read::OtherVersion("2".to_owned()));
        }
        assert_eq!(Marker::read("notes"), Read::Foreign);
        assert_eq!(Marker::read(""), Read::Foreign);
    }

    #[test]
    fn trust_needs_the_same_run_of_the_machine_or_a_flush() {
        for (state, in_other_run) in [(State::Open, false), (State::Closed, false), (State::Flushed, true)] {
            assert!(marker(state).is_trusted(77, "run-1"));
            assert!(!marker(state).is_trusted(78, "run-1"), "a copy");
            assert_eq!(marker(state).is_trusted(77, "run-2"), in_other_run);
            let unknown = Marker { boot: String::new(), ..marker(state) };
            assert_eq!(unknown.is_trusted(77, ""), in_other_run);
        }
    }

    #[test]
    fn this_run_of_the_machine_has_a_name() {
        assert!(boot_id().len() >= 32, "{:?}", boot_id());
    }
}
