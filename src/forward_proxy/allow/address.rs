//! Which addresses a name may lead to: those of the public Internet and, for hosts that an operator names,
//! local ones.
//!
//! Pure. The owner of a name may let it resolve to the proxy's own host, to its neighbours, or to the cloud's
//! metadata service; so every address is checked before it is used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// What is special about an address (IANA's special-purpose registries, RFC 6890).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Special {
    /// 127.0.0.0/8, ::1.
    #[error("loopback")]
    Loopback,
    /// RFC 1918 and RFC 4193.
    #[error("private")]
    Private,
    /// RFC 6598, behind a carrier's NAT.
    #[error("carrier-grade NAT")]
    Shared,
    /// 169.254.0.0/16, fe80::/10: the cloud's metadata service among them.
    #[error("link-local")]
    LinkLocal,
    /// Addresses of several hosts, broadcast among them.
    #[error("multicast")]
    Multicast,
    /// 0.0.0.0/8, ::.
    #[error("unspecified")]
    Unspecified,
    /// IPv4 within IPv6: mapped (RFC 4291), NAT64 (RFC 6052, RFC 8215), 6to4, Teredo. A translator elsewhere
    /// decides where it leads.
    #[error("an IPv4 address inside IPv6")]
    Translated,
    /// For documentation, benchmarks or future use.
    #[error("reserved")]
    Reserved,
}

impl Special {
    /// Whether a host that an operator names may be at such an address: in the local network or on this host.
    /// Link-local addresses never: no store is there, and the metadata service is.
    #[must_use]
    pub fn is_local(self) -> bool {
        matches!(self, Self::Loopback | Self::Private | Self::Shared)
    }
}

const V4: [(Ipv4Net, Special); 15] = [
    (v4([0, 0, 0, 0], 8), Special::Unspecified),
    (v4([10, 0, 0, 0], 8), Special::Private),
    (v4([100, 64, 0, 0], 10), Special::Shared),
    (v4([127, 0, 0, 0], 8), Special::Loopback),
    (v4([169, 254, 0, 0], 16), Special::LinkLocal),
    (v4([172, 16, 0, 0], 12), Special::Private),
    (v4([192, 0, 0, 0], 24), Special::Reserved),
    (v4([192, 0, 2, 0], 24), Special::Reserved),
    (v4([192, 88, 99, 0], 24), Special::Reserved),
    (v4([192, 168, 0, 0], 16), Special::Private),
    (v4([198, 18, 0, 0], 15), Special::Reserved),
    (v4([198, 51, 100, 0], 24), Special::Reserved),
    (v4([203, 0, 113, 0], 24), Special::Reserved),
    (v4([224, 0, 0, 0], 4), Special::Multicast),
    (v4([240, 0, 0, 0], 4), Special::Reserved),
];

/// The public Internet has only 2000::/3 of IPv6. What is special within that stands here too.
const V6: [(Ipv6Net, Special); 14] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Special::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Special::Loopback),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), Special::Translated),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), Special::Translated),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 32), Special::Translated),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Special::Translated),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Special::Reserved),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Special::Reserved),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Special::Translated),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Special::Reserved),
    // The metadata service of EC2, inside a private range.
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), Special::LinkLocal),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Special::Private),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Special::LinkLocal),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Special::Multicast),
];

const GLOBAL: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

const fn v4(ip: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]), prefix)
}

const fn v6(ip: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = ip;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// What is special about `ip`; None for an address of the public Internet.
#[must_use]
pub fn special(ip: IpAddr) -> Option<Special> {
    match ip {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Special::Multicast),
        IpAddr::V4(ip) => V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, what)| *what),
        IpAddr::V6(ip) => {
            let listed = V6.iter().find(|(net, _)| net.contains(&ip)).map(|(_, what)| *what);
            listed.or((!GLOBAL.contains(&ip)).then_some(Special::Reserved))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_range_is_known_at_both_ends() {
        use Special::*;
        for (what, addresses) in [
            (Loopback, "127.0.0.1 127.255.255.255 ::1"),
            (
                Private,
                "10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 fc00::1 fdff::1",
            ),
            (Shared, "100.64.0.0 100.127.255.255"),
            (LinkLocal, "169.254.0.1 169.254.169.254 fe80::1 febf::1"),
            (Multicast, "224.0.0.1 239.255.255.255 255.255.255.255 ff02::1"),
            (Unspecified, "0.0.0.0 0.1.2.3 ::"),
            (
                Translated,
                "::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::a00:1 64:ff9b::808:808 64:ff9b:1::1 \
                 2001::1 2002:7f00:1::",
            ),
            (
                Reserved,
                "192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 240.0.0.1 \
                 2001:2::1 2001:db8::1 3fff::1 100::1 4000::1 fec0::1 5f00::1",
            ),
        ] {
            for address in addresses.split_whitespace() {
                assert_eq!(special(address.parse().unwrap()), Some(what), "{address}");
            }
        }
    }

    #[test]
    fn the_neighbours_of_those_ranges_are_public() {
        for address in "1.1.1.1 9.255.255.255 11.0.0.0 52.216.0.1 100.63.255.255 100.128.0.0 126.255.255.255 \
                        128.0.0.1 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.0 192.167.255.255 \
                        192.169.0.1 198.17.255.255 198.20.0.1 223.255.255.255 2600:1ff9:8000::1 2001:200::1 \
                        2a05:d07a::1 2003::1"
            .split_whitespace()
        {
            assert_eq!(special(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn a_named_store_may_be_in_the_house_and_never_the_metadata_service() {
        let local = |ip: &str| special(ip.parse().unwrap()).is_none_or(Special::is_local);
        assert!(
            local("192.168.1.10") && local("127.0.0.1") && local("fd00::1") && local("1.1.1.1")
        );
        assert!(!local("169.254.169.254") && !local("0.0.0.0") && !local("224.0.0.1"));
        assert!(!local("::ffff:169.254.169.254") && !local("64:ff9b::a9fe:a9fe"));
        assert!(!local("fd00:ec2::254") && local("fd00:ec2::1"));
    }
}
