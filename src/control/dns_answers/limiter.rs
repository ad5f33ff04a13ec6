//! A bound of the answers to one neighbourhood: who is sent floods of answers that others asked for in their name gets
//! no more than this from here.
//!
//! Not obvious: memory is fixed. Neighbourhoods share a table of small buckets; when a bucket is full, the neighbourhood
//! in it that used least of its allowance makes room, so that those under attack are not forgotten. Each is one number:
//! the time at which all that it was sent would have been paid for (the generic cell rate algorithm).

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::RateLimit;

/// Places of the table: of so many neighbourhoods the use is known.
const PLACES: usize = 1 << 15;

/// Places in which one neighbourhood may be.
const BUCKET: usize = 8;

/// What is saved up: a neighbourhood that was quiet may have this much at once.
const BURST: Duration = Duration::from_secs(1);

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    /// Send it.
    Send,
    /// Send it empty, with the word that it is longer: real clients then come over TCP.
    Truncate,
    /// Send nothing.
    Drop,
}

/// Uses of all neighbourhoods.
pub(super) struct Limiter {
    rules: RateLimit,
    /// What one answer takes of a second, in nanoseconds.
    price: u64,
    places: Box<[Use]>,
    hasher: foldhash::quality::RandomState,
}

/// The use of one neighbourhood.
#[derive(Clone, Copy, Default)]
struct Use {
    neighbourhood: u64,
    /// Nanoseconds on the clock of the caller.
    paid_until: u64,
    /// Answers beyond the limit, as far as `slip` needs to count.
    beyond: u32,
}

impl Limiter {
    /// An empty table.
    pub(super) fn new(rules: &RateLimit) -> Self {
        Self {
            rules: rules.clone(),
            price: BURST.as_nanos() as u64 / u64::from(rules.responses.max(1)),
            places: vec![Use::default(); PLACES].into(),
            hasher: foldhash::quality::RandomState::default(),
        }
    }

    /// Decides about one more answer to `source`, `now` being the time since some fixed moment.
    pub(super) fn rule(&mut self, source: IpAddr, now: Duration) -> Ruling {
        if self.rules.exempt.iter().any(|range| range.contains(&source)) {
            return Ruling::Send;
        }
        let now = now.as_nanos() as u64;
        let price = self.price;
        let slip = self.rules.slip;
        let used = self.of(neighbourhood(source));
        let paid_until = used.paid_until.max(now) + price;
        if paid_until - now <= BURST.as_nanos() as u64 {
            (used.paid_until, used.beyond) = (paid_until, 0);
            return Ruling::Send;
        }
        used.beyond = used.beyond.wrapping_add(1);
        if slip > 0 && used.beyond.is_multiple_of(slip) { Ruling::Truncate } else { Ruling::Drop }
    }

    fn of(&mut self, neighbourhood: u64) -> &mut Use {
        let bucket = self.hasher.hash_one(neighbourhood) as usize % (PLACES / BUCKET) * BUCKET;
        let bucket = &mut self.places[bucket..bucket + BUCKET];
        let known = bucket.iter().position(|used| used.neighbourhood == neighbourhood);
        let least = || (0..BUCKET).min_by_key(|index| bucket[*index].paid_until).unwrap_or(0);
        let index = known.unwrap_or_else(least);
        if known.is_none() {
            bucket[index] = Use { neighbourhood, ..Use::default() };
        }
        &mut bucket[index]
    }
}

/// An IPv4 /24 or an IPv6 /56 as a number; never 0, which is nobody's.
fn neighbourhood(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(address) => 1 << 63 | u64::from(address.to_bits() >> 8),
        IpAddr::V6(address) => 1 << 62 | (address.to_bits() >> 72) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(responses: u32, slip: u32) -> Limiter {
        Limiter::new(&RateLimit { responses, slip, exempt: vec!["10.0.0.0/8".parse().unwrap()] })
    }

    fn v4(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of `count` answers at this time are sent, truncated, dropped.
    fn rulings(limiter: &mut Limiter, source: &str, now_ms: u64, count: usize) -> [usize; 3] {
        let mut rulings = [0; 3];
        for _ in 0..count {
            rulings[limiter.rule(v4(source), Duration::from_millis(now_ms)) as usize] += 1;
        }
        rulings
    }

    #[test]
    fn a_neighbourhood_gets_its_rate_and_what_it_saved_in_a_second() {
        let mut limiter = limiter(100, 0);
        assert_eq!(rulings(&mut limiter, "192.0.2.1", 5_000, 300), [100, 0, 200]);
        assert_eq!(rulings(&mut limiter, "192.0.2.200", 5_100, 300), [10, 0, 290], "the same neighbourhood");
        assert_eq!(rulings(&mut limiter, "192.0.3.1", 5_100, 300), [100, 0, 200], "another one");
        assert_eq!(rulings(&mut limiter, "192.0.2.1", 60_000, 300), [100, 0, 200], "no more was saved");
    }

    #[test]
    fn neighbourhoods_of_ipv6_are_56_bits_wide() {
        assert_eq!(neighbourhood(v4("2001:db8:0:aa01::1")), neighbourhood(v4("2001:db8:0:aaff::2")));
        assert_ne!(neighbourhood(v4("2001:db8:0:aa01::1")), neighbourhood(v4("2001:db8:0:ab01::1")));
        assert_ne!(neighbourhood(v4("0.0.0.0")), neighbourhood(v4("::")));
    }

    #[test]
    fn one_in_so_many_of_the_rest_is_truncated() {
        assert_eq!(rulings(&mut limiter(10, 1), "192.0.2.1", 0, 110), [10, 100, 0]);
        assert_eq!(rulings(&mut limiter(10, 2), "192.0.2.1", 0, 110), [10, 50, 50]);
        assert_eq!(rulings(&mut limiter(10, 5), "192.0.2.1", 0, 110), [10, 20, 80]);
    }

    #[test]
    fn who_is_exempt_is_not_counted() {
        assert_eq!(rulings(&mut limiter(1, 0), "10.9.9.9", 0, 500), [500, 0, 0]);
    }

    #[test]
    fn who_is_limited_is_not_forgotten_for_a_crowd() {
        let mut limiter = limiter(10, 0);
        assert_eq!(rulings(&mut limiter, "192.0.2.1", 1_000, 50), [10, 0, 40]);
        for source in 0..1_000_000u32 {
            limiter.rule(IpAddr::from((source << 8).to_be_bytes()), Duration::from_millis(1_000));
        }
        assert_eq!(rulings(&mut limiter, "192.0.2.1", 1_000, 50), [0, 0, 50]);
    }
}
