//! Which files the demo loads: every regular file under a directory, up to a limit, and what was left out and why.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use larder_protocol::key::check_key_bytes;
use larder_protocol::layout::BlockShape;
use serde::Serialize;

use super::interrupt::Interrupt;

/// A file to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path under the root, which is its key.
    pub(super) key: String,
    /// Its length when it was found.
    pub(super) len_bytes: u64,
}

/// What was left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Skipped {
    /// Files and directories that cannot be read.
    pub(super) unreadable: u64,
    /// Links, sockets, pipes and devices.
    pub(super) special: u64,
    /// Files and directories whose names make no legal key.
    pub(super) illegal_name: u64,
    /// Directories on which another file system is mounted.
    pub(super) other_file_system: u64,
    /// Files longer than the limit on all of them.
    pub(super) too_large: u64,
    /// Files whose length changed before they were loaded.
    pub(super) changed: u64,
}

impl Skipped {
    /// The reasons that occurred, in words.
    pub(super) fn words(&self) -> Vec<String> {
        [
            (self.unreadable, "unreadable"),
            (self.special, "links or special files"),
            (self.illegal_name, "with names that are no legal keys"),
            (self.other_file_system, "on other file systems"),
            (self.too_large, "too large"),
            (self.changed, "changed meanwhile"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{} {why}", crate::output::count(count)))
        .collect()
    }
}

/// How much is loaded at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) files: usize,
    pub(super) bytes: u64,
}

/// The files to load.
#[derive(Debug)]
pub(super) struct Tree {
    /// The directory that has them, where they are files of this machine.
    pub(super) root: Option<PathBuf>,
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: u64,
    pub(super) skipped: Skipped,
    /// Whether there were more files than the limit allows.
    pub(super) cut: bool,
}

impl Tree {
    /// Walks `root` depth first, each directory in the order of its names, so that the same tree gives the same files.
    pub(super) fn find(root: &Path, limit: Limit, interrupt: &Interrupt) -> Result<Tree> {
        let root = root.canonicalize().with_context(|| format!("cannot open {}", root.display()))?;
        let metadata = fs::metadata(&root).with_context(|| format!("cannot look at {}", root.display()))?;
        if !metadata.is_dir() {
            bail!("{} is not a directory", root.display());
        }
        let mut tree = Tree::empty(Some(root.clone()));
        let device = metadata.dev();
        // The directory to read next is last; one that cannot be read is counted when its turn comes.
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            interrupt.check()?;
            let mut below = Vec::new();
            for (path, metadata) in tree.read_directory(&directory) {
                let relative = path.strip_prefix(&root).unwrap_or(&path).as_os_str().as_bytes();
                let Ok(key) = check_key_bytes(relative) else {
                    tree.skipped.illegal_name += 1;
                    continue;
                };
                if metadata.is_dir() {
                    if metadata.dev() == device {
                        below.push(path);
                    } else {
                        tree.skipped.other_file_system += 1;
                    }
                } else if !metadata.is_file() {
                    tree.skipped.special += 1;
                } else if metadata.len() > limit.bytes {
                    tree.skipped.too_large += 1;
                } else if tree.entries.len() == limit.files || tree.bytes + metadata.len() > limit.bytes {
                    tree.cut = true;
                    return Ok(tree);
                } else {
                    tree.bytes += metadata.len();
                    tree.entries.push(Entry { key: key.to_owned(), len_bytes: metadata.len() });
                }
            }
            directories.extend(below.into_iter().rev());
        }
        if tree.entries.is_empty() {
            bail!("there is no file to load under {}", root.display());
        }
        Ok(tree)
    }

    /// No files.
    fn empty(root: Option<PathBuf>) -> Tree {
        Tree { root, entries: Vec::new(), bytes: 0, skipped: Skipped::default(), cut: false }
    }

