//! Who says which targets a pool has: the operator at run time, the configuration file, names in DNS. Pure.
//!
//! Each [`Source`] keeps a list of its own and replaces it as a whole; what the pool has is the union. An address stands
//! there once, however many sources list it, and the first of them (in the order of [`Source`]) says its zone, weight
//! and limit. What becomes of a target that no source lists any more is decided in `membership`.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{self, StaticTarget, ZoneName};

/// Greatest weight of a target that an operator lists, as in the configuration file.
const WEIGHT_MAX: u32 = 256;

/// Who lists a target; earlier ones win.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Registered through the API.
    Runtime,
    /// Written in the configuration file.
    File,
    /// Found in DNS, by this question ([`crate::config::Discover::question`]).
    Dns(Arc<str>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runtime => f.write_str("runtime"),
            Self::File => f.write_str("file"),
            Self::Dns(question) => write!(f, "dns {question}"),
        }
    }
}

/// A target as a source lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where it stands.
    pub zone: ZoneName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Share relative to the others; 0 takes no new sessions.
    pub weight: u32,
    /// Requests in flight at most; `None` for no limit.
    pub max_connections: Option<u32>,
    /// Of the targets of one source, those with the lowest number that are not all out of service take new sessions.
    /// 0 but for SRV records.
    pub priority: u16,
}

impl From<&StaticTarget> for Listed {
    fn from(target: &StaticTarget) -> Self {
        Self {
            zone: target.zone.clone(),
            address: target.address,
            weight: target.weight,
            max_connections: target.max_connections,
            priority: 0,
        }
    }
}

impl Listed {
    /// A target that an operator registers as `name` (`zone/address`), or what is wrong with it.
    pub fn registered(name: &str, weight: u32, max_connections: Option<u32>) -> Result<Self, String> {
        let named = || {
            let (zone, address) = name.split_once('/')?;
            let address: SocketAddr = address.parse().ok()?;
            let ip = address.ip();
            let host = !(ip.is_unspecified() || ip.is_multicast()) && address.port() != 0;
            (host && config::is_zone(zone)).then(|| (ZoneName::from(zone), address))
        };
        let (zone, address) = named().ok_or_else(|| {
            format!(
                "{name:?} is not the name of a target: write ZONE/ADDRESS:PORT such as az-a/127.0.1.1:9001, or \
                 -/127.0.1.1:9001 for one in no zone"
            )
        })?;
        if weight > WEIGHT_MAX {
            return Err(format!("weight {weight} is out of range: write 0 to {WEIGHT_MAX}"));
        }
        if matches!(max_connections, Some(0 | u32::MAX)) {
            return Err("max_connections is out of range: write 1 or more, or null for no limit".to_owned());
        }
        Ok(Self { zone, address, weight, max_connections, priority: 0 })
    }
}

/// The lists of all sources of a pool.
#[derive(Debug, Default)]
pub struct Sources(BTreeMap<Source, Vec<Listed>>);

impl Sources {
    /// Replaces the list of `source`; `false` when it is what it was.
    pub fn set(&mut self, source: &Source, list: Vec<Listed>) -> bool {
        if self.of(source) == list {
            return false;
        }
        self.0.insert(source.clone(), list);
        true
    }

    /// What `source` lists.
    pub fn of(&self, source: &Source) -> &[Listed] {
        self.0.get(source).map_or(&[], Vec::as_slice)
    }

    /// What each name in DNS lists, by what is asked.
    pub fn names(&self) -> impl Iterator<Item = (&str, &[Listed])> {
        self.0.iter().filter_map(|(source, list)| match source {
            Source::Dns(question) => Some((&**question, list.as_slice())),
            Source::Runtime | Source::File => None,
        })
    }

    /// Every target once, with the source that has the say about it.
    pub fn union(&self) -> Vec<(Source, Listed)> {
        let mut seen = HashSet::new();
        let all = self.0.iter().flat_map(|(source, list)| list.iter().map(move |listed| (source, listed)));
        all.filter(|(_, listed)| seen.insert(listed.address))
            .map(|(source, listed)| (source.clone(), listed.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(zone: &str, port: u16, weight: u32) -> Listed {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Listed { zone: zone.into(), address, weight, max_connections: None, priority: 0 }
    }

    #[test]
    fn an_address_that_several_sources_list_stands_once_and_the_first_source_has_the_say() {
        let mut sources = Sources::default();
        sources.set(&Source::Dns("SRV shop".into()), vec![listed("az-b", 1, 5), listed("az-b", 3, 5)]);
        sources.set(&Source::File, vec![listed("az-a", 1, 2), listed("az-a", 2, 2)]);
        sources.set(&Source::Runtime, vec![listed("az-a", 2, 9)]);
        let union = sources.union();
        assert_eq!(
            union,
            [
                (Source::Runtime, listed("az-a", 2, 9)),
                (Source::File, listed("az-a", 1, 2)),
                (Source::Dns("SRV shop".into()), listed("az-b", 3, 5)),
            ]
        );
        sources.set(&Source::Runtime, Vec::new());
        assert_eq!(sources.union()[1], (Source::File, listed("az-a", 2, 2)));
    }

    #[test]
    fn a_registered_target_has_a_zone_and_an_address() {
        let parse =
            |name| Listed::registered(name, 1, None).map(|listed| (listed.zone, listed.address.port()));
        assert_eq!(parse("az-a/127.0.0.1:80"), Ok(("az-a".into(), 80)));
        assert_eq!(parse("-/[::1]:80"), Ok(("-".into(), 80)));
        for name in
            ["", "/", "az-a", "az-a/", "/127.0.0.1:80", "az-a/127.0.0.1", "a b/127.0.0.1:80", "a/0.0.0.0:80"]
        {
            assert!(parse(name).unwrap_err().contains("is not the name of a target"), "{name}");
        }
        assert!(parse("a/127.0.0.1:0").is_err() && parse("a/b/127.0.0.1:80").is_err());
        assert!(Listed::registered("a/127.0.0.1:80", 257, None).unwrap_err().contains("0 to 256"));
        assert!(Listed::registered("a/127.0.0.1:80", 1, Some(0)).unwrap_err().contains("1 or more"));
    }

    #[test]
    fn only_a_list_that_differs_is_a_change() {
        let mut sources = Sources::default();
        assert!(!sources.set(&Source::File, Vec::new()));
        assert!(sources.set(&Source::File, vec![listed("az-a", 1, 1)]));
        assert!(!sources.set(&Source::File, vec![listed("az-a", 1, 1)]));
        assert!(sources.set(&Source::File, vec![listed("az-a", 1, 2)]));
        assert!(sources.set(&Source::File, Vec::new()));
        assert!(sources.of(&Source::File).is_empty());
    }
}
