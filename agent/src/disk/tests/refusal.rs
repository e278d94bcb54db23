//! Directories that are refused.

use std::os::unix::fs::symlink;

use super::*;

fn refused(dir: &Path) -> String {
    let opened = open_in(dir, mib(32), BOOT).map(|(_, past, _)| past).unwrap_err();
    let checked = Disk::check(dir, mib(32));
    assert!(checked.is_err() || opened.contains("another larderd"), "{opened}");
    opened
}

#[tokio::test]
async fn a_directory_is_made_but_not_the_one_it_would_lie_in() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new");
    Disk::check(&new, mib(32)).unwrap();
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_dir(&new).unwrap().count(), 0, "a check leaves nothing");
    let (_, past, rebuilt) = open_in(&new, mib(32), BOOT).unwrap();
    assert_eq!((past, rebuilt), (Past::New, Rebuilt::default()));
    let why = refused(&dir.path().join("no/new"));
    assert!(why.contains("does not exist, nor does the directory it would lie in"), "{why}");
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(refused(&dir.path().join("file")).contains("is not a directory"));
}

#[test]
fn a_directory_that_others_own_or_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o777, 0o1777, 0o770, 0o702] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let why = refused(dir.path());
        assert!(why.contains(&format!("mode {mode:o}")), "{why}");
    }
    // Others who can read it cannot any more, once it is a tier's.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Disk::check(dir.path(), mib(32)).unwrap();
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o755);
    drop(open(dir.path(), mib(32)));
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can give a directory to another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
    let why = refused(dir.path());
    assert!(why.contains("belongs to user 65534"), "{why}");
}

#[test]
fn a_directory_with_something_else_in_it_is_refused_and_left() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused(dir.path()).contains("is not empty and was not made by larderd"));
    assert_eq!(fs::read(dir.path().join("thesis.tex")).unwrap(), b"years of work");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o755, "others still come in");
    // Nor is one that has a file by the marker's name.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tier"), "tier 1: the good ones").unwrap();
    refused(dir.path());
    fs::write(dir.path().join("tier"), "larder-disk 2\nwhatever\n").unwrap();
    assert!(refused(dir.path()).contains("format 2; empty the directory"));
    // What file systems and killed agents leave is nothing.
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("new.tier"), "larder-d").unwrap();
    open(dir.path(), mib(32));
}

#[tokio::test]
async fn two_agents_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = Disk::open(dir.path(), mib(32)).await.unwrap();
    assert!(keep(&first, 1, "k", b"1").await);
    let why = Disk::open(dir.path(), mib(32)).await.unwrap_err();
    assert!(why.contains("is used by another larderd"), "{why}");
    // A configuration can be checked while it is in use.
    Disk::check(dir.path(), mib(32)).unwrap();
    assert_eq!(get(&first, 1, "k").await.unwrap(), b"1");
    abandon(first).await;
    assert_eq!(get(&Disk::open(dir.path(), mib(32)).await.unwrap(), 1, "k").await.unwrap(), b"1");
}

#[test]
fn a_capacity_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sentence = |capacity| open_in(dir.path(), capacity, BOOT).map(|_| ()).unwrap_err();
    assert!(sentence(DiskCapacity::Size(ByteSize(u64::MAX))).contains("give it at most that"));
    assert!(sentence(DiskCapacity::Size(ByteSize(4096))).contains("do not even hold the directories"));
    let (disk, ..) = open_in(dir.path(), DiskCapacity::Percent(1), BOOT).unwrap();
    assert_eq!(disk.figures().capacity_bytes, disk.inner.root.file_system_bytes / 100);
}

#[tokio::test]
async fn a_planted_link_or_pipe_is_never_followed() {
    let (_dir, disk) = tier(32);
    let elsewhere = tempfile::tempdir().unwrap();
    for (number, key) in ["link", "pipe", "directory"].into_iter().enumerate() {
        assert!(keep(&disk, 1, key, &noise(number as u64, 1000)).await);
        let file = file_of(&disk, &name(1, key));
        match key {
            "link" => {
                fs::rename(&file, elsewhere.path().join("block")).unwrap();
                symlink(elsewhere.path().join("block"), &file).unwrap();
            }
            "pipe" => {
                fs::remove_file(&file).unwrap();
                nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
            _ => {
                fs::remove_file(&file).unwrap();
                fs::create_dir(&file).unwrap();
            }
        }
        assert!(get(&disk, 1, key).await.is_none(), "{key}");
    }
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}
