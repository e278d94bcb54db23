//! Spellings of URLs, and which a prefix covers.

use proptest::prelude::*;

use super::super::url::{Covered, OriginUrl, Prefix, UrlError};

fn parse(text: &str) -> OriginUrl {
    OriginUrl::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn covers(prefix: &str, url: &str) -> bool {
    let covered = Prefix::parse(prefix).unwrap().covers(&parse(url));
    covered.literal.is_some() && covered.folded.is_some()
}

#[test]
fn the_spellings_of_one_place_are_one() {
    for (spelling, plain) in [
        ("HTTP://Good.Example.:80/a", "http://good.example/a"),
        ("https://good.example:443", "https://good.example/"),
        ("https://b\u{fc}cher.example/", "https://xn--bcher-kva.example/"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://0177.0.0.01/", "http://127.0.0.1/"),
        ("http://127.0.0.1./", "http://127.0.0.1/"),
        ("http://%31%32%37.1/", "http://127.0.0.1/"),
        ("http://\u{ff11}27.0.0.1/", "http://127.0.0.1/"),
        ("http://[::ffff:127.0.0.1]/", "http://127.0.0.1/"),
        ("http://[0:0::1]/", "http://[::1]/"),
        ("http://h/a/./b/../c/%2e%2E/d", "http://h/a/d"),
        ("S3://bucket/a/%2e%2e/b", "s3://bucket/b"),
    ] {
        assert_eq!(parse(spelling), parse(plain), "{spelling}");
    }
    // The query goes to the server as it is.
    assert_eq!(parse("http://h/a?b=%2f&c=a+b%20").url().as_str(), "http://h/a?b=%2f&c=a+b%20");
}

#[test]
fn what_hides_where_it_leads_is_refused() {
    let refused = |text: &str| OriginUrl::parse(text).expect_err(text);
    for text in ["http://good@evil/", "http://@evil/", "http://a:b@evil/", "https://good:x@evil@good/", "s3://key@b/k"]
    {
        assert_eq!(refused(text), UrlError::UserInfo, "{text}");
    }
    for text in
        ["http://good\\@evil/", "http:\\\\evil/", "http://h/a\\..\\b", "http://h/\u{0}", "http://h/a\n", " http://h/"]
    {
        assert_eq!(refused(text), UrlError::Characters, "{text:?}");
    }
    assert_eq!(refused("http://h/%00"), UrlError::Characters);
    for text in ["http://h/a#b", "http://h#@evil/", "s3://bucket/a#b"] {
        assert_eq!(refused(text), UrlError::Fragment, "{text}");
    }
    for text in [
        "http://h/data/..%2fevil",
        "http://h/data/%2e%2e%2fevil",
        "http://h/data/%252e%252e/evil",
        "http://h/data/%25252e%25252e/evil",
        "http://h/data/..%5cevil",
        "http://h/data/..;/evil",
        "http://h/data/..;a=b/evil",
        "http://h/data/%2e%2e%3b/evil",
        "http://h/%2525252525252e/evil",
        "s3://bucket/data/..%2fevil",
    ] {
        assert_eq!(refused(text), UrlError::HiddenDots, "{text}");
    }
    for text in ["", "good", "http:good", "http:/good", "http:///good", "http://", "//good/", "http://?a"] {
        assert_eq!(refused(text), UrlError::Form, "{text}");
    }
    for text in ["file:///etc/passwd", "ftp://h/", "gopher://h/", "data://x", "javascript://x"] {
        assert!(matches!(refused(text), UrlError::Scheme(_)), "{text}");
    }
    for text in [
        "http://a..b/",
        "http://h:0/",
        "http://h:99999/",
        "http://1.2.3.4.5/",
        "http://[::1/",
        "http://a%2fb/",
        "http://.../",
    ] {
        assert_eq!(refused(text), UrlError::Host, "{text}");
    }
    for text in ["s3://bucket:9/k", "s3://bucket/k?versionId=1"] {
        assert_eq!(refused(text), UrlError::BucketExtras, "{text}");
    }
    assert_eq!(refused("s3://bu%63ket/k"), UrlError::Bucket);
    assert_eq!(refused(&format!("http://h/{}", "a".repeat(20_000))), UrlError::TooLong);
    assert_eq!(Prefix::parse("http://h/?a"), Err(UrlError::PrefixQuery));
}

#[test]
fn a_prefix_covers_whole_segments_of_one_place() {
    for (prefix, url) in [
        ("http://good/", "http://good/"),
        ("http://good", "http://GOOD:80/a?b"),
        ("http://good/data", "http://good/data"),
        ("http://good/data/", "http://good/data/"),
        ("http://good/data/", "http://good/data/a/b"),
        ("http://good/data", "http://good/%64ata/a"),
        ("http://good/data", "http://good/x/../data/a"),
        ("http://good/a%2Fb", "http://good/a%2fb/c"),
        ("http://good/a/", "http://good/a//b"),
        ("s3://bucket/", "s3://bucket/a"),
        ("s3://bucket/a", "s3://bucket/a/b"),
    ] {
        assert!(covers(prefix, url), "{prefix} {url}");
    }
    for (prefix, url) in [
        ("http://good/", "https://good/"),
        ("http://good/", "http://good:8080/"),
        ("http://good/", "http://good.evil/"),
        ("http://good/", "http://evil.good/"),
        ("http://good/", "http://goo/d"),
        ("http://good/data", "http://good/"),
        ("http://good/data", "http://good/database"),
        ("http://good/data", "http://good/data/../evil"),
        ("http://good/data", "http://good/data/%2e%2E/evil"),
        ("http://good/data", "http://good/DATA/a"),
        ("http://good/data", "http://good/data%2Fa"),
        ("http://good/data", "http://good/data;/a"),
        ("http://127.0.0.1/", "http://localhost/"),
        ("s3://bucket/a", "s3://bucket/ab"),
        ("s3://bucket/", "gs://bucket/a"),
        ("s3://bucket/", "s3://Bucket/a"),
    ] {
        assert!(!covers(prefix, url), "{prefix} {url}");
    }
}

#[test]
fn redirects_are_read_like_urls() {
    let from = parse("https://h/a/b?c=d");
    let to = |location: &str| from.join(location).map(|url| url.url().to_string());
    assert_eq!(to("x?y=%2f").unwrap(), "https://h/a/x?y=%2f");
    assert_eq!(to("/x#part").unwrap(), "https://h/x");
    assert_eq!(to("//other/x").unwrap(), "https://other/x");
    assert_eq!(to("http://other/").unwrap(), "http://other/");
    assert_eq!(to("https://u:p@other/"), Err(UrlError::UserInfo));
    assert_eq!(to("/\\other"), Err(UrlError::Characters));
    assert_eq!(to("..%2fx"), Err(UrlError::HiddenDots));
    assert!(matches!(to("file:///etc/passwd"), Err(UrlError::Scheme(_) | UrlError::Form)));
}

#[test]
fn nothing_secret_is_printed() {
    let url = parse("https://h/a?X-Amz-Signature=geheim");
    for text in [format!("{url}"), format!("{url:?}"), url.suggested_prefix()] {
        assert!(!text.contains("geheim"), "{text}");
    }
    assert_eq!(parse("https://h/a/b/c?d").suggested_prefix(), "https://h/a/b/");
    assert_eq!(parse("https://h").suggested_prefix(), "https://h/");
    assert_eq!(format!("{}", parse(&format!("http://h/{}", "a".repeat(1000)))).len(), 303);
}

/// What a free reader of a path makes of it: everything unescaped as often as it goes, both slashes alike and merged, no
/// parameters, dots resolved.
fn free_reading(path: &str) -> Vec<String> {
    let mut text = path.to_owned();
    for _ in 0..20 {
        let mut next = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find('%') {
            next.push_str(&rest[..at]);
            let value = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            match value {
                Some(value) if value.is_ascii() => {
                    next.push(char::from(value));
                    rest = &rest[at + 3..];
                }
                _ => {
                    next.push('%');
                    rest = &rest[at + 1..];
                }
            }
        }
        next.push_str(rest);
        text = next;
    }
    let mut out: Vec<String> = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(out.pop()),
            name => out.push(name.to_owned()),
        }
    }
    out
}

