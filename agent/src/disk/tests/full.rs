//! A file system that others fill.

use super::*;

/// Keeps many blocks and looks for them, on a file system that has less room than the tier may take.
async fn keeps_and_finds(disk: &Disk, blocks: u64, len: usize) {
    let mut kept = 0;
    for number in 0..blocks {
        kept += u64::from(keep(disk, 1, &format!("{number}"), &noise(number, len)).await);
        for near in number.saturating_sub(2)..=number {
            if let Some(found) = get(disk, 1, &format!("{near}")).await {
                assert!(found == noise(near, len));
            }
        }
    }
    let figures = disk.figures();
    println!("{kept} of {blocks} kept: {figures:?}");
    assert!(kept > blocks / 2, "what is there makes way");
    assert!(figures.evictions > 0 && figures.blocks > 0 && figures.damaged == 0, "{figures:?}");
    assert_eq!(files(disk).len() as u64, figures.blocks);
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test]
async fn a_full_file_system_is_a_full_tier() {
    let Some(mount) = Mounted::new("size=12m,mode=700") else { return };
    let tier = mount.0.path().join("tier");
    let disk = open(&tier, DiskCapacity::Percent(100));
    // Another's file takes most of the room.
    fs::write(mount.0.path().join("other"), vec![1; 8 << 20]).unwrap();
    keeps_and_finds(&disk, 60, 300_000).await;
    // Such as are given their room before they are written.
    keeps_and_finds(&disk, 20, 1_200_000).await;
    // Then no room at all, not even for one.
    while disk.figures().blocks > 0 {
        disk.remove_all(&names::incarnation(1000, "job/1", 1));
        swept(&disk).await;
    }
    fs::write(mount.0.path().join("rest"), vec![1; 16 << 20]).unwrap_err();
    assert!(!keep(&disk, 1, "k", &noise(1, 300_000)).await);
    assert!(get(&disk, 1, "k").await.is_none());
    assert!(files(&disk).is_empty());
    fs::remove_file(mount.0.path().join("rest")).unwrap();
    assert!(keep(&disk, 1, "k", &noise(1, 300_000)).await);
}

#[tokio::test]
async fn a_tier_on_a_full_file_system_can_be_opened() {
    let Some(mount) = Mounted::new("size=12m,mode=700") else { return };
    let tier = mount.0.path().join("tier");
    for (boot, is_trusted) in [(BOOT, true), ("boot-2", false)] {
        let disk = open_in(&tier, DiskCapacity::Percent(100), BOOT).unwrap().0;
        for number in 0..100 {
            keep(&disk, 1, &format!("{number}"), &noise(number, 80_000)).await;
        }
        assert!(disk.figures().blocks > 50);
        abandon(disk).await;
        fs::write(mount.0.path().join("rest"), vec![1; 16 << 20]).unwrap_err();
        let (disk, past, _) = open_in(&tier, DiskCapacity::Percent(100), boot).unwrap();
        assert_eq!(past == Past::Trusted, is_trusted, "{past:?}");
        assert!(!is_trusted || disk.figures().blocks > 40, "{:?}", disk.figures());
        abandon(disk).await;
        fs::remove_file(mount.0.path().join("rest")).unwrap();
    }
}

#[tokio::test]
async fn a_file_system_without_inodes_is_a_full_tier() {
    let Some(mount) = Mounted::new("size=64m,nr_inodes=300,mode=700") else { return };
    let disk = open(&mount.0.path().join("tier"), DiskCapacity::Percent(100));
    keeps_and_finds(&disk, 100, 1000).await;
}

#[tokio::test]
async fn a_file_system_that_is_read_only_by_now_fails_and_misses() {
    let Some(mount) = Mounted::new("size=64m,mode=700") else { return };
    let disk = open(&mount.0.path().join("tier"), DiskCapacity::Percent(100));
    assert!(keep(&disk, 1, "k", b"1").await);
    mount.remount("ro");
    let refused = disk.keep(&name(1, "l"), &entry("l", b"2"), memory(b"2")).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    assert_eq!(get(&disk, 1, "k").await.unwrap(), b"1");
    let removed = disk.remove(&name(1, "k")).await;
    assert!(
        matches!(&removed, Err(StoreError::Failed(why)) if why.contains("found again after a crash")),
        "{removed:?}"
    );
    assert!(get(&disk, 1, "k").await.is_none());
    mount.remount("rw");
    swept(&disk).await;
    assert!(files(&disk).is_empty());
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}
