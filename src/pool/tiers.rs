//! How the load is shared among the targets that take new sessions: all alike, or the node's own zone before the others.
//!
//! A [`Tier`] is a set of targets with its part of the requests; within a tier the pool's policy picks. `even` has one tier.
//! `local` has one too, of the own zone while that has an open target. `spill` has two. Shares are computed from what the
//! control plane knows; what requests find out by themselves (a full target, a hung one) is left to picking, which goes on
//! to the next tier when one has nothing to offer.

use super::snapshot::{Status, Target};
use crate::config::{ZoneMode, ZoneName, Zones};

/// Targets that share a part of the requests.
pub struct Tier {
    /// A random number below this, out of 2^32, falls to this tier or one before it.
    pub up_to: u64,
    /// Indices of its targets.
    pub open: Box<[u32]>,
    /// One round of smooth weighted round robin over [`Tier::open`]: each target stands in it as often as its share says.
    pub rotation: Box<[u32]>,
}

/// The tiers of a node in `zone`, in the order in which they are asked; none if no target takes new sessions.
pub(super) fn build(zones: &Zones, zone: Option<&ZoneName>, targets: &[Target], open: &[u32]) -> Box<[Tier]> {
    let target = |index: &u32| &targets[*index as usize];
    let (near, far): (Vec<u32>, Vec<u32>) =
        open.iter().partition(|index| zone.is_some_and(|zone| target(index).state.zone == *zone));
    let near_share = match zones.mode {
        ZoneMode::Even => return tiers(targets, &[(1.0, open)]),
        ZoneMode::Local => 1.0,
        ZoneMode::Spill => (zones.overprovisioning * capacity(targets, zone)).min(1.0),
    };
    if near.is_empty() {
        return tiers(targets, &[(1.0, open)]);
    }
    match zones.mode {
        ZoneMode::Local => tiers(targets, &[(1.0, &near)]),
        _ => tiers(targets, &[(near_share, &near), (1.0, &far)]),
    }
}

/// The part of its zone's weight that is in service.
fn capacity(targets: &[Target], zone: Option<&ZoneName>) -> f64 {
    let (mut all, mut open) = (0.0, 0.0);
    for target in targets.iter().filter(|target| Some(&target.state.zone) == zone) {
        // What the operator took out is not missing: nobody counts on it.
        if !matches!(target.status, Status::Down | Status::Draining | Status::Drained | Status::Standby) {
            all += f64::from(target.weight);
            open += if target.takes_new { f64::from(target.weight) } else { 0.0 };
        }
    }
    if all > 0.0 { open / all } else { 0.0 }
}

fn tiers(targets: &[Target], parts: &[(f64, &[u32])]) -> Box<[Tier]> {
    let mut tiers: Vec<Tier> = parts
        .iter()
        .filter(|(_, open)| !open.is_empty())
        .map(|(up_to, open)| Tier {
            up_to: (up_to * 2f64.powi(32)) as u64,
            open: (*open).into(),
            rotation: rotation(targets, open),
        })
        .collect();
    if let Some(last) = tiers.last_mut() {
        last.up_to = 1 << 32;
    }
    tiers.into()
}

/// Longest rotation with which shares of whole numbers are kept exactly, and the least length of others.
const ROTATION: f64 = 4096.0;

/// The order in which weighted round robin visits the open targets: each as often as its share says, and spread out.
fn rotation(targets: &[Target], open: &[u32]) -> Box<[u32]> {
    let shares: Vec<f64> = open.iter().map(|index| targets[*index as usize].share).collect();
    let sum: f64 = shares.iter().sum();
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    if shares.iter().all(|share| *share == least) {
        return open.into();
    }
    let whole = shares.iter().all(|share| share.fract() == 0.0) && sum <= ROTATION;
    let unit =
        if whole { shares.iter().fold(0, |divisor, share| gcd(divisor, *share as u64)) as f64 } else { 1.0 };
    let length = if whole { sum / unit } else { ROTATION.max(8.0 * shares.len() as f64) };
    let mut places: Vec<(f64, u32)> = Vec::with_capacity(length as usize + shares.len());
    for ((index, share), number) in open.iter().zip(&shares).zip(0u32..) {
        let times = (share / sum * length).round().max(1.0) as u32;
        // Evenly over the round, each target beginning at another point: multiples of the golden ratio never bunch.
        let phase = (f64::from(number) * 0.618_033_988_749_895).fract();
        places.extend((0..times).map(|nth| ((f64::from(nth) + phase) / f64::from(times), *index)));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places.into_iter().map(|(_, index)| index).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
