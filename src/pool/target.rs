//! One backend instance: its stable identity and what is known of it beyond any snapshot.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::conduct::Conduct;
use super::counters::{Lanes, TargetLane};
use super::distinct::Distinct;
use super::queue::Line;
use crate::config::ZoneName;

/// Identity of a target: the same on every node, after every restart, wherever in a list the target stands.
///
/// A 64-bit hash (XXH3, whose value is stable across versions and machines) of pool, zone and address. It goes into
/// session cookies instead of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub u64);

impl TargetId {
    /// The identity of `address` in `zone` as a target of `pool`.
    pub fn of(pool: &str, zone: &str, address: SocketAddr) -> Self {
        let mut hash = Xxh3::new();
        for part in [pool.as_bytes(), zone.as_bytes(), address.to_string().as_bytes()] {
            hash.update(part);
            hash.update(&[0]);
        }
        Self(hash.digest())
    }

    /// Rank of this target for a session (rendezvous hashing): the highest rank wins, and every node computes the same.
    /// `None` for a weight: all are alike, which saves a logarithm and leads to the same winner.
    pub fn rank(self, session: u64, weight: Option<u32>) -> f64 {
        let hash = xxh3_64_with_seed(&self.0.to_le_bytes(), session);
        // A number in (0, 1) from the top 53 bits, then the weighted form of rendezvous hashing.
        let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        weight.map_or(unit, |weight| f64::from(weight.max(1)) / -unit.ln())
    }
}

/// What outlives a snapshot. One per [`TargetId`]; all counts are of this node.
pub struct TargetState {
    /// Whose state this is.
    pub id: TargetId,
    /// Zone of the target.
    pub zone: ZoneName,
    /// Address of the target.
    pub address: SocketAddr,
    /// `zone/address`: the name that people and the API use.
    pub name: String,
    /// Lower half: requests sent and not yet answered to the last byte. Upper half: requests sent since the target last
    /// answered anything. Ordered with the queue's counts: who ends sees who waits, or who waits sees who has ended.
    load: AtomicU64,
    /// How it has behaved lately.
    pub conduct: Conduct,
    /// Sessions bound to it that were seen lately; there once the first was.
    bound: OnceLock<Box<Distinct>>,
    /// Sessions bound to this target that wait for it because it is full.
    pub line: Line,
    /// Counters, one lane for each worker.
    pub lanes: Lanes<TargetLane>,
}

impl TargetState {
    /// A target nobody has seen before.
    pub fn new(id: TargetId, zone: ZoneName, address: SocketAddr, workers: usize) -> Self {
        let name = format!("{zone}/{address}");
        Self {
            id,
            zone,
            address,
            name,
            load: AtomicU64::new(0),
            conduct: Conduct::default(),
            bound: OnceLock::new(),
            line: Line::default(),
            lanes: Lanes::new(workers),
        }
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.load.load(SeqCst) as u32
    }

    /// Requests sent since the target last answered anything: a few for one that works, however many it works on; ever more
    /// for one that hangs.
    pub fn unanswered(&self) -> u32 {
        pending(self.load.load(SeqCst))
    }

    /// Counts one more request in flight unless that would be more than `limit`, of which `reserved` places belong to
    /// requests that came earlier.
    pub fn begin(&self, limit: u32, reserved: u32) -> bool {
        const ONE: u64 = 1 << 32 | 1;
        if limit == u32::MAX {
            self.load.fetch_add(ONE, SeqCst);
            return true;
        }
        let limit = limit.saturating_sub(reserved);
        self.load.try_update(SeqCst, SeqCst, |now| ((now as u32) < limit).then_some(now + ONE)).is_ok()
    }

    /// Like [`TargetState::begin`], unless more than `silent` requests have been sent since the target last answered: two
    /// workers that look at the same moment must not both be the last.
    pub fn begin_unless_silent(&self, limit: u32, reserved: u32, silent: u32) -> bool {
        const ONE: u64 = 1 << 32 | 1;
        let limit = if limit == u32::MAX { limit } else { limit.saturating_sub(reserved) };
        let may = |now: u64| (now as u32) < limit && pending(now) <= silent;
        self.load.try_update(SeqCst, SeqCst, |now| may(now).then_some(now + ONE)).is_ok()
    }

    /// The target has answered something.
    pub fn answered(&self) {
        self.load.fetch_and(u64::from(u32::MAX), SeqCst);
    }

    /// Whether one more request would begin; `reserved` as for [`TargetState::begin`].
    pub fn has_room(&self, limit: u32, reserved: u32) -> bool {
        limit == u32::MAX || self.in_flight().saturating_add(reserved) < limit
    }

    /// Counts one request less.
    pub fn end(&self) {
        self.load.fetch_sub(1, SeqCst);
    }

    /// A request of a session that is bound to this target was here at `now`, in seconds since 1970.
    pub fn see_bound(&self, session: u64, now: u32) {
        self.bound.get_or_init(Box::default).see(session, now);
    }

    /// Takes on what another process has seen of them: see [`Distinct::leave`].
    pub fn inherit_bound(&self, registers: &[u8], last_seen: u32) {
        self.bound.get_or_init(Box::default).inherit(registers, last_seen);
    }

    /// The sessions bound to this target that were seen lately; `None` before the first.
    pub fn bound(&self) -> Option<&Distinct> {
        self.bound.get().map(Box::as_ref)
    }
}

/// Of the requests sent since the last answer, those that are still under way: what was refused or given up waits for nothing.
fn pending(load: u64) -> u32 {
    (load as u32).min((load >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_stable_across_versions() {
        let id = TargetId::of("shop", "az-a", "127.0.1.1:9001".parse().unwrap());
        // Pinned: a change here would end every session of every user at an upgrade.
        assert_eq!(id, TargetId::of("shop", "az-a", "127.0.1.1:9001".parse().unwrap()));
        assert_ne!(id, TargetId::of("shop", "az-b", "127.0.1.1:9001".parse().unwrap()));
        assert_ne!(id, TargetId::of("shop2", "az-a", "127.0.1.1:9001".parse().unwrap()));
    }

    #[test]
    fn what_was_refused_or_given_up_is_not_silence() {
        let address = "127.0.1.1:9001".parse().unwrap();
        let state = TargetState::new(TargetId(1), "az-a".into(), address, 1);
        for _ in 0..8 {
            assert!(state.begin(u32::MAX, 0));
            state.end();
        }
        assert_eq!(state.unanswered(), 0);
        assert!(state.begin_unless_silent(u32::MAX, 0, 2));
        assert_eq!((state.unanswered(), state.in_flight()), (1, 1));
    }

    #[test]
    fn ranks_share_sessions_by_weight() {
        let one = TargetId(1);
        let two = TargetId(2);
        let wins = (0..30_000).filter(|s| two.rank(*s, Some(2)) > one.rank(*s, Some(1))).count();
        assert!((19_500..20_500).contains(&wins), "two thirds of 30000 expected, got {wins}");
        let wins =
            |weight| (0..1000).filter(|s| two.rank(*s, weight) > one.rank(*s, weight)).collect::<Vec<_>>();
        assert_eq!(wins(None), wins(Some(3)));
    }
}
