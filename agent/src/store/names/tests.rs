use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const UID: u32 = 1_000;
const INCARNATION: u128 = 0x0123_4567_89ab_cdef_0000_0000_0000_002a;
const HASH_OF_300_A: &str = "5e563f2cb28d2005c1d17581d8eb7e21";

fn prefix() -> String {
    incarnation(UID, "a/b", INCARNATION)
}

/// The part of a block's name behind the incarnation.
fn tail(key: &str) -> String {
    block("", key)
}

/// What goes wrong most easily: dots, suffixes, escapes, hashes.
fn tricky() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        ".", "..a", ".block", ".ns", "block", "ns", "%", "%~", "%2E", "~", "k", "K", " ", "é", "漢", "\\", "options",
        "=",
    ]);
    vec(pieces, 1..4).prop_map(|pieces| pieces.concat())
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => tricky(),
        2 => "[^/\\p{Cc}]{1,20}",
        1 => "[a-c.]{180,230}",
        1 => "[é漢%]{20,80}",
        1 => (185_usize..205).prop_map(|len| "a".repeat(len)),
        1 => (500_usize..700).prop_map(|len| "a".repeat(len)),
    ]
}

/// Legal paths of at most `most` bytes.
fn path(most: usize) -> impl Strategy<Value = String> {
    vec(component(), 1..6).prop_filter_map("a component alone is too long", move |components| {
        let legal = components.into_iter().filter(|component| component != "." && component != "..");
        let mut path = String::new();
        for component in legal {
            if path.len() + component.len() < most {
                let separator = if path.is_empty() { "" } else { "/" };
                path = format!("{path}{separator}{component}");
            }
        }
        (!path.is_empty()).then_some(path)
    })
}

