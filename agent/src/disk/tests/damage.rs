//! Files that are not what they were written as.

use super::*;

/// Whether the file at the block's place is taken for the whole block.
fn is_whole(disk: &Disk, name: &str) -> bool {
    let place = disk.inner.place(name).unwrap();
    matches!(file::judge(&disk.inner.root, place, name).unwrap(), Judged::Whole(_))
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_of_a_file_is_noticed() {
    let (_dir, disk) = tier(32);
    let (name, payload) = (name(1, "k"), noise(1, 50));
    assert!(keep(&disk, 1, "k", &payload).await && is_whole(&disk, &name));
    let file = file_of(&disk, &name);
    let good = fs::read(&file).unwrap();
    let found = disk.find(&name).await.unwrap();
    let payload_at = found.entry.head().len();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &bad).unwrap();
        let is_payload = (payload_at..payload_at + payload.len()).contains(&(bit / 8));
        assert_eq!(is_whole(&disk, &name), is_payload, "bit {bit}");
        if is_payload {
            let found = disk.find(&name).await.unwrap();
            let into = memory(&payload);
            disk.load(&found, into.clone()).await.unwrap();
            assert!(!is_intact(&found.entry, &into), "bit {bit}");
        }
    }
    for len in 0..good.len() {
        fs::write(&file, &good[..len]).unwrap();
        assert!(!is_whole(&disk, &name), "{len} bytes");
    }
    for more in [1, 64, 4096] {
        fs::write(&file, [&good[..], &vec![0; more]].concat()).unwrap();
        assert!(!is_whole(&disk, &name), "{more} bytes more");
    }
    fs::write(&file, good).unwrap();
    assert!(is_whole(&disk, &name));
}

#[tokio::test]
async fn a_damaged_file_is_a_miss_is_counted_and_goes() {
    let (_dir, disk) = tier(64);
    let len = 200_000;
    let damages: [Damage<'_>; 5] = [
        ("a torn start", &|bytes| bytes[..4096].fill(0)),
        ("a torn end", &|bytes| {
            let len = bytes.len();
            bytes[len - 4096..].fill(0);
        }),
        ("all zeros", &|bytes| bytes.fill(0)),
        ("empty", &|bytes| bytes.clear()),
        ("cut", &|bytes| bytes.truncate(100_000)),
    ];
    for (number, (what, damage)) in damages.into_iter().enumerate() {
        assert!(keep(&disk, 1, what, &noise(1, len)).await);
        let file = file_of(&disk, &name(1, what));
        let mut bytes = fs::read(&file).unwrap();
        damage(&mut bytes);
        fs::write(&file, bytes).unwrap();
        assert!(get(&disk, 1, what).await.is_none(), "{what}");
        assert_eq!(disk.figures().damaged, number as u64 + 1, "{what}");
        swept(&disk).await;
        assert!(!file.exists() && !disk.contains(&name(1, what)));
        // The next one is as good as new.
        assert!(keep(&disk, 1, what, &noise(2, len)).await);
        assert!(get(&disk, 1, what).await.unwrap() == noise(2, len));
    }
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test]
async fn a_file_of_two_blocks_is_none() {
    let (_dir, disk) = tier(32);
    let (name, mut files) = (name(1, "k"), Vec::new());
    for seed in [1, 2] {
        assert!(keep(&disk, 1, "k", &noise(seed, 9000)).await);
        files.push(fs::read(file_of(&disk, &name)).unwrap());
    }
    // Both have the same lengths and the same name.
    let file = file_of(&disk, &name);
    let end = files[0].len() - trailer::trailer(&name, 0).len();
    fs::write(&file, [&files[0][..end], &files[1][end..]].concat()).unwrap();
    assert!(!is_whole(&disk, &name));
    fs::write(&file, [&files[0][..4096], &files[1][4096..]].concat()).unwrap();
    assert!(!is_whole(&disk, &name));
    fs::write(&file, &files[1]).unwrap();
    assert!(is_whole(&disk, &name));
}

