//! Who may fetch what.

use super::super::failure::OriginError;
use super::super::policy::{Caller, Keys, Policy, Right, Rule, Secret, SessionCredential};
use super::super::url::{OriginUrl, Prefix};

const OWN: u32 = 500;

fn rule(prefix: &str, users: Option<&[u32]>) -> Rule {
    Rule { prefix: Prefix::parse(prefix).unwrap(), users: users.map(<[u32]>::to_vec), is_public: false }
}

fn bearer(prefix: &str) -> SessionCredential {
    SessionCredential::new(prefix, Keys::Bearer(Secret::new("geheim"))).unwrap()
}

fn policy() -> Policy {
    Policy::new(
        OWN,
        vec![
            rule("https://data/", None),
            rule("https://data/secret/", Some(&[1])),
            rule("https://data/secret/", Some(&[2])),
            rule("s3://bucket/a/", Some(&[1])),
        ],
    )
}

fn right<'a>(uid: u32, credentials: &'a [SessionCredential], url: &str) -> Result<Right<'a>, String> {
    let url = OriginUrl::parse(url).unwrap();
    policy().right(Caller { uid, credentials }, &url).map_err(|error| {
        assert!(matches!(error, OriginError::Denied(_)), "{error:?}");
        error.to_string()
    })
}

#[test]
fn the_longest_listed_prefix_decides_alone() {
    for uid in [1, 2, 3] {
        assert_eq!(right(uid, &[], "https://data/x"), Ok(Right::Listed(0)));
        assert_eq!(right(uid, &[], "https://data/secrets"), Ok(Right::Listed(0)));
    }
    assert_eq!(right(1, &[], "https://data/secret/x"), Ok(Right::Listed(1)));
    assert_eq!(right(2, &[], "https://data/secret"), Ok(Right::Listed(2)));
    assert_eq!(
        right(3, &[], "https://data/secret/x?sig=geheim").unwrap_err(),
        "user 3 may not fetch https://data/secret/x: https://data/secret/ is listed for others; ask for user 3 to be added \
         to the users of [[origin]] prefix = \"https://data/secret/\""
    );
    assert_eq!(right(1, &[], "s3://bucket/a/b"), Ok(Right::Listed(3)));
    assert!(right(1, &[], "s3://bucket/ab").is_err());
}

#[test]
fn what_nobody_listed_is_for_the_agents_user_alone() {
    assert_eq!(right(OWN, &[], "https://other/x"), Ok(Right::Own));
    assert_eq!(right(OWN, &[], "https://data/secret/x"), Ok(Right::Own));
    assert_eq!(right(OWN, &[], "https://data/x"), Ok(Right::Listed(0)));
    for (uid, url) in
        [(1, "https://other/a/x?sig=geheim"), (0, "https://other/a/x"), (1, "http://data/x"), (1, "https://data:444/")]
    {
        let why = right(uid, &[], url).unwrap_err();
        assert!(why.contains("it is not listed") && !why.contains("geheim"), "{why}");
    }
    let why = right(1, &[], "https://other/a/x").unwrap_err();
    assert!(why.contains("[[origin]] prefix = \"https://other/a/\""), "{why}");
}

#[test]
fn an_escaped_slash_does_not_slip_past_a_table() {
    for url in [
        "https://data/secret%2Fx",
        "https://data/secret%252Fx",
        "https://data//secret/x",
        "https://data/%2Fsecret/x",
        "https://data/secret;a/x",
        "https://data/;/secret/x",
        "https://data/a%2F",
    ] {
        let granted = right(3, &[], url);
        assert!(granted.is_err() || url.ends_with("a%2F"), "{url} {granted:?}");
    }
    let why = right(3, &[], "https://data/secret%2Fx").unwrap_err();
    assert!(why.contains("escapes"), "{why}");
    // The agent's user asks with that user's rights, however the server reads it.
    assert_eq!(right(OWN, &[], "https://data/secret%2Fx"), Ok(Right::Own));
}

#[test]
fn a_sessions_own_keys_open_what_they_are_for() {
    let own = [bearer("https://mine/a/"), bearer("https://data/secret/"), bearer("https://data/secret/")];
    assert_eq!(right(3, &own, "https://mine/a/x"), Ok(Right::Session(&own[0], None)));
    assert!(right(3, &own, "https://mine/ab").is_err());
    assert!(right(3, &own, "http://mine/a/x").is_err());
    assert!(right(3, &own, "https://mine/a%2Fb/x").is_err());
    // The newest, and only over a way that is listed for this user.
    assert_eq!(right(3, &own, "https://data/secret/x"), Ok(Right::Session(&own[2], None)));
    assert_eq!(right(1, &own, "https://data/secret/x"), Ok(Right::Session(&own[2], Some(1))));
    assert_eq!(right(1, &own, "https://data/x"), Ok(Right::Listed(0)));
    assert_eq!(right(OWN, &own, "https://mine/a/x"), Ok(Right::Session(&own[0], None)));
}

#[test]
fn keys_are_for_their_kind_of_origin_and_never_printed() {
    let s3 = || Keys::S3 {
        key_id: "id".into(),
        secret_key: Secret::new("geheim"),
        token: Some(Secret::new("geheim")),
        region: None,
        endpoint: None,
    };
    assert!(SessionCredential::new("s3://bucket/", s3()).is_ok());
    assert!(SessionCredential::new("https://h/", s3()).is_err());
    assert!(SessionCredential::new("s3://bucket/", Keys::Bearer(Secret::new("t"))).is_err());
    assert!(SessionCredential::new("gs://bucket/", Keys::Bearer(Secret::new("t"))).is_ok());
    assert!(SessionCredential::new("az://bucket/", Keys::AzureSas(Secret::new("t"))).is_ok());
    assert!(SessionCredential::new("gs://bucket/", Keys::AzureKey(Secret::new("t"))).is_err());
    assert!(SessionCredential::new("nonsense", Keys::Bearer(Secret::new("t"))).is_err());
    for credential in [SessionCredential::new("s3://bucket/", s3()).unwrap(), bearer("https://h/")] {
        assert!(!format!("{credential:?}").contains("geheim"));
    }
}
