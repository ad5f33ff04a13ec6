//! What is answered at one moment: made by the control thread, read by the thread that answers.
//!
//! As with the snapshots of pools, a view never changes: a new one takes its place. It holds the configuration too, so
//! that a reload is nothing else than a new view.

use std::net::IpAddr;
use std::sync::Arc;

use super::authority::Domain;
use super::choice::{Candidate, Choices};
use crate::config::{Dns, DnsNode};

/// The domain, and what its names are answered with.
pub struct View {
    pub(super) config: Arc<Dns>,
    pub(super) domain: Arc<Domain>,
    /// In the order of [`Dns::names`].
    pub(super) names: Vec<Kinds>,
}

/// Choices for one name; `None` where none of its nodes has an address of that kind.
pub(super) struct Kinds {
    pub(super) v4: Option<Choices>,
    pub(super) v6: Option<Choices>,
}

impl View {
    /// The domain of the configuration when these of its nodes are good, in the order of [`Dns::nodes`].
    pub(super) fn new(config: Arc<Dns>, good: &[bool]) -> Self {
        let names = names(&config, good);
        Self { domain: Arc::new(Domain::new(&config)), names, config }
    }

    /// The same domain when these nodes are good.
    pub(super) fn with(&self, good: &[bool]) -> Self {
        let names = names(&self.config, good);
        Self { config: self.config.clone(), domain: self.domain.clone(), names }
    }

    /// Every address that answers for a name may hold, `name` being its place in [`Dns::names`].
    pub fn addresses(&self, name: usize) -> Vec<IpAddr> {
        let Kinds { v4, v6 } = &self.names[name];
        v4.iter().chain(v6).flat_map(Choices::addresses).collect()
    }
}

fn names(config: &Dns, good: &[bool]) -> Vec<Kinds> {
    let kinds = |name: &crate::config::ServiceName| {
        let choices = |address: fn(&DnsNode) -> Option<IpAddr>| {
            let candidates = name.nodes.iter().filter_map(|index| {
                let node = &config.nodes[*index];
                Some(Candidate {
                    address: address(node)?,
                    zone: node.zone.clone(),
                    weight: node.weight,
                    priority: node.priority,
                    good: good[*index],
                })
            });
            let candidates: Vec<_> = candidates.collect();
            (!candidates.is_empty()).then(|| Choices::new(name.policy, &candidates))
        };
        Kinds { v4: choices(|node| node.ipv4.map(IpAddr::V4)), v6: choices(|node| node.ipv6.map(IpAddr::V6)) }
    };
    config.names.iter().map(kinds).collect()
}
