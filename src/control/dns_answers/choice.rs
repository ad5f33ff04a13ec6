//! Who is in an answer, and in what order: the four policies.
//!
//! Pure, and in two steps: [`Choices::new`] when something is known about the nodes, [`Choices::pick`] for each answer.
//! Not obvious: that a name has addresses of a kind depends on the configuration alone. When no node is good, all are
//! answered as if they were, so that trouble never looks like "there is no such thing", which resolvers keep for longer.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;

use crate::config::{DnsPolicy, ZoneName};

/// Addresses of an answer.
pub(super) const ANSWER_MAX: usize = 8;

/// One node, as far as answers of one kind of address are concerned.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) address: IpAddr,
    pub(super) zone: ZoneName,
    pub(super) weight: u32,
    pub(super) priority: u16,
    /// Its checks pass and its zone is in service.
    pub(super) good: bool,
}

/// What an answer is picked from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Choices {
    /// Several of these, in random order.
    Any(Vec<IpAddr>),
    /// One of these. Each comes with the sum of the weights up to its own.
    OneByWeight(Vec<(usize, IpAddr)>),
    /// Several of a zone, and of all where that zone has none.
    OfZone(Vec<(ZoneName, Vec<IpAddr>)>, Vec<IpAddr>),
}

/// The addresses of one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picked {
    addresses: [IpAddr; ANSWER_MAX],
    count: usize,
}

impl Choices {
    /// Decides which of the candidates may be answered.
    pub(super) fn new(policy: DnsPolicy, candidates: &[Candidate]) -> Self {
        let none_is_good = candidates.iter().all(|candidate| !candidate.good);
        let left = || candidates.iter().filter(|candidate| candidate.good || none_is_good);
        match policy {
            DnsPolicy::Multivalue => Self::Any(left().map(|candidate| candidate.address).collect()),
            DnsPolicy::Failover => {
                let first = left().map(|candidate| candidate.priority).min();
                let first_class = left().filter(|candidate| Some(candidate.priority) == first);
                Self::Any(first_class.map(|candidate| candidate.address).collect())
            }
            DnsPolicy::Weighted => {
                let nobody_weighs = left().all(|candidate| candidate.weight == 0);
                let mut sum = 0;
                let summed = left().map(|candidate| {
                    sum += if nobody_weighs { 1 } else { candidate.weight as usize };
                    (sum, candidate.address)
                });
                Self::OneByWeight(summed.collect())
            }
            DnsPolicy::Nearest => {
                let mut zones: Vec<(ZoneName, Vec<IpAddr>)> = Vec::new();
                for Candidate { address, zone, .. } in left() {
                    match zones.iter_mut().find(|(name, _)| name == zone) {
                        Some((_, addresses)) => addresses.push(*address),
                        None => zones.push((zone.clone(), vec![*address])),
                    }
                }
                Self::OfZone(zones, left().map(|candidate| candidate.address).collect())
            }
        }
    }

    /// The addresses of one answer to a client that stands nearest to `zone`. `draw(n)` gives a number below `n`, each
    /// with the same probability.
    pub(super) fn pick(&self, zone: Option<&ZoneName>, mut draw: impl FnMut(usize) -> usize) -> Picked {
        match self {
            Self::Any(addresses) => Picked::some_of(addresses, draw),
            Self::OneByWeight(summed) => {
                let whole = summed.last().map_or(0, |(sum, _)| *sum);
                let point = if whole > 0 { draw(whole) } else { 0 };
                let index = summed.partition_point(|(sum, _)| *sum <= point);
                Picked::of(summed.get(index).map(|(_, address)| *address))
            }
            Self::OfZone(zones, all) => {
                let own = zones.iter().find(|(name, _)| Some(name) == zone);
                Picked::some_of(own.map_or(all, |(_, addresses)| addresses), draw)
            }
        }
    }

