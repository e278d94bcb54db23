//! From the files of a tier to the ledger of them, at a start.

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::file::charge;
use super::index::{Index, Stamp};
use super::ledger::Ledger;
use super::place::{Place, SHARDS};
use super::root::{Root, gone, names_in, stat_file};

/// Where the blocks of a start came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rebuilt {
    /// Listed by the index, their files not looked at.
    pub(super) listed: usize,
    /// Found in shards that are not as the index says, or without an index.
    pub(super) found: usize,
    /// Files that no agent wrote, which are left alone and not counted.
    pub(super) foreign: usize,
}

/// A block that was found.
struct Found {
    written: (i64, i64),
    place: Place,
    bytes: u64,
}

/// Enters all blocks, first those of the index in its order, then what else there is, oldest first. `beat` is called now
/// and then.
pub(super) fn fill(root: &Root, ledger: &mut Ledger, index: Option<Index>, beat: &dyn Fn()) -> Result<Rebuilt, Errno> {
    let mut rebuilt = Rebuilt::default();
    let index = index.filter(|index| index.instance == root.instance);
    let mut is_listed = [false; SHARDS];
    let mut found = Vec::new();
    for (shard, is_listed) in is_listed.iter_mut().enumerate() {
        beat();
        let (_, now) = root.shard(shard)?;
        *is_listed = index.as_ref().is_some_and(|index| index.shards.get(shard) == Some(&now));
        if !*is_listed {
            read_shard(root, shard, &mut found, &mut rebuilt, beat)?;
        }
    }
    for block in index.into_iter().flat_map(|index| index.blocks).filter(|block| is_listed[block.place.shard()]) {
        rebuilt.listed += usize::from(ledger.adopt(block.place, block.bytes, block.is_main));
    }
    found.sort_unstable_by_key(|found| found.written);
    for Found { place, bytes, .. } in found {
        rebuilt.found += usize::from(ledger.adopt(place, bytes, false));
    }
    Ok(rebuilt)
}

/// Finds the blocks of one shard, and removes what was never finished.
fn read_shard(
    root: &Root,
    shard: usize,
    found: &mut Vec<Found>,
    rebuilt: &mut Rebuilt,
    beat: &dyn Fn(),
) -> Result<(), Errno> {
    let (directory, _) = root.shard(shard)?;
    for name in names_in(&directory)? {
        beat();
        if name.starts_with('.') {
            gone(unlinkat(&directory, name.as_str(), UnlinkatFlags::NoRemoveDir))?;
            continue;
        }
        let place = Place::read(shard, &name);
        let Some((place, stat)) = place.zip(stat_file(&directory, &name)?) else {
            rebuilt.foreign += 1;
            continue;
        };
        let (len, given) = (u64::try_from(stat.st_size).unwrap_or(0), u64::try_from(stat.st_blocks).unwrap_or(0));
        let bytes = charge(len, given.saturating_mul(512), root.block_bytes);
        #[expect(clippy::useless_conversion, reason = "the fields are not as wide everywhere")]
        let written = (stat.st_mtime.into(), stat.st_mtime_nsec.into());
        found.push(Found { written, place, bytes });
    }
    Ok(())
}

/// The index of what is in the ledger now. Nobody may change any file meanwhile.
pub(super) fn index_of(root: &Root, ledger: &Ledger) -> Result<Index, Errno> {
    let shards: Result<Vec<Stamp>, Errno> = (0..SHARDS).map(|shard| Ok(root.shard(shard)?.1)).collect();
    let blocks = ledger.blocks().map(|(place, bytes, is_main)| super::index::Listed { place, bytes, is_main });
    Ok(Index { instance: root.instance, shards: shards?, blocks: blocks.collect() })
}