const PIECES: [&str; 34] = [
    "/", "/", "/", "data", "data", "secret", "x", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", ";", ";a", "%3b",
    "%25", "%252e", "%252f", "%64ata", "%", "%2", "//", "?", "@", ":", "#", "+", "%00", "\u{e9}", "..;", "%c0%ae",
];
const HOSTS: [&str; 22] = [
    "good", "evil", ".", "@", ":", "80", "8080", "/", "\\", "%2e", "%40", "#", "?", "[", "]", "::1", "127.1", "0x7f",
    "GOOD", "-", "\u{3002}", "%67ood",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_spelling_of_a_path_leads_out_of_its_prefix(
        begins in prop::sample::select(vec!["", "data", "data/", "x/../data/"]),
        pieces in prop::collection::vec(0..PIECES.len(), 0..12),
    ) {
        let path: String = std::iter::once(begins).chain(pieces.iter().map(|piece| PIECES[*piece])).collect();
        let prefix = Prefix::parse("http://good/data/").unwrap();
        if let Ok(url) = OriginUrl::parse(&format!("http://good/{path}"))
            && let Covered { literal: Some(_), folded: Some(_) } = prefix.covers(&url)
        {
            // What is sent, as the freest server reads it.
            let read = free_reading(url.url().path());
            prop_assert_eq!(read.first().map(String::as_str), Some("data"), "{} {:?}", path, read);
        }
    }

    #[test]
    fn no_spelling_of_a_host_leads_to_another(pieces in prop::collection::vec(0..HOSTS.len(), 0..8)) {
        let authority: String = pieces.iter().map(|piece| HOSTS[*piece]).collect();
        let prefix = Prefix::parse("http://good/").unwrap();
        if let Ok(url) = OriginUrl::parse(&format!("http://{authority}/"))
            && prefix.covers(&url).literal.is_some()
        {
            let sent = url.url().as_str();
            prop_assert_eq!(sent.split(['/', '?']).nth(2), Some("good"), "{}", authority);
            prop_assert!(authority.split(['/', '?']).next().unwrap().bytes().all(|byte| byte != b'@'));
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "(https?|s3|gs|az)?(://)?.{0,60}") {
        let (url, prefix) = (OriginUrl::parse(&text), Prefix::parse(&text));
        if let Ok(url) = url {
            // What was read once is read the same again.
            prop_assert_eq!(OriginUrl::parse(url.url().as_str()), Ok(url.clone()));
            let _ = url.join(&text);
            if let Ok(prefix) = prefix {
                prop_assert!(prefix.covers(&url).literal.is_some());
            }
        }
    }
}
