//! Free ports on loopback that stay free for whom they were found.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt::ReuseAddr,
};

/// A port that no other test is given while this value lives.
///
/// A socket is bound to it that never listens, so a connection to it is refused until a server listens there. A server
/// that sets `SO_REUSEADDR`, as they all do, may; the kernel gives the port to nobody who asks for any.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _held: OwnedFd,
}

impl Port {
    /// One that nobody uses.
    #[must_use]
    pub fn free() -> Port {
        Port::bind(0, true).expect("there is a free port")
    }

    /// Two of which the second is `distance` above the first.
    #[must_use]
    pub fn pair(distance: u16) -> (Port, Port) {
        for _ in 0..1000 {
            let first = Port::free();
            let Some(second) = first.number.checked_add(distance) else { continue };
            // Bound strictly at first, which fails where anybody has the port in any way.
            let free = Port::bind(second, false).is_ok();
            if let (true, Ok(second)) = (free, Port::bind(second, true)) {
                return (first, second);
            }
        }
        panic!("there are no two free ports {distance} apart");
    }

    fn bind(number: u16, shared: bool) -> nix::Result<Port> {
        let held = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&held, ReuseAddr, &shared)?;
        bind(held.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, number))?;
        let number = getsockname::<SockaddrIn>(held.as_raw_fd())?.port();
        Ok(Port { number, _held: held })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its address on loopback.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_port_refuses_until_a_server_listens_and_again_afterwards() {
        let port = Port::free();
        let refused = || TcpStream::connect(port.address()).unwrap_err().kind() == ErrorKind::ConnectionRefused;
        assert!(refused());
        let server = TcpListener::bind(port.address()).unwrap();
        TcpStream::connect(port.address()).unwrap();
        drop(server);
        assert!(refused());
    }

    #[test]
    fn ports_differ_and_pairs_are_as_far_apart_as_asked() {
        let ports: Vec<(Port, Port)> = (0..20).map(|_| Port::pair(10_000)).collect();
        assert!(ports.iter().all(|(first, second)| second.number() - first.number() == 10_000));
        let numbers: HashSet<u16> = ports.iter().flat_map(|(a, b)| [a.number(), b.number()]).collect();
        assert_eq!(numbers.len(), 40);
    }
}
