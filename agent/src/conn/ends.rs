//! The two ends of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adder_ebpf::Socket;

use crate::signal::{Address, Endpoints};

/// `AF_UNIX` and its like (include/linux/socket.h).
pub(super) mod family {
    pub(in crate::conn) const UNIX: u16 = 1;
    pub(in crate::conn) const INET: u16 = 2;
    pub(in crate::conn) const INET6: u16 = 10;
}

/// The ends of a socket, seen from the watched process.
pub(super) fn endpoints(fact: &Socket) -> Endpoints {
    let inet = |address: &[u8; 16], port: u16| {
        let ip = if fact.family == family::INET {
            IpAddr::V4(Ipv4Addr::new(address[0], address[1], address[2], address[3]))
        } else {
            // A dual-stack socket shows an IPv4 peer as a mapped address.
            Ipv6Addr::from(*address).to_canonical()
        };
        Address::Inet(SocketAddr::new(ip, port))
    };
    match fact.family {
        family::INET | family::INET6 => {
            Endpoints::plain(inet(&fact.local, fact.local_port), inet(&fact.remote, fact.remote_port))
        }
        family::UNIX => {
            let length = usize::from(fact.path_length).min(fact.path.len());
            let path = &fact.path[..length];
            let path = match path.split_first() {
                Some((0, name)) => format!("@{}", String::from_utf8_lossy(name)),
                _ => String::from_utf8_lossy(path.split(|byte| *byte == 0).next().unwrap_or_default())
                    .into_owned(),
            };
            Endpoints::plain(Address::Unix(path.clone()), Address::Unix(path))
        }
        _ => Endpoints::default(),
    }
}