#[tokio::test]
async fn a_damaged_payload_is_for_the_caller_to_say() {
    let (_dir, disk) = tier(64);
    for len in [1000, 200_000] {
        assert!(keep(&disk, 1, "k", &noise(1, len)).await);
        let file = file_of(&disk, &name(1, "k"));
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        let found = disk.find(&name(1, "k")).await.unwrap();
        let into = memory(&vec![0; len]);
        disk.load(&found, into.clone()).await.unwrap();
        assert!(!is_intact(&found.entry, &into));
        disk.damaged(&found);
        assert!(!disk.contains(&name(1, "k")));
        swept(&disk).await;
        assert!(!file.exists());
    }
    assert_eq!(disk.figures().damaged, 2);
}

#[tokio::test]
async fn the_block_of_another_name_is_never_taken() {
    let (_dir, disk) = tier(32);
    // Another key, another incarnation, and another user's of the same key.
    let ours = name(1, "k");
    let theirs = [name(1, "l"), name(2, "k"), ours.replace("u1000", "u1001")];
    for other in theirs {
        for (of, payload) in [(&ours, b"ours "), (&other, b"other")] {
            let key = if of.ends_with("l.block") { "l" } else { "k" };
            assert_eq!(disk.keep(of, &entry(key, payload), memory(payload)).await, Ok(true));
        }
        // As if the two hashes were one.
        fs::copy(file_of(&disk, &other), file_of(&disk, &ours)).unwrap();
        assert!(disk.find(&ours).await.is_none(), "{other}");
        assert!(disk.find(&other).await.is_some());
        assert_eq!(disk.keep(&ours, &entry("k", b"again"), memory(b"again")).await, Ok(true));
        assert_eq!(get(&disk, 1, "k").await.unwrap(), b"again");
    }
}

#[tokio::test]
async fn names_of_two_incarnations_with_one_hash_do_not_mix() {
    let (_dir, disk) = tier(32);
    assert!(keep(&disk, 1, "k", b"first").await);
    let first = disk.inner.place(&name(1, "k")).unwrap();
    let second = Place { group: first.group ^ 1, ..first };
    let first_goes = || {
        let mut ledger = disk.inner.ledger();
        assert!(ledger.look(first, false).is_some());
        assert!(ledger.look(second, false).is_none());
        assert!(ledger.begin(second).is_none(), "its file would have another name");
        let ticket = ledger.begin(first).unwrap();
        assert!(ledger.begin(second).is_none());
        ledger.end(ticket);
        // A removal takes whatever there is.
        assert!(ledger.remove(second));
        assert!(ledger.begin(second).is_none(), "the file is still there");
    };
    first_goes();
    swept(&disk).await;
    assert!(files(&disk).is_empty());
    assert!(disk.inner.ledger().begin(second).is_some());
}

#[tokio::test]
async fn a_head_longer_than_the_first_piece_is_read_whole() {
    let (_dir, disk) = tier(32);
    // The table of half a gigabyte without half a gigabyte: the file has a hole for a payload.
    let len_bytes = 600_u64 << 20;
    let chunks = vec![7; usize::try_from(len_bytes / 65536).unwrap()];
    let entry = Entry { len_bytes, checksums: Checksums { chunks }, ..entry("k", b"") };
    let head = entry.head();
    assert!(head.len() > crate::store::entry::START_BYTES);
    let name = name(1, "k");
    assert!(keep(&disk, 1, "k", b"short").await);
    let file = fs::File::create(file_of(&disk, &name)).unwrap();
    let end = trailer::trailer(&name, crate::store::entry::head_checksum(&head));
    std::os::unix::fs::FileExt::write_all_at(&file, &head, 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &end, head.len() as u64 + len_bytes).unwrap();
    let found = disk.find(&name).await.unwrap();
    assert_eq!(found.entry, entry);
}
