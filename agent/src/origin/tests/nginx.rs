//! A server as sites have it.

use larder_testbed::server::{Files, Server};

use super::{anybody, listed, open, origins, pattern, read};
use crate::origin::{OriginError, Validity};

const LEN: usize = 3_000_000;

#[tokio::test]
async fn files_of_a_web_server_are_read_in_ranges_of_one_version() {
    let server = match Files::start() {
        Ok(server) => server,
        Err(absent) => return println!("SKIPPED: {absent}"),
    };
    let (directory, base) = (server.directory(), format!("http://{}", server.address()));
    std::fs::create_dir(directory.join("data")).unwrap();
    let bytes = pattern(LEN);
    std::fs::write(directory.join("data/a b"), &bytes).unwrap();
    std::fs::write(directory.join("data/small"), b"small").unwrap();
    std::fs::write(directory.join("data/empty"), b"").unwrap();
    std::fs::write(directory.join("secret"), b"secret").unwrap();
    let origins = origins(vec![listed(&format!("{base}/data/"))]);
    let url = |name: &str| format!("{base}/data/{name}");

    let source = open(&origins, &url("a%20b?x=%2f"), 1000).await.unwrap().unwrap();
    assert_eq!((source.len_bytes, source.is_ranged), (LEN as u64, true));
    let reads = (0..6).map(|at| read(&source, at * 500_000, 500_000));
    let all = futures_util::future::join_all(reads).await;
    assert!(all.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat() == bytes);
    assert_eq!(open(&origins, &url("small"), 1000).await.unwrap().unwrap().first, b"small");
    assert_eq!(open(&origins, &url("empty"), 1000).await.unwrap().unwrap().len_bytes, 0);
    assert!(open(&origins, &url("nothing"), 1000).await.unwrap().is_none());

    // This server decodes before it resolves dots, so that each of these would be the other file.
    for hidden in ["../secret", "%2e%2e/secret", "..%2fsecret", "%2e%2e%2fsecret", "x/..%2f../secret"] {
        let error = open(&origins, &url(hidden), 10).await.unwrap_err();
        assert!(matches!(error, OriginError::Denied(_) | OriginError::Invalid(_)), "{hidden}: {error:?}");
    }
    // The log is a little behind what was answered, but never by more than the last request.
    let accesses: Vec<_> = server.accesses().iter().map(|access| format!("{access:?}")).collect();
    assert!(!accesses.iter().any(|access| access.contains("secret")), "{accesses:?}");
    assert_eq!(accesses.iter().filter(|access| access.contains("/data/small")).count(), 1, "{accesses:?}");

    let version = source.version.clone().unwrap();
    let elsewhere = origins.check(&anybody(), &base, &version).await;
    assert!(matches!(elsewhere, Err(OriginError::Denied(_))), "{elsewhere:?}");
    let url = url("a%20b");
    assert_eq!(origins.check(&anybody(), &url, &version).await, Ok(Validity::Same));
    std::fs::write(directory.join("data/a b"), &bytes[1..]).unwrap();
    assert!(matches!(read(&source, 0, 1000).await, Err(OriginError::Changed(_))));
    assert_eq!(origins.check(&anybody(), &url, &version).await, Ok(Validity::Changed));
    std::fs::remove_file(directory.join("data/a b")).unwrap();
    assert!(matches!(read(&source, 0, 1000).await, Err(OriginError::Changed(_))));
    assert_eq!(origins.check(&anybody(), &url, &version).await, Ok(Validity::Gone));
}
