//! Directories and names that are refused, and what is said of a file system that refuses.

use super::*;
use crate::store::samples::Mounted;

#[test]
fn a_root_that_is_missing_or_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Directory::open(&dir.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("does not exist; make the directory"), "{missing}");
    fs::write(dir.path().join("file"), "").unwrap();
    let file = Directory::open(&dir.path().join("file")).unwrap_err();
    assert!(file.to_string().contains("is not a directory"), "{file}");
}

#[test]
fn a_root_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o777, 0o1777, 0o770, 0o702] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let refused = Directory::open(dir.path()).unwrap_err();
        assert!(matches!(&refused, StoreError::Denied(why) if why.contains(&format!("mode {mode:o}"))), "{refused}");
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Directory::open(dir.path()).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
        let refused = Directory::open(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("belongs to user 65534"), "{refused}");
    } else {
        println!("SKIPPED: only root can give a directory away");
    }
}

#[test]
fn a_root_that_the_agent_cannot_write_is_refused() {
    let Some(mounted) = Mounted::new("size=1m,mode=0755") else { return };
    mounted.remount("ro");
    let refused = Directory::open(mounted.0.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::Denied(why) if why.contains("mounted read-only")), "{refused}");
}

#[tokio::test]
async fn a_full_file_system_is_said_to_be_full_and_nothing_stays() {
    let Some(mounted) = Mounted::new("size=1m,mode=0700") else { return };
    let store = Directory::open(mounted.0.path()).unwrap();
    for mode in [Mode::Create, Mode::Replace] {
        for len in [2 << 20, 2 * PIECE_BYTES] {
            let full = store.publish("n/k", object(b"h", &noise(1, len)), mode).await;
            assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
        }
    }
    assert_eq!((store.start("n/k", 1).await, temporary_files(mounted.0.path())), (Ok(None), Vec::new()));
    assert_eq!(store.publish("n/k", object(b"h", b"fits"), Mode::Create).await, Ok(Published::Done));
    mounted.remount("ro");
    let denied = store.publish("n/l", object(b"h", b"fits"), Mode::Create).await;
    assert!(matches!(denied, Err(StoreError::Denied(_))), "{denied:?}");
    assert_eq!(whole(&store, "n/k").await.unwrap().unwrap(), b"hfits");
    let denied = store.remove("n/k").await;
    assert!(matches!(denied, Err(StoreError::Denied(_))), "{denied:?}");
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let (dir, store) = store();
    let long = "a".repeat(256);
    let longer = ["a"; 451].join("/");
    for name in ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".tmp/x", "a/.b", "a\0b", "a\u{e4}", &long, &longer] {
        let published = store.publish(name, object(b"", b"x"), Mode::Create).await;
        assert!(matches!(published, Err(StoreError::Failed(_))), "{name:?}: {published:?}");
        assert!(store.start(name, 1).await.is_err() && store.remove(name).await.is_err(), "{name:?}");
    }
    assert_eq!(temporary_files(dir.path()), [""; 0]);
    let longest = ["a"; 450].join("/");
    assert_eq!(store.publish(&longest, object(b"", b"x"), Mode::Create).await, Ok(Published::Done));
    assert_eq!(store.list("", "", 10).await.unwrap(), [longest]);
}

#[test]
fn errors_say_whether_they_may_pass() {
    let kind = |error| failure(error, "write", Path::new("/store/x"));
    for error in [Errno::ENOSPC, Errno::EDQUOT] {
        assert!(matches!(kind(error), StoreError::Full(_)), "{error}");
    }
    for error in [Errno::EACCES, Errno::EPERM, Errno::EROFS] {
        assert!(matches!(kind(error), StoreError::Denied(_)), "{error}");
    }
    for error in [Errno::EIO, Errno::ESTALE, Errno::ETIMEDOUT, Errno::EINTR] {
        assert!(matches!(kind(error), StoreError::Unavailable(_)), "{error}");
    }
    for error in [Errno::ENAMETOOLONG, Errno::EISDIR, Errno::ELOOP] {
        assert!(matches!(kind(error), StoreError::Failed(_)), "{error}");
    }
    assert!(kind(Errno::ENAMETOOLONG).to_string().starts_with("cannot write /store/x: "));
}
