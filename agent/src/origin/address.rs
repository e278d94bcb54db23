//! Which network addresses nothing is fetched from, and a resolver that never yields one.
//!
//! A machine answers some addresses that others cannot reach: its own, and those where a cloud hands out credentials.
//! Whoever could make the agent ask there would have the agent's place, not his own. So these are refused unless the site
//! has listed a URL with that very address. What is looked at is the address that the connection goes to: names are
//! resolved here and nowhere else, and a literal address is looked at before each request.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};

use thiserror::Error;
use tokio::sync::Semaphore;

use super::url::Host;

/// Names that may be looked up at once: a name server that hangs holds that many threads and no more.
const LOOKUPS_MAX: usize = 16;
static LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS_MAX)));

/// An address that nothing is fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    ThisMachine,
    LinkLocal,
    Metadata,
    Many,
    Reserved,
}

/// A refusal to connect, with its reason.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{host} is {special}, from which nothing is fetched unless the site lists a URL with the address {address} itself{or_name}"
)]
pub(crate) struct Refused {
    host: String,
    address: IpAddr,
    special: Special,
    or_name: &'static str,
}

/// The special addresses that a rule opens: those that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    named: Vec<Host>,
}

/// Resolves names to addresses within reach.
#[derive(Clone, Debug)]
pub(crate) struct Resolver(pub(crate) Arc<Reach>);

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Special::ThisMachine => "this machine itself",
            Special::LinkLocal => "a link-local address",
            Special::Metadata => "a metadata service of a cloud",
            Special::Many => "an address of many machines",
            Special::Reserved => "a reserved address",
        })
    }
}

/// An address in one form: IPv4 where it is that in the clothes of IPv6.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whether nothing is fetched from an address, and why.
pub(crate) fn special(address: IpAddr) -> Option<Special> {
    match canonical(address) {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    /// Of Alibaba, Oracle and Azure; the others have a link-local one.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    let first = address.octets()[0];
    if METADATA.contains(&address) {
        Some(Special::Metadata)
    } else if first == 0 || address.is_loopback() {
        Some(Special::ThisMachine)
    } else if address.is_link_local() {
        Some(Special::LinkLocal)
    } else if address.is_multicast() || address.is_broadcast() {
        Some(Special::Many)
    } else if first >= 240 {
        Some(Special::Reserved)
    } else {
        None
    }
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    let words = address.segments();
    if address.is_loopback() || address.is_unspecified() {
        return Some(Special::ThisMachine);
    }
    if address.is_multicast() {
        return Some(Special::Many);
    }
    if words[0] & 0xffc0 == 0xfe80 {
        return Some(Special::LinkLocal);
    }
    // Amazon and Google have theirs among the private ones.
    if words[..2] == [0xfd00, 0x0ec2] || words[..2] == [0xfd20, 0x00ce] {
        return Some(Special::Metadata);
    }
    // Addresses that a gateway turns into IPv4 ones.
    let tail = |at: usize| {
        let [a, b] = words[at].to_be_bytes();
        let [c, d] = words[at + 1].to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    let embedded = match words {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0 | 0xffff, 0, _, _] => Some(tail(6)),
        [0x2002, ..] => Some(tail(1)),
        // A site's own prefix for the same: who knows where that leads.
        [0x64, 0xff9b, 1, ..] => return Some(Special::Reserved),
        _ => None,
    };
    embedded.and_then(special_v4)
}

impl Reach {
    /// What a site opens by listing these.
    pub(crate) fn of(named: Vec<Host>) -> Reach {
        Reach { named }
    }

    /// Whether `address`, which `host` has, may be connected to.
    pub(crate) fn check(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let Some(special) = special(address) else { return Ok(()) };
        let address = canonical(address);
        let is_named = self.named.iter().any(|named| match named {
            Host::Address(named) => *named == address,
            // A name of this machine wherever it is read; of others only their owners know where they lead.
            Host::Name(named) => named == host && is_local_name(named) && address.is_loopback(),
            Host::Bucket(_) => false,
        });
        if is_named {
            return Ok(());
        }
        let or_name = if address.is_loopback() { " or localhost" } else { "" };
        Err(Refused { host: host.to_owned(), address, special, or_name })
    }

    /// Whether a URL's host, where it is an address, may be connected to. Names are looked at when they are resolved.
    pub(crate) fn check_host(&self, host: &Host) -> Result<(), Refused> {
        match host {
            Host::Address(address) => self.check(&address.to_string(), *address),
            Host::Name(_) | Host::Bucket(_) => Ok(()),
        }
    }
}

fn is_local_name(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

impl Resolver {
    /// The addresses of a name that may be connected to; an error where there is none.
    async fn lookup(self, name: String) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let permit = Arc::clone(&LOOKUPS).acquire_owned().await?;
        let asked = name.clone();
        let found = tokio::task::spawn_blocking(move || {
            let found: std::io::Result<Vec<IpAddr>> =
                (asked.as_str(), 0).to_socket_addrs().map(|addresses| addresses.map(|address| address.ip()).collect());
            // The thread is counted until it is free again, whether or not anybody still waits for it.
            drop(permit);
            found
        });
        self.within_reach(&name, found.await??)
    }

    fn within_reach(
        &self,
        name: &str,
        found: Vec<IpAddr>,
    ) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let mut refused = None;
        let mut allowed = Vec::with_capacity(found.len());
        for address in found {
            match self.0.check(name, address) {
                Ok(()) => allowed.push(address),
                Err(why) => refused = Some(why),
            }
        }
        match refused {
            Some(why) if allowed.is_empty() => Err(why.into()),
            _ if allowed.is_empty() => Err("the name has no address".into()),
            _ => Ok(allowed),
        }
    }
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let looking = self.clone().lookup(name.as_str().trim_end_matches('.').to_ascii_lowercase());
        Box::pin(async move {
            // The port is that of the URL.
            let found = looking.await?.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(found) as reqwest::dns::Addrs)
        })
    }
}
