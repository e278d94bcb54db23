//! Lists are in byte order and whole, whatever the order of the server.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::faults::{Fault, Faulty};
use super::*;

async fn filled(fault: Fault, names: &[&str]) -> (Arc<Faulty>, Remote) {
    let objects = Faulty::new(fault);
    for name in names {
        let key = Path::parse(format!("p/{name}")).unwrap();
        objects.inner.put(&key, vec![1].into()).await.unwrap();
    }
    let store = over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "p/");
    // As whenever a store is opened: it shows the order.
    assert_eq!(probe(&store).await, Ok(()), "{fault:?}");
    (objects, store)
}

/// A whole list, page by page.
async fn pages(store: &Remote, prefix: &str, most: usize) -> Vec<String> {
    let (mut all, mut after): (Vec<String>, _) = (Vec::new(), String::new());
    loop {
        let page = store.list(prefix, &after, most).await.unwrap();
        assert!(page.len() <= most);
        let Some(last) = page.last() else { return all };
        after.clone_from(last);
        all.extend(page);
    }
}

const SERVERS: [Fault; 3] = [Fault::None, Fault::ListsTree, Fault::ListsFromStart];

#[tokio::test]
async fn names_come_in_byte_order_page_by_page() {
    let names = ["n/a-b", "n/a.c", "n/a/x", "n/a/y", "n/a0", "n/b", "n0", "o/1"];
    for fault in SERVERS {
        let (_, store) = filled(fault, &names).await;
        for most in 1..=names.len() + 1 {
            assert_eq!(pages(&store, "", most).await, names, "{fault:?} {most}");
            assert_eq!(pages(&store, "n/", most).await, names[..6], "{fault:?} {most}");
            assert_eq!(pages(&store, "n/a/", most).await, names[2..4], "{fault:?} {most}");
        }
        assert_eq!(store.list("none/", "", 10).await.unwrap(), [""; 0]);
        assert_eq!(store.list("", "", 0).await.unwrap(), [""; 0]);
        assert_eq!(store.list("", "zzz", 10).await.unwrap(), [""; 0]);
        for bad in ["n", "n//", "/", "../"] {
            assert!(matches!(store.list(bad, "", 1).await, Err(StoreError::Failed(_))), "{bad}");
        }
    }
}

#[tokio::test]
async fn large_objects_and_what_is_no_name_are_not_listed() {
    let foreign = [".hidden", "a/.b/c", "\u{e4}", "larder-1/large/x/00000000000000000000000000000000"];
    for fault in SERVERS {
        let (_, store) = filled(fault, &[&foreign[..], &["a/b"]].concat()).await;
        assert_eq!(pages(&store, "", 10).await, ["a/b"], "{fault:?}");
        let long = format!("a/{}", "x".repeat(256));
        store.place.reads.put(&Path::parse(format!("p/{long}")).unwrap(), vec![1].into()).await.unwrap();
        assert_eq!(pages(&store, "", 10).await, ["a/b"], "{fault:?}");
    }
}

#[tokio::test]
async fn where_every_page_needs_all_names_the_rest_is_kept_for_the_next() {
    let names: Vec<String> = (0..1000).map(|n| format!("n/{}/{n}", n % 7)).chain(["n/1-".to_owned()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (objects, store) = filled(Fault::ListsTree, &names).await;
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let before = objects.lists.load(Ordering::Relaxed);
    assert_eq!(pages(&store, "", 10).await, sorted);
    let lists = objects.lists.load(Ordering::Relaxed) - before;
    assert!(lists < 10, "{lists} lists for 100 pages");
    // Another list in between has its own rest.
    let first = store.list("", "", 10).await.unwrap();
    store.list("n/3/", "", 10).await.unwrap();
    assert_eq!(store.list("", &first[9], 10).await.unwrap(), sorted[10..20]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_names_are_listed_once_and_in_order(
        names in proptest::collection::btree_set("[a%+-]{1,2}(/[a%.-]{0,1}b){0,2}", 0..30), most in 1_usize..10, which in 0..SERVERS.len()
    ) {
        // A name is never also the beginning of another up to a slash, nor is a part of one hidden.
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| {
            !name.contains("/.") && !names.iter().any(|other| other.starts_with(&format!("{name}/")))
        }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listed = runtime.block_on(async {
            let (_, store) = filled(SERVERS[which], &names).await;
            pages(&store, "", most).await
        });
        prop_assert_eq!(listed, names);
    }
}

#[tokio::test]
async fn groups_are_what_leads_further() {
    for fault in SERVERS {
        let (_, store) = filled(fault, &["n/a/x", "n/a/y/z", "n/b", "n/c.ns/options", "n/%~/1/2", "m/a"]).await;
        let mut groups = store.groups("n/").await.unwrap();
        groups.sort_unstable();
        assert_eq!(groups, ["%~", "a", "c.ns"], "{fault:?}");
        assert_eq!(store.groups("n/a/").await.unwrap(), ["y"]);
        assert!(store.groups("absent/").await.unwrap().is_empty());
    }
}
