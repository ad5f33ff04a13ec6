//! When a zone is taken out because its requests fail or crawl while its checks pass, and when it is back. Pure.
//!
//! A zone is compared with all the others together, so what is wrong everywhere is nobody's fault. One zone at a time, and
//! only if the others have the capacity. While it is out it gets a trickle of new requests; when enough of them have gone as
//! well as in the other zones, it is back.

use std::time::{Duration, Instant};

use super::window::Tally;
use crate::config::{GrayZone, ZoneName};

/// Requests of the trickle without which nothing is known of a zone that is out.
const TRICKLE_REQUESTS: u64 = 10;

/// A zone is not called slow for less than this.
const SLOWER_MS: f64 = 100.0;

/// What is known of one zone of a pool.
#[derive(Debug, Clone)]
pub struct ZoneEvidence {
    /// Its name.
    pub zone: ZoneName,
    /// The last seconds of all its targets.
    pub recent: Tally,
    /// Its part of the targets that can serve, of all zones' targets (0.0 to 1.0).
    pub capacity: f64,
    /// It is taken out, by whomever.
    pub out: bool,
}

/// A zone that is out because it stood out.
#[derive(Debug, Clone, PartialEq)]
pub struct Gray {
    /// Which one.
    pub zone: ZoneName,
    /// Since when.
    pub since: Instant,
    /// Until when at the latest.
    pub until: Instant,
    /// Its sessions move: it fails. Otherwise it is slow and keeps them.
    pub moves_sessions: bool,
    /// In words, with the numbers.
    pub reason: String,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// Take this zone out.
    Out(Gray),
    /// The zone that is out is back, for this reason.
    Back(String),
}

/// Looks at all zones of a pool together. `gray` is the zone that is out by an earlier finding.
pub fn look(
    rules: &GrayZone,
    needed: f64,
    now: Instant,
    zones: &[ZoneEvidence],
    gray: Option<&Gray>,
) -> Option<Finding> {
    match gray {
        Some(gray) => back(rules, needed, now, zones, gray).map(Finding::Back),
        None if rules.enabled => out(rules, needed, now, zones).map(Finding::Out),
        None => None,
    }
}

fn out(rules: &GrayZone, needed: f64, now: Instant, zones: &[ZoneEvidence]) -> Option<Gray> {
    let enough = |tally: Tally| tally.requests >= u64::from(rules.min_requests);
    let found = zones.iter().filter(|zone| !zone.out && enough(zone.recent)).filter_map(|zone| {
        let others = others(zones, zone);
        let capacity: f64 = rest(zones, zone).map(|other| other.capacity).sum();
        if !enough(others) || capacity < needed {
            return None;
        }
        let (own, theirs) = (zone.recent.failure_share(), others.failure_share());
        let gray = |moves_sessions, reason| {
            let (zone, until) = (zone.zone.clone(), now + rules.expiry);
            Gray { zone, since: now, until, moves_sessions, reason }
        };
        // At least twice as bad: when most fail, nobody stands out.
        if own >= theirs + rules.failures && own >= theirs * 2.0 {
            let (own, theirs) = (own * 100.0, theirs * 100.0);
            let reason = format!("{own:.1} % of its requests failed, {theirs:.1} % of the other zones'");
            return Some((own, gray(true, reason)));
        }
        let (own, theirs) = (zone.recent.mean_ms(), others.mean_ms());
        let crawls = rules.latency.is_some_and(|factor| own >= theirs * factor) && own >= theirs + SLOWER_MS;
        crawls.then(|| {
            (0.0, gray(false, format!("{own:.0} ms to the first byte, the other zones {theirs:.0} ms")))
        })
    });
    found.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, gray)| gray)
}

fn back(rules: &GrayZone, needed: f64, now: Instant, zones: &[ZoneEvidence], gray: &Gray) -> Option<String> {
    let Some(zone) = zones.iter().find(|zone| zone.zone == gray.zone) else {
        return Some("it has no target any more".to_owned());
    };
    let capacity: f64 = rest(zones, zone).map(|other| other.capacity).sum();
    if capacity < needed {
        let (capacity, needed) = (capacity * 100.0, needed * 100.0);
        return Some(format!(
            "the other zones are down to {capacity:.0} % of the targets, {needed:.0} % are needed"
        ));
    }
    if now >= gray.until {
        return Some("its time is up".to_owned());
    }
    // What was under way when it was taken out still fails: look at the trickle only.
    if zone.recent.requests < TRICKLE_REQUESTS || now.duration_since(gray.since) < rules.window * 2 {
        return None;
    }
    let others = others(zones, zone);
    let (own, theirs) = (zone.recent.failure_share(), others.failure_share());
    let (own_ms, their_ms) = (zone.recent.mean_ms(), others.mean_ms());
    let is_fast =
        rules.latency.is_none_or(|factor| own_ms < their_ms * factor / 2.0 || own_ms < their_ms + SLOWER_MS);
    (own < theirs + rules.failures / 2.0 && is_fast).then(|| {
        let requests = zone.recent.requests;
        format!(
            "of its last {requests} requests {:.1} % failed, {own_ms:.0} ms to the first byte",
            own * 100.0
        )
    })
}

