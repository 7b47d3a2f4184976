//! A list of IP networks, and whether one of them holds an address.
//!
//! Invariant: an IPv4 address is matched in its IPv4-mapped form too (`::ffff:10.0.0.1`, RFC
//! 4291 §2.5.5.2), which is how a client of a dual-stack socket looks. Pure: this file must not know
//! what the networks are for, nor what an empty list means to its owner.
//!
//! ```
//! use dripline::networks::Networks;
//!
//! let home: Networks = "10.0.0.0/8, fd00::/8".parse().unwrap();
//! assert!(home.contains("::ffff:10.1.2.3".parse().unwrap()));
//! assert!(!home.contains("192.0.2.1".parse().unwrap()));
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// IP networks, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether one of the networks holds the address. An empty list holds none.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether there is no network at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many networks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl FromStr for Networks {
    type Err = NotANetwork;

    /// Parses networks with commas between them; see [`network`]. The empty text is the empty list.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|one| network(one.trim())).collect()
    }
}

impl fmt::Display for Networks {
    /// The networks with commas between them, as [`FromStr`] reads them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            write!(f, "{}{network}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// A text that is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a network; write one such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct NotANetwork;

/// Parses one network in CIDR notation (RFC 4632 §3.1). An address alone is a network of one.
///
/// # Errors
///
/// If the text is neither a network nor an address.
pub fn network(text: &str) -> Result<IpNet, NotANetwork> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| NotANetwork)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Networks {
        text.parse().unwrap_or_else(|e| panic!("{text} {e}"))
    }

    #[test]
    fn a_list_contains_the_addresses_of_all_its_networks_and_no_others() {
        let list = networks("10.0.0.0/8, 2001:db8::/32, 192.0.2.1");
        for inside in ["10.0.0.0", "10.255.255.255", "192.0.2.1", "2001:db8:ffff::1"] {
            assert!(list.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.2", "2001:db9::", "::1"] {
            assert!(!list.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!Networks::default().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_mapped_address_counts_as_the_ipv4_address_that_it_maps() {
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert!(networks("10.0.0.0/8").contains(mapped));
        assert!(!networks("192.0.2.0/24").contains(mapped));
        assert!(!networks("::/0").contains(mapped), "it is no IPv6 address");
        // IPv4-compatible addresses (RFC 4291 §2.5.5.1) map nothing.
        assert!(!networks("10.0.0.0/8").contains("::10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_list_is_shown_as_it_is_parsed() {
        let text = "10.0.0.0/8, 2001:db8::/32, 192.0.2.1/32";
        assert_eq!(networks(text).to_string(), text);
        assert_eq!((networks(text).len(), networks(text).is_empty()), (3, false));
        assert_eq!(networks("192.0.2.1").to_string(), "192.0.2.1/32");
        assert_eq!(
            (networks(""), Networks::default().to_string()),
            (Networks::default(), "".into())
        );
        assert!(networks(" ").is_empty());
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["ten", "10.0.0.0/33", "10.0.0/8", "2001:db8::/129", "10.0.0.1:80", "10.0.0.0/8,"]
        {
            assert_eq!(text.parse::<Networks>(), Err(NotANetwork), "{text}");
        }
    }
}