    /// The files that a list names, one a line: length in bytes, a space, name. `root` is a directory that has the same files.
    pub(super) fn listed(list: &str, root: Option<&Path>, limit: Limit) -> Result<Tree> {
        let open = |root: &Path| root.canonicalize().with_context(|| format!("cannot open {}", root.display()));
        let mut tree = Tree::empty(root.map(open).transpose()?);
        let mut names = HashSet::new();
        for (at, line) in list.lines().enumerate() {
            let (len, name) = line.split_once(' ').unwrap_or((line, ""));
            let Ok(len_bytes) = len.parse::<u64>() else {
                bail!("line {} of the list is not a length, a space and a name: {line:?}", at + 1);
            };
            if check_key_bytes(name.as_bytes()).is_err() {
                tree.skipped.illegal_name += 1;
            } else if !names.insert(name) {
                bail!("line {} of the list names {name:?} again", at + 1);
            } else if len_bytes > limit.bytes {
                tree.skipped.too_large += 1;
            } else if tree.entries.len() == limit.files || tree.bytes + len_bytes > limit.bytes {
                tree.cut = true;
                break;
            } else {
                tree.bytes += len_bytes;
                tree.entries.push(Entry { key: name.to_owned(), len_bytes });
            }
        }
        if tree.entries.is_empty() {
            bail!("the list names nothing to load");
        }
        Ok(tree)
    }

    /// Some of the files, spread evenly over all of them, and how many bytes they have.
    pub(super) fn sample(&self, limit: Limit) -> (Vec<Entry>, u64) {
        let by_bytes = self.bytes.div_ceil(limit.bytes.max(1));
        let by_files = self.entries.len().div_ceil(limit.files.max(1));
        let step = usize::try_from(by_bytes).unwrap_or(usize::MAX).max(by_files).max(1);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.entries.iter().step_by(step) {
            if bytes + entry.len_bytes <= limit.bytes {
                bytes += entry.len_bytes;
                entries.push(entry.clone());
            }
        }
        (entries, bytes)
    }

    /// What is in a directory, sorted by name. What cannot be read is counted.
    fn read_directory(&mut self, directory: &Path) -> Vec<(PathBuf, Metadata)> {
        let Ok(items) = fs::read_dir(directory) else {
            self.skipped.unreadable += 1;
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in items {
            match item.and_then(|item| Ok((item.path(), item.metadata()?))) {
                Ok(pair) => found.push(pair),
                Err(_) => self.skipped.unreadable += 1,
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    /// The memory that the files take as blocks: header, key, payload, checksums, and what alignment costs.
    pub(super) fn block_bytes(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| {
                let shape = BlockShape::new(entry.key.len(), entry.len_bytes);
                shape.total_len.next_multiple_of(shape.align)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Limit = Limit { files: 10, bytes: 100 };

    #[test]
    fn a_list_is_read_up_to_the_limit() {
        let tree = Tree::listed("3 a b\n0 c/d\n200 large\n1 ../up\n", None, ROOMY).unwrap();
        let entry = |key: &str, len_bytes| Entry { key: key.to_owned(), len_bytes };
        assert_eq!(tree.entries, [entry("a b", 3), entry("c/d", 0)]);
        assert_eq!((tree.bytes, tree.skipped.too_large, tree.skipped.illegal_name, tree.cut), (3, 1, 1, false));
        assert!(Tree::listed("60 a\n60 b\n", None, ROOMY).unwrap().cut);
        assert!(Tree::listed("1 a\n1 b\n", None, Limit { files: 1, ..ROOMY }).unwrap().cut);
    }

    #[test]
    fn a_wrong_list_is_refused_with_its_line() {
        for (list, why) in [
            ("1 a\nb 2\n", "line 2 of the list is not"),
            ("1 a\n1 a\n", "line 2 of the list names \"a\" again"),
            ("", "nothing"),
        ] {
            let error = Tree::listed(list, None, ROOMY).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_sample_is_spread_and_keeps_to_its_limit() {
        let list: String = (0..10).map(|at| format!("10 {at}\n")).collect();
        let tree = Tree::listed(&list, None, ROOMY).unwrap();
        let keys = |limit| tree.sample(limit).0.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(keys(ROOMY), "0 1 2 3 4 5 6 7 8 9");
        assert_eq!(keys(Limit { files: 4, bytes: 100 }), "0 3 6 9");
        assert_eq!(keys(Limit { files: 10, bytes: 20 }), "0 5");
        assert_eq!(
            tree.sample(Limit { files: 4, bytes: 25 }),
            (vec![tree.entries[0].clone(), tree.entries[4].clone()], 20)
        );
    }
}
