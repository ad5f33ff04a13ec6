//! Which zone is nearest to a client, and for how large a network that holds.
//!
//! The second is what RFC 7871 calls the scope: a resolver keeps an answer for all clients of that network. It must be so
//! small that no range with another zone lies in it. Whether the zone has a node to answer is not known here.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::ZoneName;

/// Ranges of addresses and their zones.
#[derive(Debug, Default)]
pub(super) struct Nearest(Vec<(IpNet, ZoneName)>);

impl Nearest {
    /// Takes the ranges of the configuration; no two are equal.
    pub(super) fn new(ranges: &[(IpNet, ZoneName)]) -> Self {
        let mut ranges = ranges.to_vec();
        ranges.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
        Self(ranges)
    }

    /// The zone of the smallest range that holds all of the network `address/prefix`.
    pub(super) fn zone(&self, address: IpAddr, prefix: u8) -> Option<&ZoneName> {
        let holds = |range: &IpNet| range.prefix_len() <= prefix && range.contains(&address);
        self.0.iter().find(|(range, _)| holds(range)).map(|(_, zone)| zone)
    }

    /// Bits of `address` that decide about its zone: with as many, no other range can be told from it any more.
    pub(super) fn scope(&self, address: IpAddr) -> u8 {
        let bits = |range: &IpNet| match (range.network(), address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (network.to_bits() ^ address.to_bits()).leading_zeros() as u8 + 1
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (network.to_bits() ^ address.to_bits()).leading_zeros() as u8 + 1
            }
            _ => 0,
        };
        self.0.iter().map(|(range, _)| bits(range).min(range.prefix_len())).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nearest(ranges: &[(&str, &str)]) -> Nearest {
        let ranges: Vec<_> =
            ranges.iter().map(|(range, zone)| (range.parse().unwrap(), ZoneName::from(*zone))).collect();
        Nearest::new(&ranges)
    }

    #[test]
    fn the_smallest_range_counts() {
        let nearest = nearest(&[("10.0.0.0/8", "a"), ("10.1.0.0/16", "b"), ("2001:db8::/32", "c")]);
        let zone = |address: &str, prefix| nearest.zone(address.parse().unwrap(), prefix).map(|zone| &**zone);
        assert_eq!(zone("10.2.3.4", 32), Some("a"));
        assert_eq!(zone("10.1.3.4", 32), Some("b"));
        assert_eq!(zone("10.1.3.0", 24), Some("b"));
        assert_eq!(zone("10.0.0.0", 12), Some("a"), "the network is larger than b's range");
        assert_eq!(zone("10.0.0.0", 7), None);
        assert_eq!(zone("11.0.0.1", 32), None);
        assert_eq!(zone("2001:db8:7::", 56), Some("c"));
    }

    #[test]
    fn a_scope_is_no_wider_than_what_has_the_same_zone() {
        let nearest = nearest(&[("10.0.0.0/8", "a"), ("10.1.0.0/16", "b"), ("2001:db8::/32", "c")]);
        let scope = |address: &str| nearest.scope(address.parse().unwrap());
        assert_eq!(scope("10.1.9.9"), 16);
        assert_eq!(scope("10.128.0.1"), 9, "10.128.0.0/9 does not hold 10.1.0.0/16");
        assert_eq!(scope("10.0.9.9"), 16, "10.0.0.0/15 would");
        assert_eq!(scope("128.0.0.1"), 1);
        assert_eq!(scope("2001:db8::1"), 32);
        assert_eq!(super::Nearest::default().scope("10.0.0.1".parse().unwrap()), 0);
    }

    fn any_ranges() -> impl Strategy<Value = Vec<(IpNet, ZoneName)>> {
        let range = (0u32..=255, 0u8..=8, 0u8..3).prop_map(|(bits, prefix, zone)| {
            let address = IpAddr::from((bits << 24).to_be_bytes());
            (IpNet::new(address, prefix).unwrap().trunc(), ZoneName::from(zone.to_string()))
        });
        prop::collection::vec(range, 0..12).prop_map(|mut ranges| {
            ranges.sort_by_key(|(range, _)| *range);
            ranges.dedup_by_key(|(range, _)| *range);
            ranges
        })
    }

    proptest! {
        /// With ranges of at most 8 bits, the 256 networks of that length are all there is.
        #[test]
        fn all_of_a_scope_has_the_same_zone(ranges in any_ranges(), first in any::<u8>()) {
            let nearest = Nearest::new(&ranges);
            let address = IpAddr::from([first, 0, 0, 0]);
            let zone = nearest.zone(address, 32);
            let scope = IpNet::new(address, nearest.scope(address)).unwrap();
            for other in 0..=255u8 {
                let other = IpAddr::from([other, 0, 0, 0]);
                if scope.contains(&other) {
                    prop_assert_eq!(nearest.zone(other, 32), zone, "{} in {}", other, scope);
                }
            }
        }
    }
}