    /// Every address that some answer may hold.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Any(addresses) | Self::OfZone(_, addresses) => addresses.clone(),
            Self::OneByWeight(summed) => {
                let before = std::iter::once(0).chain(summed.iter().map(|(sum, _)| *sum));
                let weighing = summed.iter().zip(before).filter(|((sum, _), before)| sum > before);
                weighing.map(|((_, address), _)| *address).collect()
            }
        }
    }
}

impl Picked {
    /// The first [`ANSWER_MAX`] of these, in their order.
    pub(super) fn of(list: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut picked = Self { addresses: [IpAddr::V4(Ipv4Addr::UNSPECIFIED); ANSWER_MAX], count: 0 };
        for (to, from) in picked.addresses.iter_mut().zip(list) {
            *to = from;
            picked.count += 1;
        }
        picked
    }

    /// As many as fit, each with the same probability, in random order.
    fn some_of(all: &[IpAddr], mut draw: impl FnMut(usize) -> usize) -> Self {
        let count = all.len().min(ANSWER_MAX);
        let mut indices = [0; ANSWER_MAX];
        // Floyd's sampling: the index that may be drawn grows by one each time; one that was drawn before gives way to
        // the newest.
        for (taken, newest) in (all.len() - count..all.len()).enumerate() {
            let drawn = draw(newest + 1);
            indices[taken] = if indices[..taken].contains(&drawn) { newest } else { drawn };
        }
        for last in (1..count).rev() {
            indices.swap(last, draw(last + 1));
        }
        Self::of(indices[..count].iter().map(|index| all[*index]))
    }
}

