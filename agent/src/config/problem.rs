//! What can be wrong with a configuration: one sentence each, that says what is wrong and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use larder_protocol::units::ByteSize;

use super::cpu_list::format_cpu_list;
use super::source::{Given, excerpt, shown_path};
use super::store_url::StoreKind;
use super::value::ValueError;
use super::{CAPACITY_MIN, HUGE_PAGE, HugePages, MEMORY_LEFT_TO_SYSTEM};

/// A configuration that cannot be used, with everything that is wrong with it.
///
/// It prints as the first problem and a count of the others; [`ConfigError::problems`] has them all.
#[derive(Debug)]
pub struct ConfigError {
    /// Never empty.
    problems: Vec<Problem>,
}

impl ConfigError {
    /// The error of these problems; `None` where there are none.
    pub(super) fn of(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self { problems })
    }

    /// Every problem, at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.problems[0])?;
        match self.problems.len() - 1 {
            0 => Ok(()),
            1 => f.write_str(" (and one more problem, which --check-config shows)"),
            others => write!(f, " (and {others} more problems, which --check-config shows)"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", shown_path(.path))]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not TOML, or a table stands where a value belongs.
    #[error("line {line} of {}: {detail}", shown_path(.path))]
    FileSyntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        detail: String,
    },
    /// The file has a key that means nothing.
    #[error("line {line} of {}: there is no key {key:?}: {advice}", shown_path(.path))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, shortened.
        key: String,
        /// The key that may have been meant, or all there are.
        advice: KeyAdvice,
    },
    /// A key of the file holds a list, a table or a date.
    #[error("line {line} of {}: {key} takes no list, table or date: write one text, such as {key} = \"...\"", shown_path(.path))]
    NotScalar {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: &'static str,
    },
    /// A value means nothing.
    #[error("{given}: {error}")]
    Value {
        /// The value.
        given: Given,
        /// Why it means nothing.
        error: ValueError,
    },
    /// A value is a number or size, but not a possible one.
    #[error("{given} is out of range: give at least {min} and at most {max}")]
    OutOfRange {
        /// The value.
        given: Given,
        /// The smallest possible.
        min: String,
        /// The largest possible.
        max: String,
    },
    /// Nobody said how much memory to use.
    #[error(
        "no capacity is set: say how much memory to use with --capacity (such as 4GiB or 50%), LARDER_CAPACITY, or \
         capacity in the configuration file"
    )]
    CapacityMissing,
    /// The capacity is below the minimum.
    #[error("{given} asks for {capacity}: ask for at least {CAPACITY_MIN}")]
    CapacityTooSmall {
        /// The capacity as given.
        given: Given,
        /// The capacity.
        capacity: ByteSize,
    },
    /// The capacity leaves the machine too little.
    #[error(
        "{given} asks for {capacity}, but the machine has {mem_total}, of which {MEMORY_LEFT_TO_SYSTEM} must be left \
         to the system: ask for at most {limit}"
    )]
    CapacityTooLarge {
        /// The capacity as given.
        given: Given,
        /// The capacity.
        capacity: ByteSize,
        /// The machine's memory.
        mem_total: ByteSize,
        /// The largest capacity that this machine allows.
        limit: ByteSize,
    },
    /// No capacity at all would fit on the machine.
    #[error(
        "the machine has {mem_total}, too little for the least capacity of {CAPACITY_MIN} beside \
         {MEMORY_LEFT_TO_SYSTEM} for the system: run larderd on a machine with more memory"
    )]
    MachineTooSmall {
        /// The machine's memory.
        mem_total: ByteSize,
    },
    /// The pool of huge pages does not hold the capacity.
    #[error(
        "{given} needs {pages_needed} pages of {HUGE_PAGE} for a capacity of {capacity}, but the pool has {pages}: set \
         vm.nr_hugepages to {pages_needed} or more, or choose thp or off"
    )]
    HugePagePoolTooSmall {
        /// The choice as given.
        given: Given,
        /// The capacity.
        capacity: ByteSize,
        /// The pages that the capacity takes.
        pages_needed: u64,
        /// The pages in the pool.
        pages: u64,
    },
    /// Huge pages do not divide the segment.
    #[error(
        "{given} is not a multiple of {HUGE_PAGE}, which huge_pages {huge_pages} needs: choose {rounded_down}, or \
         huge_pages off"
    )]
    SegmentSizeNotHuge {
        /// The size as given.
        given: Given,
        /// What segments shall be made of.
        huge_pages: HugePages,
        /// The next smaller size that is possible.
        rounded_down: ByteSize,
    },
    /// A size that is part of the capacity is larger than it.
    #[error("{given} is larger than the capacity of {capacity}: give at most that, or raise the capacity")]
    AboveCapacity {
        /// The size as given.
        given: Given,
        /// The capacity.
        capacity: ByteSize,
    },
    /// The machine has no such NUMA node.
    #[error("{given}: this machine has memory on {} alone: choose one of these, none or interleave", nodes(.present))]
    NumaNodeAbsent {
        /// The node as given.
        given: Given,
        /// The nodes there are.
        present: Vec<usize>,
    },
    /// The machine has no such CPUs, or they are not for this process.
    #[error("{given}: {} not for larderd to use here: choose from {}", cpus(.absent), format_cpu_list(.present))]
    CpusAbsent {
        /// The list as given.
        given: Given,
        /// Those of the list that are not there.
        absent: Vec<usize>,
        /// The CPUs there are.
        present: Vec<usize>,
    },
    /// The key `tenant` holds something else than tables.
    #[error("line {line} of {}: tenant is no plain key: write a table [[tenant]] for each user", shown_path(.path))]
    TenantNotTables {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A table of a tenant does not say whose it is.
    #[error("line {line} of {}: the table [[tenant]] has no uid: add the number of the user it is for", shown_path(.path))]
    TenantWithoutUid {
        /// The file.
        path: PathBuf,
        /// The line the table starts at, from 1.
        line: usize,
    },
    /// Two tables are for one tenant.
    #[error("{given} has a table [[tenant]] already, at line {first_line}: make one of the two")]
    TenantTwice {
        /// The uid as given the second time.
        given: Given,
        /// The line the first table starts at.
        first_line: usize,
    },
    /// A tenant is guaranteed more than it may use.
    #[error("{given} is more than the quota of uid {uid}, {quota}: guarantee at most that, or raise the quota")]
    GuaranteedAboveQuota {
        /// The guaranteed size as given.
        given: Given,
        /// The tenant.
        uid: u32,
        /// The tenant's quota.
        quota: ByteSize,
    },
    /// All tenants together are guaranteed more than there is.
    #[error(
        "the tables [[tenant]] of {} guarantee {total} together, more than the capacity of {capacity}: guarantee less, \
         or raise the capacity",
        shown_path(.path)
    )]
    GuaranteedAboveCapacity {
        /// The file.
        path: PathBuf,
        /// The sum.
        total: ByteSize,
        /// The capacity.
        capacity: ByteSize,
    },
    /// The key `store_options` holds something else than a table.
    #[error("line {line} of {}: store_options is no plain key: write a table [store_options]", shown_path(.path))]
    StoreOptionsNotTable {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// There are options for a store, and no store.
    #[error(
        "line {line} of {}: the table [store_options] is for a store, and none is set: set store, or take the table out",
        shown_path(.path)
    )]
    StoreOptionsWithoutStore {
        /// The file.
        path: PathBuf,
        /// The line the table starts at, from 1.
        line: usize,
    },
    /// An option that a store of this kind does not have.
    #[error("{given} means nothing for a store of the kind {kind}: take it out")]
    StoreOptionNotForKind {
        /// The option as given.
        given: Given,
        /// The kind of the store.
        kind: StoreKind,
    },
    /// A server without TLS that nobody allowed.
    #[error(
        "{given} sends blocks unencrypted, where others may read and change them: use https, or allow it with \
         allow_http = true"
    )]
    StoreEndpointNotSecret {
        /// The server as given.
        given: Given,
    },
    /// The key `origin` holds something else than tables.
    #[error("line {line} of {}: origin is no plain key: write a table [[origin]] for each prefix", shown_path(.path))]
    OriginNotTables {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A table of an origin does not say what it is for.
    #[error(
        "line {line} of {}: the table [[origin]] has no prefix: add what its URLs begin with, such as \
         prefix = \"https://data.example.org/\"",
        shown_path(.path)
    )]
    OriginWithoutPrefix {
        /// The file.
        path: PathBuf,
        /// The line the table starts at, from 1.
        line: usize,
    },
    /// An option that an origin of this kind does not have.
    #[error("{given} means nothing for an origin with the prefix {prefix}: take it out")]
    OriginOptionNotForKind {
        /// The option as given.
        given: Given,
        /// The prefix of the origin.
        prefix: String,
    },
    /// Keys, and the wish to use none.
    #[error("{given} contradicts anonymous = true: take one of the two out")]
    OriginAnonymousWithKeys {
        /// The file of keys as given.
        given: Given,
    },
    /// Keys that would be sent over a connection that anybody can read.
    #[error("{given} would send credentials unencrypted: use https, or allow it with allow_http = true")]
    OriginKeysNotSecret {
        /// The prefix as given.
        given: Given,
    },
    /// A disk tier without a limit.
    #[error("{given} needs a limit: say how much to use there with disk_capacity, such as 500GiB or 50%")]
    DiskCapacityMissing {
        /// The directory as given.
        given: Given,
    },
    /// The limit of a disk tier that is nowhere.
    #[error("{given} limits nothing: say where with disk, such as /scratch/larder, or leave it out")]
    DiskMissing {
        /// The capacity as given.
        given: Given,
    },
    /// The directory of a disk tier is not given by its path.
    #[error("{given} is no directory for blocks: give an absolute path, such as /scratch/larder")]
    DiskPathInvalid {
        /// The directory as given.
        given: Given,
    },
    /// The path of the socket is longer than the kernel takes.
    #[error("the socket path {} has {len_bytes} bytes: choose one of at most {max_bytes} with --socket", shown_path(.path))]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len_bytes: usize,
        /// The longest possible.
        max_bytes: usize,
    },
    /// The path of the socket does not name a file.
    #[error("the socket path {} does not name a file: give one such as /run/larder/larder.sock", shown_path(.path))]
    SocketPathInvalid {
        /// The path.
        path: PathBuf,
    },
}