fn assert_obeys_the_contract(name: &str) {
    assert!(name.len() <= 900, "{} bytes: {name}", name.len());
    for component in name.split('/') {
        assert!((1..=255).contains(&component.len()), "{component:?} of {name}");
        assert!(component.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{name:?}");
        assert!(!component.starts_with('.'), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_name_tells_its_key_or_that_it_was_hashed(key in path(1_024)) {
        let name = block(&prefix(), &key);
        let expected = if name.contains("%~") { Named::Hashed } else { Named::Key(key.clone()) };
        prop_assert_eq!(key_of(&prefix(), &name), Some(expected));
        // An escaped byte takes three.
        if key.len() * 3 <= COMPONENT_BYTES_MAX - KEY.suffix.len() {
            prop_assert!(!name.contains("%~"), "a short key was hashed: {}", name);
        }
    }

    #[test]
    fn a_record_tells_its_namespace_or_that_it_was_hashed(name in path(255)) {
        let record = options(UID, &name);
        let expected = if record.contains("%~") { Named::Hashed } else { Named::Key(name.clone()) };
        prop_assert_eq!(namespace_of(&tenant(UID), &record), Some(expected));
        prop_assert!(record.starts_with(&namespace(UID, &name)));
        prop_assert_eq!(key_of(&prefix(), &record), None);
    }

    #[test]
    fn every_name_is_one_that_backends_take(name in path(255), key in path(1_024), uid: u32, number: u128) {
        assert_obeys_the_contract(&options(uid, &name));
        assert_obeys_the_contract(&block(&incarnation(uid, &name, number), &key));
        assert_obeys_the_contract(group(&incarnation(uid, &name, number), &key).trim_end_matches('/'));
    }

    #[test]
    fn names_are_different_and_none_is_a_directory_of_another(
        names in prop::collection::btree_set(path(255), 1..8),
        keys in prop::collection::btree_set(path(1_024), 1..12),
    ) {
        let mut all: Vec<String> = names.iter().map(|name| options(UID, name)).collect();
        for name in &names {
            all.extend(keys.iter().map(|key| block(&incarnation(UID, name, 7), key)));
        }
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                prop_assert!(at == other_at || one != other, "twice {}", one);
                prop_assert!(!other.starts_with(&format!("{one}/")), "{} is a directory of {}", one, other);
            }
        }
    }

    #[test]
    fn only_the_name_of_a_key_reads_as_that_key(key in path(300), at: prop::sample::Index, by in "[ -~]{0,4}") {
        let mut name = block(&prefix(), &key);
        let at = prefix().len() + at.index(name.len() - prefix().len());
        name.replace_range(at..=at, &by);
        if let Some(Named::Key(read)) = key_of(&prefix(), &name) {
            prop_assert_eq!(check_key(&read), Ok(()));
            prop_assert_eq!(block(&prefix(), &read), name);
        }
    }

    #[test]
    fn any_text_reads_as_a_key_only_if_it_is_its_name(
        text in "(%~/|%~)?[a-zA-Z0-9./%~]{0,12}(%[0-9A-Fa-f]{2}){0,3}(/%~[0-9a-f]{32})?(\\.block)?",
    ) {
        if let Some(Named::Key(read)) = key_of("", &text) {
            prop_assert_eq!(check_key(&read), Ok(()));
            prop_assert_eq!(tail(&read), text);
        }
    }

    #[test]
    fn the_group_of_any_beginning_has_the_key(key in path(1_024)) {
        let name = block(&prefix(), &key);
        for (at, _) in key.char_indices().chain([(key.len(), ' ')]) {
            let group = group(&prefix(), &key[..at]);
            prop_assert!(group.starts_with(&prefix()) && group.ends_with('/'));
            prop_assert!(
                name.starts_with(&group) || name.starts_with(&hashed(&prefix())),
                "{} is in neither {} nor the hashed", name, group,
            );
        }
    }

    #[test]
    fn the_group_of_anything_is_a_prefix(beginning in ".{0,40}") {
        let group = group(&prefix(), &beginning);
        prop_assert!(group.starts_with(&prefix()) && group.ends_with('/') && !group.contains("//"));
    }
}

#[test]
fn names_are_as_the_document_says() {
    assert_eq!(tenant(1_000), "larder-1/u1000/");
    assert_eq!(namespace(1_000, "a/b"), "larder-1/u1000/a/b.ns/");
    assert_eq!(options(1_000, "a/b"), "larder-1/u1000/a/b.ns/options");
    assert_eq!(prefix(), "larder-1/u1000/a/b.ns/0123456789abcdef000000000000002a/");
    assert_eq!(block(&prefix(), "t2m"), "larder-1/u1000/a/b.ns/0123456789abcdef000000000000002a/t2m.block");
    assert_eq!(namespace(0, "a.ns/b.ns"), "larder-1/u0/a.n%73/b.ns.ns/");
    for (key, name) in [
        ("climate/2026/t2m", "climate/2026/t2m.block"),
        ("A-z_0.9=+,@", "A-z_0.9=+,@.block"),
        ("a b", "a%20b.block"),
        ("100%", "100%25.block"),
        ("~", "%7E.block"),
        ("é", "%C3%A9.block"),
        (".hidden/.x", "%2Ehidden/%2Ex.block"),
        ("...", "%2E...block"),
        ("a.block", "a.block.block"),
        ("a.block/b", "a.bloc%6B/b.block"),
        ("a.ns/b", "a.n%73/b.block"),
        (".ns/b", "%2En%73/b.block"),
    ] {
        assert_eq!(tail(key), name);
        assert_eq!(key_of("", name), Some(Named::Key(key.to_owned())));
    }
}

#[test]
fn long_components_and_long_keys_are_hashed_from_the_byte_that_is_stated() {
    let longest = "a".repeat(194);
    assert_eq!(tail(&longest), format!("{longest}.block"));
    let hashed_component = tail(&"a".repeat(195));
    assert_eq!(hashed_component.len(), 2 + 32 + 6);
    assert!(hashed_component.starts_with("%~") && !hashed_component.contains('/'));

    let directory = "a".repeat(200);
    assert_eq!(tail(&format!("{directory}/b")), format!("{directory}/b.block"));
    assert_eq!(tail(&format!("{}/b", "a".repeat(300))), format!("%~{HASH_OF_300_A}/b.block"));

    let key_of_600 = format!("{directory}/{directory}/{}", "b".repeat(198));
    assert_eq!(key_of_600.len(), 600);
    assert!(!tail(&key_of_600).starts_with("%~/"));
    let hashed_key = tail(&format!("{key_of_600}b"));
    assert!(hashed_key.starts_with("%~/"), "{hashed_key}");
    assert_eq!(hashed_key.len(), 3 + 32 + 6);

    let name_of_230 = format!("{}/{}", "a".repeat(114), "b".repeat(115));
    assert_eq!(namespace(UID, &name_of_230), format!("larder-1/u1000/{name_of_230}.ns/"));
    assert!(namespace(UID, &format!("{name_of_230}b")).starts_with("larder-1/u1000/%~/"));
}

#[test]
fn the_longest_possible_name_is_within_the_contract() {
    let name = format!("{}/{}", "a".repeat(114), "b".repeat(115));
    let key = format!("{}/{}/{}/{}", "a".repeat(200), "b".repeat(200), "c".repeat(100), "d".repeat(97));
    let longest = block(&incarnation(u32::MAX, &name, u128::MAX), &key);
    assert!(!longest.contains('%'), "{longest}");
    assert_eq!(longest.len(), 894);
    assert_obeys_the_contract(&longest);
    assert_eq!(key_of(&incarnation(u32::MAX, &name, u128::MAX), &longest), Some(Named::Key(key)));
}

#[test]
fn other_names_are_no_blocks() {
    let hash = "0".repeat(32);
    for name in [
        "a",
        "a.ns",
        ".block",
        "a/.block",
        "/a.block",
        "a//b.block",
        "../a.block",
        "./a.block",
        "%2E.block",
        "%2E%2E.block",
        "%2e.block",
        "a%2Fb.block",
        "%2F.block",
        "a%00.block",
        "a%0.block",
        "a%.block",
        "a%zz.block",
        "%61.block",
        "a b.block",
        "é.block",
        "%C3.block",
        "a.block/b.block",
        "a.ns/b.block",
        "%~.block",
        "%~/.block",
        "%~0.block",
        "a/%~/b.block",
        &format!("%~/{hash}/a.block"),
        &format!("a/%~/{hash}.block"),
        &format!("%~{}.block", "A".repeat(32)),
        &format!("%~{hash}0.block"),
        &format!("a%2Fb/%~{hash}.block"),
        &format!("a%00/%~{hash}.block"),
        &format!("%2E/%~{hash}.block"),
        &format!("{}b.block", "a/".repeat(300)),
        &format!("{}.block", "a".repeat(195)),
    ] {
        assert_eq!(key_of("", name), None, "{name}");
    }
    assert_eq!(key_of(&prefix(), &block(&incarnation(UID, "a/b", 1), "a")), None);
    assert_eq!(
        key_of("", &format!("{}bc.block", "a/".repeat(299))),
        Some(Named::Key(format!("{}bc", "a/".repeat(299))))
    );
    assert_eq!(namespace_of(&tenant(UID), &options(UID + 1, "a")), None);
    for name in
        ["larder-1/u1000/options", "larder-1/u1000/a/options", "larder-1/u1000/.ns/options", "larder-1/u1000/a.ns"]
    {
        assert_eq!(namespace_of(&tenant(UID), name), None, "{name}");
    }
}

#[test]
fn a_group_is_the_deepest_directory_that_is_sure() {
    let inside = |key_prefix: &str| group(&prefix(), key_prefix).strip_prefix(&prefix()).map(str::to_owned);
    for (key_prefix, expected) in [
        ("", ""),
        ("a", ""),
        ("a/", "a/"),
        ("a/b", "a/"),
        ("a/b/", "a/b/"),
        ("a.block/", "a.bloc%6B/"),
        ("é/x", "%C3%A9/"),
        ("/", ""),
        ("a//b", "a/"),
    ] {
        assert_eq!(inside(key_prefix).as_deref(), Some(expected), "{key_prefix}");
    }
    assert_eq!(inside(&format!("{}/b", "a".repeat(300))), Some(format!("%~{HASH_OF_300_A}/")));
    let directory = "a".repeat(199);
    let of_599 = format!("{directory}/{directory}/{}/", "a".repeat(198));
    assert_eq!(inside(&of_599), Some(of_599.clone()));
    assert_eq!(inside(&format!("{directory}/{directory}/{directory}/")), Some("%~/".to_owned()));
    assert_eq!(hashed(&prefix()), format!("{}%~/", prefix()));
}

#[test]
fn the_document_names_what_is_written() {
    let document = include_str!("../../../../docs/store-format.md");
    let example = block(&incarnation(1_000, "job/1234", 0x0123_4567_89ab_cdef_0000_0000_0000_002a), "climate/2026/t2m");
    assert!(document.contains(&format!("\n{example}\n")), "the document does not name {example}");
    for key in ["t2m", "a b/é", "100%", ".hidden/x.block", "x.block/y"] {
        let row = format!("\n| `{key}` | `{}` |\n", tail(key));
        assert!(document.contains(&row), "the document has not the row {row}");
    }
    for (described, key) in
        [("300 times `a`, then `/b`", format!("{}/b", "a".repeat(300))), ("1024 times `a`", "a".repeat(1_024))]
    {
        let row = format!("\n| {described} | `{}` |\n", tail(&key));
        assert!(document.contains(&row), "the document has not the row {row}");
    }
    for number in [COMPONENT_BYTES_MAX, KEY.path_bytes_max, NAMESPACE.path_bytes_max] {
        assert!(document.contains(&format!(" {number} ")) || document.contains(&format!("({number} ")), "{number}");
    }
}
