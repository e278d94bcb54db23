//! Files that a client has opened.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;

use super::{OTHER, origins, pattern, read};
use crate::origin::OriginError;

fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn descriptor(file: &tempfile::NamedTempFile) -> OwnedFd {
    File::open(file.path()).unwrap().into()
}

#[tokio::test]
async fn a_file_is_read_in_ranges() {
    let bytes = pattern(9_000_001);
    let file = written(&bytes);
    let origins = origins(Vec::new());
    let source = origins.open_file(OTHER, descriptor(&file), 10).await.unwrap();
    assert_eq!((source.len_bytes, &source.first[..]), (9_000_001, &bytes[..10]));
    assert!(source.is_ranged && !source.is_public);
    let (one, two) = tokio::join!(read(&source, 0, 9_000_001), read(&source, 5, 100));
    assert!(one.unwrap() == bytes && two.unwrap() == bytes[5..105]);
    assert!(matches!(read(&source, 9_000_000, 2).await, Err(OriginError::Invalid(_))));
    assert_eq!(read(&source, 9_000_001, 0).await.unwrap(), b"");
    let again = origins.open_file(OTHER, descriptor(&file), usize::MAX).await.unwrap();
    assert!(again.version == source.version && again.first == bytes);
    let empty = origins.open_file(OTHER, descriptor(&written(b"")), 10).await.unwrap();
    assert_eq!((empty.len_bytes, empty.first.len()), (0, 0));
}

#[tokio::test]
async fn a_file_that_changes_is_another() {
    let origins = origins(Vec::new());
    for change in [
        |path: &std::path::Path| std::fs::write(path, pattern(100)).unwrap(),
        |path: &std::path::Path| OpenOptions::new().write(true).open(path).unwrap().set_len(50).unwrap(),
        |path: &std::path::Path| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap()
        },
    ] {
        let file = written(&pattern(200));
        let source = origins.open_file(OTHER, descriptor(&file), 10).await.unwrap();
        // Times move on in steps of the kernel's clock.
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(file.path());
        assert!(matches!(read(&source, 0, 200).await, Err(OriginError::Changed(_))));
        let now = origins.open_file(OTHER, descriptor(&file), 10).await.unwrap();
        assert_ne!(now.version, source.version);
    }
    // Another file under the name is no change of the one that is open.
    let file = written(&pattern(200));
    let source = origins.open_file(OTHER, descriptor(&file), 10).await.unwrap();
    let path = file.path().to_owned();
    let kept = File::open(&path).unwrap();
    std::fs::write(path.with_extension("new"), b"new").unwrap();
    assert!(read(&source, 0, 200).await.unwrap() == pattern(200));
    std::fs::remove_file(path.with_extension("new")).unwrap();
    drop(kept);
}

#[tokio::test]
async fn only_regular_files_that_are_open_for_reading_are_taken() {
    let origins = origins(Vec::new());
    let file = written(b"x");
    let open = |options: &mut OpenOptions, path: &str| -> OwnedFd { options.open(path).unwrap().into() };
    let path = file.path().to_str().unwrap();
    let (pipe, _other_end) = nix::unistd::pipe().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let descriptors: Vec<(&str, OwnedFd)> = vec![
        ("read and write", open(OpenOptions::new().read(true).write(true), path)),
        ("write", open(OpenOptions::new().write(true), path)),
        ("path", open(OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()), path)),
        ("directory", File::open("/").unwrap().into()),
        ("device", File::open("/dev/zero").unwrap().into()),
        ("pipe", pipe),
        ("socket", socket.into()),
        ("proc", File::open("/proc/self/stat").unwrap().into()),
        (
            "sys",
            File::open("/sys/kernel/mm/transparent_hugepage/enabled")
                .or_else(|_| File::open("/proc/stat"))
                .unwrap()
                .into(),
        ),
    ];
    for (name, descriptor) in descriptors {
        let error = origins.open_file(OTHER, descriptor, 10).await.expect_err(name);
        assert!(matches!(error, OriginError::Invalid(_)), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn memory_outside_its_map_is_an_error_and_no_panic() {
    let origins = origins(Vec::new());
    let source = origins.open_file(OTHER, descriptor(&written(&pattern(100_000))), 10).await.unwrap();
    let mut memory = super::memory(10);
    memory.len_bytes = 50_000;
    let error = source.read(0, memory).await.unwrap_err();
    assert!(matches!(&error, OriginError::Failed(why) if why.contains("outside")), "{error:?}");
}
