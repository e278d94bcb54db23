//! Addresses that nothing is fetched from, in all their clothes.

use std::net::IpAddr;

use super::super::address::{Reach, Special, canonical, special};
use super::super::url::{Host, OriginUrl};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

fn host(url: &str) -> Host {
    OriginUrl::parse(url).unwrap().place().host.clone()
}

#[test]
fn addresses_with_the_place_of_this_machine_are_special() {
    for (text, expected) in [
        ("127.0.0.1", Special::ThisMachine),
        ("127.255.255.254", Special::ThisMachine),
        ("0.0.0.0", Special::ThisMachine),
        ("0.1.2.3", Special::ThisMachine),
        ("::1", Special::ThisMachine),
        ("::", Special::ThisMachine),
        ("::ffff:127.0.0.1", Special::ThisMachine),
        ("::127.0.0.1", Special::ThisMachine),
        ("::ffff:0:127.0.0.1", Special::ThisMachine),
        ("64:ff9b::7f00:1", Special::ThisMachine),
        ("2002:7f00:1::", Special::ThisMachine),
        ("169.254.169.254", Special::LinkLocal),
        ("::ffff:169.254.169.254", Special::LinkLocal),
        ("64:ff9b::a9fe:a9fe", Special::LinkLocal),
        ("2002:a9fe:a9fe::1", Special::LinkLocal),
        ("fe80::1", Special::LinkLocal),
        ("febf::1", Special::LinkLocal),
        ("fd00:ec2::254", Special::Metadata),
        ("fd20:ce::254", Special::Metadata),
        ("100.100.100.200", Special::Metadata),
        ("168.63.129.16", Special::Metadata),
        ("192.0.0.192", Special::Metadata),
        ("224.0.0.1", Special::Many),
        ("239.255.255.255", Special::Many),
        ("255.255.255.255", Special::Many),
        ("ff02::1", Special::Many),
        ("240.0.0.1", Special::Reserved),
        ("64:ff9b:1::1", Special::Reserved),
    ] {
        assert_eq!(special(address(text)), Some(expected), "{text}");
    }
    for text in [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "1.1.1.1",
        "169.253.255.255",
        "169.255.0.0",
        "fd00::1",
        "fc00::1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "fec0::1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ] {
        assert_eq!(special(address(text)), None, "{text}");
    }
    assert_eq!(canonical(address("::ffff:10.0.0.1")), address("10.0.0.1"));
}

#[test]
fn only_what_is_named_opens_a_special_address() {
    let nothing = Reach::default();
    assert!(nothing.check("a", address("10.0.0.1")).is_ok());
    for url in [
        "http://127.0.0.1/",
        "http://0x7f.1/",
        "http://[::ffff:7f00:1]/",
        "http://169.254.169.254/",
        "http://[fe80::1]/",
    ] {
        assert!(nothing.check_host(&host(url)).is_err(), "{url}");
    }
    let one = Reach::of(vec![host("http://127.0.0.1:8080/")]);
    assert!(one.check_host(&host("http://[::ffff:127.0.0.1]/")).is_ok());
    assert!(one.check_host(&host("http://127.0.0.2/")).is_err());
    assert!(one.check_host(&host("http://[::1]/")).is_err());

    let local = Reach::of(vec![host("http://localhost/")]);
    assert!(local.check("localhost", address("127.0.0.1")).is_ok() && local.check("localhost", address("::1")).is_ok());
    assert!(local.check("localhost", address("169.254.169.254")).is_err());
    assert!(local.check("other", address("127.0.0.1")).is_err());
    assert!(local.check_host(&host("http://127.0.0.1/")).is_err());

    // Who owns a name decides where it leads.
    let name = Reach::of(vec![host("http://data.example.org/")]);
    assert!(name.check("data.example.org", address("192.0.2.1")).is_ok());
    let refused = name.check("data.example.org", address("169.254.169.254")).unwrap_err().to_string();
    assert_eq!(
        refused,
        "data.example.org is a link-local address, from which nothing is fetched unless the site lists a URL with the \
         address 169.254.169.254 itself"
    );
}
