//! Counts as a process leaves them to the one that takes its place: by name, so that another version finds what it knows.
//!
//! Every set of lanes has one lane that no worker writes: what was inherited. Sums include it by themselves. Gauges are not
//! handed over: what is open stays with the process that holds it.

use std::collections::BTreeMap;

use super::counters::{Counter, Lanes, PoolLane, TargetLane, WorkerLane};
use super::outcome::{
    Failure, HandshakeFailure, Http2Fault, ProxyHeaderFailure, Refusal, TunnelEnd, Verdict,
};

/// Counts by name; those that are 0 are left out.
pub type Counts = BTreeMap<String, u64>;

/// Lanes whose counts can be left to another process.
pub trait Inherit {
    /// Shows every counter that only grows, by a name that stays what it is.
    fn each(&self, show: &mut dyn FnMut(String, &Counter));
}

impl<T: Inherit> Lanes<T> {
    /// All counts, summed up.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for lane in self.iter() {
            lane.each(&mut |name, counter| match counter.get() {
                0 => {}
                count => *counts.entry(name).or_default() += count,
            });
        }
        counts
    }

    /// Adds what another process has counted. For the control thread only.
    pub fn inherit(&self, counts: &Counts) {
        self.inherited().each(&mut |name, counter| {
            if let Some(count) = counts.get(&name) {
                counter.add(*count);
            }
        });
    }
}

/// What `now` has beyond `then`, which is an earlier state of the same counts.
pub fn since(now: &Counts, then: &Counts) -> Counts {
    let grown = |(name, count): (&String, &u64)| {
        let more = count.saturating_sub(then.get(name).copied().unwrap_or_default());
        (more > 0).then(|| (name.clone(), more))
    };
    now.iter().filter_map(grown).collect()
}

fn by_name(show: &mut dyn FnMut(String, &Counter), family: &str, names: &[&str], counters: &[Counter]) {
    for (name, counter) in names.iter().zip(counters) {
        show(format!("{family}/{name}"), counter);
    }
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Inherit for PoolLane {
    fn each(&self, show: &mut dyn FnMut(String, &Counter)) {
        for (name, counter) in [
            ("requests", &self.requests),
            ("abandoned", &self.abandoned),
            ("retries", &self.retries),
            ("retries_refused", &self.retries_refused),
            ("queued", &self.queued),
            ("queue_refused", &self.queue_refused),
            ("overloaded", &self.overloaded),
            ("rehomed", &self.rehomed),
        ] {
            show(name.to_owned(), counter);
        }
        by_name(show, "responses", &CLASSES, &self.responses);
        by_name(
            show,
            "verdicts",
            &Verdict::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>(),
            &self.verdicts,
        );
        self.duration.each("duration", show);
    }
}

impl Inherit for TargetLane {
    fn each(&self, show: &mut dyn FnMut(String, &Counter)) {
        for (name, counter) in [
            ("attempts", &self.attempts),
            ("connects", &self.connects),
            ("bytes_sent", &self.bytes_sent),
            ("bytes_received", &self.bytes_received),
        ] {
            show(name.to_owned(), counter);
        }
        by_name(show, "responses", &CLASSES, &self.responses);
        by_name(
            show,
            "failures",
            &Failure::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>(),
            &self.failures,
        );
        self.first_byte.each("first_byte", show);
    }
}

impl Inherit for WorkerLane {
    fn each(&self, show: &mut dyn FnMut(String, &Counter)) {
        for (name, counter) in [
            ("accepted", &self.accepted),
            ("denied", &self.denied),
            ("proxy_headers", &self.proxy_headers),
            ("accept_errors", &self.accept_errors),
            ("requests", &self.requests),
            ("panics", &self.panics),
            ("access_dropped", &self.access_dropped),
            ("http2/connections", &self.http2.connections),
            ("http2/requests", &self.http2.requests),
        ] {
            show(name.to_owned(), counter);
        }
        let failures = ProxyHeaderFailure::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>();
        by_name(show, "proxy_header_failures", &failures, &self.proxy_header_failures);
        by_name(
            show,
            "refusals",
            &Refusal::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>(),
            &self.refusals,
        );
        let ends = TunnelEnd::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>();
        by_name(show, "tunnels_closed", &ends, &self.tunnels_closed);
        let faults = Http2Fault::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>();
        by_name(show, "http2/faults", &faults, &self.http2.faults);
        let failures = HandshakeFailure::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>();
        by_name(show, "tls/failures", &failures, &self.tls.failures);
        for (version, of_version) in ["1.2", "1.3"].iter().zip(&self.tls.handshakes) {
            by_name(show, &format!("tls/handshakes/{version}"), &["full", "resumed"], of_version);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pool::counters::Distribution;

    #[test]
    fn what_is_inherited_is_in_every_sum_and_what_is_not_known_is_ignored() {
        let (old, new) = (Lanes::<PoolLane>::new(2), Lanes::<PoolLane>::new(1));
        old.of(0).requests.add(3);
        old.of(1).requests.add(4);
        old.of(1).responses[1].add(5);
        old.of(1).verdicts[Verdict::Valid as usize].bump();
        old.of(0).live.bump();
        old.of(0).duration.record(Duration::from_millis(3));
        let mut counts = old.counts();
        counts.insert("of/the/future".to_owned(), 9);
        new.of(0).requests.bump();
        new.inherit(&counts);
        assert_eq!(new.sum(|lane| &lane.requests), 8);
        assert_eq!(new.sum(|lane| &lane.responses[1]), 5);
        assert_eq!(new.sum(|lane| &lane.verdicts[Verdict::Valid as usize]), 1);
        assert_eq!(new.sum(|lane| &lane.live), 0, "what is in flight stays where it is");
        let durations = Distribution::of_lanes(&new, |lane| &lane.duration);
        assert_eq!((durations.count(), durations.quantile(0.5)), (1, Some(Duration::from_micros(3072))));
        assert_eq!(since(&new.counts(), &counts), Counts::from([("requests".to_owned(), 1)]));
    }
}