fn rest<'z>(zones: &'z [ZoneEvidence], zone: &'z ZoneEvidence) -> impl Iterator<Item = &'z ZoneEvidence> {
    zones.iter().filter(|other| other.zone != zone.zone && !other.out)
}

fn others(zones: &[ZoneEvidence], zone: &ZoneEvidence) -> Tally {
    rest(zones, zone).fold(Tally::default(), |sum, other| sum.plus(other.recent))
}

/// What is looked at: a zone that is out has had only its trickle, for which the window is longer.
pub fn span(rules: &GrayZone, is_gray: bool) -> Duration {
    if is_gray { rules.window * 2 } else { rules.window }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> GrayZone {
        GrayZone {
            enabled: true,
            window: Duration::from_secs(5),
            min_requests: 50,
            failures: 0.1,
            latency: Some(5.0),
            expiry: Duration::from_secs(300),
            trickle: 0.02,
        }
    }

    /// Three zones with these failures among 1000 requests.
    fn zones(failures: [u64; 3]) -> Vec<ZoneEvidence> {
        let names = ["az-a", "az-b", "az-c"];
        let zone = |(name, failures): (&str, u64)| ZoneEvidence {
            zone: name.into(),
            recent: Tally { requests: 1000, failures, answers: 1000, first_byte_us: 10_000_000 },
            capacity: 1.0 / 3.0,
            out: false,
        };
        names.into_iter().zip(failures).map(zone).collect()
    }

    fn found(zones: &[ZoneEvidence], gray: Option<&Gray>, after: u64) -> Option<Finding> {
        let now = gray.map_or_else(Instant::now, |gray| gray.since) + Duration::from_secs(after);
        look(&rules(), 0.5, now, zones, gray)
    }

    fn taken_out(zones: &[ZoneEvidence]) -> Option<(String, bool)> {
        match found(zones, None, 0) {
            Some(Finding::Out(gray)) => Some((gray.zone.to_string(), gray.moves_sessions)),
            _ => None,
        }
    }

    fn gray() -> Gray {
        let Some(Finding::Out(gray)) = found(&zones([0, 300, 0]), None, 0) else { panic!() };
        gray
    }

    #[test]
    fn the_zone_that_fails_is_taken_out() {
        assert_eq!(taken_out(&zones([5, 300, 0])), Some(("az-b".to_owned(), true)));
        assert_eq!(taken_out(&zones([5, 50, 0])), None);
        assert_eq!(taken_out(&zones([690, 903, 690])), None, "nor what is only worse there");
        assert_eq!(taken_out(&zones([300, 310, 305])), None, "what is wrong everywhere is nobody's fault");
    }

    #[test]
    fn of_two_only_the_worse_is_taken_out_and_the_other_not_after_it() {
        let mut two = zones([250, 300, 0]);
        assert_eq!(taken_out(&two), Some(("az-b".to_owned(), true)));
        two[1].out = true;
        assert_eq!(found(&two, Some(&gray()), 1), None);
    }

    #[test]
    fn a_zone_stays_when_the_others_could_not_carry_it() {
        let mut zones = zones([0, 300, 0]);
        zones[2].capacity = 0.1;
        assert_eq!(taken_out(&zones), None);
    }

    #[test]
    fn a_slow_zone_is_taken_out_and_keeps_its_sessions() {
        let mut zones = zones([0, 0, 0]);
        zones[0].recent.first_byte_us = 300_000_000;
        assert_eq!(taken_out(&zones), Some(("az-a".to_owned(), false)));
    }

    #[test]
    fn too_few_requests_decide_nothing() {
        let mut zones = zones([0, 0, 0]);
        zones[0].recent = Tally { requests: 49, failures: 49, answers: 49, first_byte_us: 0 };
        assert_eq!(taken_out(&zones), None);
    }

    #[test]
    fn a_zone_is_back_when_its_trickle_goes_well() {
        let gray = gray();
        let mut zones = zones([0, 0, 0]);
        zones[1].out = true;
        zones[1].recent = Tally { requests: 12, failures: 4, answers: 12, first_byte_us: 120_000 };
        assert_eq!(found(&zones, Some(&gray), 20), None);
        zones[1].recent.failures = 0;
        assert_eq!(found(&zones, Some(&gray), 9), None, "the window still holds what came before");
        assert!(matches!(found(&zones, Some(&gray), 20), Some(Finding::Back(_))));
        zones[1].recent.requests = 9;
        assert_eq!(found(&zones, Some(&gray), 20), None);
        assert!(matches!(found(&zones, Some(&gray), 300), Some(Finding::Back(_))));
    }

    #[test]
    fn a_zone_is_back_when_the_others_fail_too() {
        let gray = gray();
        let mut zones = zones([0, 0, 0]);
        zones[1].out = true;
        zones[2].capacity = 0.0;
        assert!(matches!(found(&zones, Some(&gray), 1), Some(Finding::Back(_))));
    }
}
