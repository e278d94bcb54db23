//! Lists against a naive model.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn model(names: &BTreeSet<String>, prefix: &str, after: &str, most: usize) -> Vec<String> {
    let fits = |name: &&String| name.starts_with(prefix) && name.as_str() > after;
    names.iter().filter(fits).take(most).cloned().collect()
}

/// Directories whose names sort on both sides of `/`, with and without a common beginning.
fn directories() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(vec!["a", "a-", "a.", "a0", "ab", "+", "Z", "%2F"]), 0..4)
}

fn names() -> impl Strategy<Value = BTreeSet<String>> {
    let leaf = proptest::sample::select(vec!["a.block", "a-.block", "a0.block", "b.block", "+.block", "~.block"]);
    let name = (directories(), leaf).prop_map(|(mut parts, leaf)| {
        parts.push(leaf);
        parts.join("/")
    });
    proptest::collection::btree_set(name, 0..40)
}

proptest! {
    #[test]
    fn a_list_is_in_byte_order_and_comes_in_pages(
        names in names(),
        empty in proptest::collection::vec(directories(), 0..4),
        prefix in directories(),
        behind in (directories(), "[a./+~-]{0,3}"),
        most in 1..9_usize,
    ) {
        let (dir, root) = {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::open(dir.path()).unwrap();
            (dir, root)
        };
        for name in &names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        for parts in &empty {
            fs::create_dir_all(dir.path().join(parts.join("/"))).unwrap();
        }
        fs::write(dir.path().join(".hidden"), "").unwrap();
        fs::create_dir(dir.path().join(".tmp")).unwrap();
        fs::write(dir.path().join(".tmp/x"), "").unwrap();
        let prefix: String = prefix.iter().flat_map(|part| [part, "/"]).collect();
        let after = behind.0.join("/") + &behind.1;
        let (expected, found) = (model(&names, &prefix, &after, most), list::list(&root, &prefix, &after, most));
        prop_assert_eq!(found.unwrap(), expected, "prefix {:?}, after {:?}, most {}", prefix, after, most);
        let (mut paged, mut last) = (Vec::new(), String::new());
        loop {
            let page = list::list(&root, &prefix, &last, most).unwrap();
            let Some(end) = page.last() else { break };
            last.clone_from(end);
            paged.extend(page);
        }
        prop_assert_eq!(paged, model(&names, &prefix, "", usize::MAX));
    }
}

#[tokio::test]
async fn a_list_of_what_is_not_there_is_empty_and_a_bad_prefix_an_error() {
    let (_dir, store) = store();
    store.publish("a/b", object(b"", b""), Mode::Create).await.unwrap();
    assert_eq!(store.list("b/", "", 10).await.unwrap(), [""; 0]);
    assert_eq!(store.list("", "", 0).await.unwrap(), [""; 0]);
    for prefix in ["a", "../", "/", "a//", ".tmp/"] {
        let listed = store.list(prefix, "", 10).await;
        assert!(matches!(listed, Err(StoreError::Failed(_))), "{prefix}: {listed:?}");
    }
}
