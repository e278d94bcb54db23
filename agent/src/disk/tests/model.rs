//! The tier compared with a map.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const INCARNATIONS: u128 = 3;
const KEYS: u8 = 12;

#[derive(Clone, Debug)]
enum Step {
    /// A block of so many units of 40,000 bytes.
    Keep(u128, u8, u8),
    Find(u128, u8),
    Remove(u128, u8),
    RemoveAll(u128),
    /// The agent ends, well or not, and another starts.
    Restart(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let at = || (0..INCARNATIONS, 0..KEYS);
    prop_oneof![
        8 => (at(), 0..8_u8).prop_map(|((incarnation, key), units)| Step::Keep(incarnation, key, units)),
        8 => at().prop_map(|(incarnation, key)| Step::Find(incarnation, key)),
        3 => at().prop_map(|(incarnation, key)| Step::Remove(incarnation, key)),
        1 => (0..INCARNATIONS).prop_map(Step::RemoveAll),
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

/// A naive tier: it has what was kept last, and counts what that takes.
#[derive(Default)]
struct Model {
    blocks: HashMap<(u128, u8), Vec<u8>>,
    kept: u64,
}

async fn run(steps: &[Step], capacity: DiskCapacity) {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, mut model, mut evictions) = (open(dir.path(), capacity), Model::default(), 0);
    for step in steps {
        match *step {
            Step::Keep(incarnation, key, units) => {
                model.kept += 1;
                let payload = noise(model.kept, usize::from(units) * 40_000);
                assert!(keep(&disk, incarnation, &key.to_string(), &payload).await, "there is nothing else to do");
                model.blocks.insert((incarnation, key), payload);
            }
            Step::Find(incarnation, key) => {
                let expected = model.blocks.get(&(incarnation, key));
                match get(&disk, incarnation, &key.to_string()).await {
                    Some(found) => assert!(Some(&found) == expected, "not what was kept last"),
                    None => assert!(expected.is_none() || evictions + disk.figures().evictions > 0, "lost"),
                }
            }
            Step::Remove(incarnation, key) => {
                disk.remove(&name(incarnation, &key.to_string())).await.unwrap();
                model.blocks.remove(&(incarnation, key));
                assert!(!file_of(&disk, &name(incarnation, &key.to_string())).exists());
            }
            Step::RemoveAll(incarnation) => {
                disk.remove_all(&names::incarnation(1000, "job/1", incarnation));
                model.blocks.retain(|(other, _), _| *other != incarnation);
            }
            Step::Restart(ends_well) => {
                // What a killed agent had not come to remove yet would be there again, under an incarnation that
                // nobody asks for in earnest.
                swept(&disk).await;
                evictions += disk.figures().evictions;
                if ends_well {
                    disk.close().await;
                }
                abandon(disk).await;
                let (opened, past, rebuilt) = open_in(dir.path(), capacity, BOOT).unwrap();
                assert_eq!(past, Past::Trusted);
                assert!(rebuilt.listed == 0 || ends_well);
                disk = opened;
            }
        }
        let figures = disk.figures();
        assert!(figures.used_bytes <= figures.capacity_bytes, "{figures:?}");
        assert!(figures.blocks <= model.blocks.len() as u64, "{figures:?}");
        if evictions + figures.evictions == 0 {
            assert_eq!(figures.blocks, model.blocks.len() as u64);
        }
        disk.inner.ledger().validate(disk.inner.root.base_bytes());
    }
    swept(&disk).await;
    assert_eq!(files(&disk).len() as u64, disk.figures().blocks);
    assert_eq!(disk.figures().damaged, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_tier_with_room_has_what_was_kept_last(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Runtime::new().unwrap().block_on(run(&steps, mib(64)));
    }

    #[test]
    fn a_tier_without_room_has_what_was_kept_last_or_nothing(steps in prop::collection::vec(step(), 1..60)) {
        // The directories take one, four blocks the rest.
        tokio::runtime::Runtime::new().unwrap().block_on(run(&steps, mib(2)));
    }
}