impl Deref for Picked {
    type Target = [IpAddr];
    fn deref(&self) -> &[IpAddr] {
        &self.addresses[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn candidate(number: u8, zone: &str, weight: u32, priority: u16, good: bool) -> Candidate {
        Candidate { address: ip(number), zone: zone.into(), weight, priority, good }
    }

    fn ip(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    /// Numbers that look random and are the same in every run.
    fn dice() -> impl FnMut(usize) -> usize {
        let mut state = 7u64;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        }
    }

    /// How often each address comes at each place, in so many answers.
    fn counts(choices: &Choices, zone: Option<&str>, answers: usize) -> HashMap<(usize, IpAddr), usize> {
        let zone = zone.map(ZoneName::from);
        let mut draw = dice();
        let mut counts = HashMap::new();
        for _ in 0..answers {
            for (place, address) in choices.pick(zone.as_ref(), &mut draw).iter().enumerate() {
                *counts.entry((place, *address)).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn of_many_nodes_eight_are_answered_each_as_often_and_at_every_place() {
        let nodes: Vec<_> = (0..20).map(|number| candidate(number, "-", 1, 0, true)).collect();
        let counts = counts(&Choices::new(DnsPolicy::Multivalue, &nodes), None, 40_000);
        assert_eq!(counts.len(), 8 * 20, "every node at every place");
        for (at, count) in counts {
            assert!((1800..2200).contains(&count), "{at:?}: {count}");
        }
    }

    #[test]
    fn few_nodes_are_all_answered_in_every_order() {
        let nodes: Vec<_> = (0..3).map(|number| candidate(number, "-", 1, 0, true)).collect();
        let choices = Choices::new(DnsPolicy::Multivalue, &nodes);
        let mut draw = dice();
        let mut orders: HashMap<Vec<IpAddr>, usize> = HashMap::new();
        for _ in 0..6000 {
            *orders.entry(choices.pick(None, &mut draw).to_vec()).or_default() += 1;
        }
        assert_eq!(orders.len(), 6);
        assert!(orders.values().all(|count| (850..1150).contains(count)), "{orders:?}");
    }

    #[test]
    fn a_weighted_answer_is_one_node_as_often_as_its_weight_says() {
        let nodes =
            [candidate(1, "-", 1, 0, true), candidate(2, "-", 0, 0, true), candidate(3, "-", 3, 0, true)];
        let choices = Choices::new(DnsPolicy::Weighted, &nodes);
        assert_eq!(choices.addresses(), [ip(1), ip(3)]);
        let counts = counts(&choices, None, 40_000);
        assert_eq!(counts.len(), 2, "{counts:?}");
        assert!((9_500..10_500).contains(&counts[&(0, ip(1))]), "{counts:?}");
    }

    #[test]
    fn when_nothing_weighs_all_are_answered() {
        let nodes = [candidate(1, "-", 0, 0, true), candidate(2, "-", 0, 0, true)];
        let counts = counts(&Choices::new(DnsPolicy::Weighted, &nodes), None, 1000);
        assert_eq!(counts.len(), 2, "{counts:?}");
    }

    #[test]
    fn failover_answers_the_first_class_that_has_a_good_node() {
        let mut nodes =
            [candidate(1, "-", 1, 0, true), candidate(2, "-", 1, 0, true), candidate(3, "-", 1, 7, true)];
        let answered = |nodes: &[Candidate]| Choices::new(DnsPolicy::Failover, nodes).addresses();
        assert_eq!(answered(&nodes), [ip(1), ip(2)]);
        nodes[0].good = false;
        assert_eq!(answered(&nodes), [ip(2)]);
        nodes[1].good = false;
        assert_eq!(answered(&nodes), [ip(3)]);
        nodes[2].good = false;
        assert_eq!(answered(&nodes), [ip(1), ip(2)], "nobody is good: the first class again");
    }

    #[test]
    fn the_nearest_zone_is_answered_while_it_has_a_good_node() {
        let mut nodes =
            [candidate(1, "a", 1, 0, true), candidate(2, "b", 1, 0, true), candidate(3, "b", 1, 0, true)];
        let answered = |nodes: &[Candidate], zone: Option<&str>| {
            let choices = Choices::new(DnsPolicy::Nearest, nodes);
            let mut answer = choices.pick(zone.map(ZoneName::from).as_ref(), dice()).to_vec();
            answer.sort();
            answer
        };
        assert_eq!(answered(&nodes, Some("a")), [ip(1)]);
        assert_eq!(answered(&nodes, Some("b")), [ip(2), ip(3)]);
        assert_eq!(answered(&nodes, Some("c")), [ip(1), ip(2), ip(3)]);
        assert_eq!(answered(&nodes, None), [ip(1), ip(2), ip(3)]);
        nodes[0].good = false;
        assert_eq!(answered(&nodes, Some("a")), [ip(2), ip(3)]);
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (0u8..3, 0u32..4, 0u16..3, any::<bool>()).prop_map(|(zone, weight, priority, good)| {
            candidate(0, &zone.to_string(), weight, priority, good)
        })
    }

    proptest! {
        #[test]
        fn an_answer_holds_good_nodes_once_each_or_any_when_none_is_good(
            mut nodes in prop::collection::vec(any_candidate(), 1..40),
            policy in prop::sample::select(vec![
                DnsPolicy::Multivalue, DnsPolicy::Weighted, DnsPolicy::Failover, DnsPolicy::Nearest,
            ]),
            zone in prop::option::of(0u8..4),
            seed in any::<u64>(),
        ) {
            for (number, node) in nodes.iter_mut().enumerate() {
                node.address = ip(number as u8);
            }
            let zone = zone.map(|zone| ZoneName::from(zone.to_string()));
            let mut state = seed;
            let picked = Choices::new(policy, &nodes).pick(zone.as_ref(), |below| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as usize % below
            });
            prop_assert!(!picked.is_empty() && picked.len() <= ANSWER_MAX);
            let mut once = picked.to_vec();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), picked.len());
            let any_good = nodes.iter().any(|node| node.good);
            for address in picked.iter() {
                let node = nodes.iter().find(|node| node.address == *address).unwrap();
                prop_assert!(node.good || !any_good);
            }
            if policy == DnsPolicy::Multivalue {
                let left = nodes.iter().filter(|node| node.good || !any_good).count();
                prop_assert_eq!(picked.len(), left.min(ANSWER_MAX));
            }
        }
    }
}
