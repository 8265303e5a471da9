//! Which addresses workflows may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks that no workflow reaches unless the deployment lists them: loopback, private, link-local, shared, reserved,
/// multicast, and the IPv6 forms that carry an IPv4 address through a gateway (IANA special-purpose registries, RFC 6890).
const INSIDE: &[IpNet] = &[
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

/// Whether an address is inside, after unwrapping the IPv6 forms that carry an IPv4 address.
#[must_use]
pub fn forbidden(address: IpAddr) -> bool {
    let carried = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => carried_v4(address),
    };
    let listed = |address: IpAddr| INSIDE.iter().any(|network| network.contains(&address));
    listed(address) || carried.is_some_and(|v4| listed(IpAddr::V4(v4)))
}

/// The IPv4 address within a mapped, compatible, NAT64 or 6to4 address.
fn carried_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// Which addresses workflows may reach: everything public, and what the deployment lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Inside networks that are allowed, on any port.
    networks: Vec<IpNet>,
    /// Inside addresses that are allowed on one port only.
    endpoints: Vec<SocketAddr>,
}

impl Reach {
    /// Only what is public.
    #[must_use]
    pub fn public() -> Self {
        Self::default()
    }

    /// Allows an inside network as well.
    #[must_use]
    pub fn and_network(mut self, network: IpNet) -> Self {
        self.networks.push(network);
        self
    }

    /// Allows one inside address and port as well.
    #[must_use]
    pub fn and_endpoint(mut self, endpoint: SocketAddr) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Whether an address and port may be dialled.
    #[must_use]
    pub fn permits(&self, address: SocketAddr) -> bool {
        !forbidden(address.ip())
            || self.lists_network(address.ip())
            || self.endpoints.contains(&address)
    }

    /// Whether an address that a name resolved to may be dialled, before the port is known. An endpoint that is listed for one
    /// port only must be asked for by its address: through a name, every port of it would be open.
    #[must_use]
    pub fn permits_any_port(&self, address: IpAddr) -> bool {
        !forbidden(address) || self.lists_network(address)
    }

    fn lists_network(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_not_forbidden() {
        for address in ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111"] {
            assert!(!forbidden(address.parse().expect("an address")), "{address}");
        }
    }

    #[test]
    fn the_first_and_the_last_address_of_every_inside_network_is_forbidden() {
        for network in INSIDE {
            assert_eq!(network.trunc(), *network, "an address of a host is no network");
            assert!(forbidden(network.network()) && forbidden(network.broadcast()), "{network}");
        }
    }

    #[test]
    fn a_listed_endpoint_opens_one_port_only() {
        let reach = Reach::public().and_endpoint("127.0.0.1:8080".parse().expect("an endpoint"));
        assert!(reach.permits("127.0.0.1:8080".parse().expect("an endpoint")));
        assert!(!reach.permits("127.0.0.1:5432".parse().expect("an endpoint")));
        assert!(!reach.permits_any_port("127.0.0.1".parse().expect("an address")));
    }

    #[test]
    fn a_listed_network_opens_its_addresses_only() {
        let reach = Reach::public().and_network("10.1.0.0/16".parse().expect("a network"));
        assert!(reach.permits("10.1.2.3:80".parse().expect("an endpoint")));
        assert!(!reach.permits("10.2.2.3:80".parse().expect("an endpoint")));
    }
}
