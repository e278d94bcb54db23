//! Each kernel feature can be switched off, and everything works without it.

use larder_protocol::life::{Beacon, Watch};
use larder_protocol::memory::{Feature, HugePages, Mapping, Memfd, Others, Platform, Seals, received_seals};

use crate::alone;

const LEN: usize = 8 * 4096;

/// Makes, fills, seals, sends and asks about memory, as an agent does on such a platform.
fn use_memory(platform: &Platform) {
    let memfd = Memfd::create(c"features", LEN, HugePages::Off, platform).unwrap();
    let writer = Mapping::read_write(&memfd, LEN).unwrap();
    writer.write_word(4096, 5);
    if platform.populate_write {
        writer.populate(0, LEN).unwrap();
    } else {
        writer.populate_by_touch(0, LEN);
    }
    // In units of 512 bytes, as ever.
    let blocks = nix::sys::stat::fstat(&memfd).unwrap().st_blocks;
    assert_eq!(blocks * 512, LEN as i64, "every page is there");
    memfd.seal(Seals::Final, platform).unwrap();
    assert!(memfd.is_whole());
    let sent = memfd.description(false).unwrap();
    received_seals(&sent, LEN, platform.future_write_seal).unwrap();
    let reader = Mapping::read_only(&sent, LEN).unwrap();
    assert!(Mapping::read_write(&sent, LEN).is_err());
    writer.write_word(8, 6);
    assert_eq!((reader.read_word(4096), reader.read_word(8)), (5, 6));
    let others = if platform.lease_probe { [Others::Some, Others::None] } else { [Others::Unknown; 2] };
    assert_eq!(memfd.others(platform), others[0]);
    drop((reader, sent));
    assert_eq!(memfd.others(platform), others[1]);
}

fn use_beacon(platform: &Platform) {
    let beacon = Beacon::light(platform).unwrap();
    let watch = Watch::new(beacon.description().unwrap()).unwrap();
    assert!(!watch.is_dead());
    drop(watch);
}

#[test]
fn all_features_together() {
    let _alone = alone();
    let platform = Platform::detect(&[]).unwrap();
    println!("missing here: {:?}", platform.missing());
    use_memory(&platform);
    use_beacon(&platform);
}

#[test]
fn each_feature_can_be_missing() {
    let _alone = alone();
    let here = Platform::detect(&[]).unwrap();
    for (feature, name) in Feature::ALL {
        assert_eq!(Feature::from_name(name), Some(feature));
        let without = Platform::detect(&[feature]).unwrap();
        assert!(without.missing().contains(&name), "{name} was switched off");
        let mut expected = here.missing();
        expected.retain(|missing| *missing != name);
        let mut others = without.missing();
        others.retain(|missing| *missing != name);
        assert_eq!(others, expected, "{name} off changes nothing else");
        use_memory(&without);
        use_beacon(&without);
    }
    assert_eq!(Feature::from_name("no-such-feature"), None);
}

#[test]
fn all_features_can_be_missing_at_once() {
    let _alone = alone();
    let none = Platform::detect(&Feature::ALL.map(|(feature, _)| feature)).unwrap();
    assert_eq!(none.missing().len(), Feature::ALL.len());
    use_memory(&none);
    use_beacon(&none);
}