impl Problem {
    /// A value that means nothing. What may be a secret is not repeated.
    pub(super) fn value(given: &Given, error: ValueError) -> Self {
        let mut given = given.clone();
        if error.is_about_secret() {
            given.text = "...".into();
        }
        Self::Value { given, error }
    }

    pub(super) fn unknown_key(path: &Path, line: usize, key: &str, known: &[&'static str]) -> Self {
        let advice = KeyAdvice { nearest: nearest(key, known), known: known.to_vec() };
        Self::UnknownKey { path: path.to_owned(), line, key: excerpt(key), advice }
    }
}

/// What to write instead of an unknown key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAdvice {
    /// The known key that differs least, where one is near.
    pub nearest: Option<&'static str>,
    /// All known keys.
    pub known: Vec<&'static str>,
}

impl fmt::Display for KeyAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nearest {
            Some(key) => write!(f, "did you mean {key}?"),
            None => write!(f, "the keys are {}", self.known.join(", ")),
        }
    }
}

/// The known key that a third of the letters, at most, set apart from this one.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let letters: Vec<char> = key.chars().collect();
    if letters.len() > 40 {
        return None;
    }
    let distances = known.iter().map(|&candidate| (edit_distance(&letters, candidate), candidate));
    let (distance, candidate) = distances.min()?;
    (distance <= (candidate.len() / 3).max(1)).then_some(candidate)
}

/// The fewest letters to insert, remove or replace that turn one word into the other (Levenshtein).
fn edit_distance(a: &[char], b: &str) -> usize {
    // `row[i]` is the distance of the first `i` letters of `a` from the letters of `b` seen so far.
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for b_letter in b.chars() {
        let mut diagonal = row[0];
        row[0] += 1;
        for (i, &a_letter) in a.iter().enumerate() {
            let replaced = diagonal + usize::from(a_letter != b_letter);
            diagonal = row[i + 1];
            row[i + 1] = replaced.min(diagonal + 1).min(row[i] + 1);
        }
    }
    row[a.len()]
}

fn nodes(present: &[usize]) -> String {
    let noun = if present.len() == 1 { "node" } else { "nodes" };
    format!("{noun} {}", format_cpu_list(present))
}

fn cpus(absent: &[usize]) -> String {
    match absent {
        [one] => format!("CPU {one} is"),
        more => format!("CPUs {} are", format_cpu_list(more)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::SCALAR_KEYS;
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        let distance = |a: &str, b| edit_distance(&a.chars().collect::<Vec<_>>(), b);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("spin", "spin"), 0);
    }

    #[test]
    fn a_near_key_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("capcity", &SCALAR_KEYS), Some("capacity"));
        assert_eq!(nearest("huge-pages", &SCALAR_KEYS), Some("huge_pages"));
        assert_eq!(nearest("max_sesions_per_user", &SCALAR_KEYS), Some("max_sessions_per_uid"));
        assert_eq!(nearest("numas", &SCALAR_KEYS), Some("numa"));
        assert_eq!(nearest("colour", &SCALAR_KEYS), None);
        assert_eq!(nearest("", &SCALAR_KEYS), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), &SCALAR_KEYS), None);
    }
}
