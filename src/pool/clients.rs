//! What single clients use of a listener: their open connections, and the rate of their requests.
//!
//! A client is a range of addresses (by default one of IPv4, a /64 of IPv6, which is what one household has). Memory is fixed:
//! clients share a table of small buckets, each with a lock of its own. Which bucket is a client's follows from a hash with a key
//! that is random in each process, so nobody can choose to be in somebody's. In a full bucket the one makes room who has least to
//! lose: few connections, then little used of the rate. So a crowd of addresses cannot make its own offenders forgotten, and who
//! is forgotten begins anew with all that it may use. The rate is one number for each client: the time at which all that it has
//! asked would be paid for (the generic cell rate algorithm). Who is a client, and what it is told, is decided elsewhere.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Counter;
use crate::config::{PerClient, RequestRate};

/// Clients of which the use is known at the same time, for each listener.
pub const PLACES: usize = 1 << 16;

/// Places in which one client may be.
const BUCKET: usize = 8;

/// See the module's documentation.
pub struct Clients {
    buckets: Box<[Mutex<[Use; BUCKET]>]>,
    hasher: RandomState,
    /// Zero on the clock of `paid_until`.
    epoch: Instant,
}

/// A client has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// What one client uses.
#[derive(Clone, Copy, Default)]
struct Use {
    client: u128,
    /// Nanoseconds since the table's epoch.
    paid_until: u64,
    connections: u32,
    taken: bool,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            buckets: (0..PLACES / BUCKET).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            epoch: Instant::now(),
        }
    }
}

impl Clients {
    /// Counts a connection of this client, of which it may have `most`. Whoever succeeds calls [`Clients::disconnect`] later.
    /// Clients that make room for it although they have connections or have used of their rate are `forgotten`.
    pub fn connect(&self, client: u128, most: u32, now: Instant, forgotten: &Counter) -> Result<(), TooMany> {
        let now = nanoseconds(now.saturating_duration_since(self.epoch));
        let mut bucket = self.bucket(client);
        let used = of(&mut bucket, client, now, forgotten);
        if used.connections >= most {
            return Err(TooMany);
        }
        used.connections += 1;
        Ok(())
    }

    /// Takes one connection off.
    pub fn disconnect(&self, client: u128) {
        let mut bucket = self.bucket(client);
        // Not there: it was forgotten in the meantime.
        if let Some(used) = bucket.iter_mut().find(|used| used.taken && used.client == client) {
            used.connections = used.connections.saturating_sub(1);
        }
    }

    /// Counts a request at this time, or says after how long there could be another.
    pub fn request(
        &self,
        client: u128,
        rate: &RequestRate,
        now: Instant,
        forgotten: &Counter,
    ) -> Result<(), Duration> {
        let now = nanoseconds(now.saturating_duration_since(self.epoch));
        let mut bucket = self.bucket(client);
        let used = of(&mut bucket, client, now, forgotten);
        used.paid_until = pay(used.paid_until, now, rate)?;
        Ok(())
    }

    fn bucket(&self, client: u128) -> MutexGuard<'_, [Use; BUCKET]> {
        let at = self.hasher.hash_one(client) as usize % self.buckets.len();
        // Numbers are right or a little off whatever happened to who held the lock.
        self.buckets[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's place in its bucket: that of somebody else, if it has none.
fn of<'b>(bucket: &'b mut [Use; BUCKET], client: u128, now: u64, forgotten: &Counter) -> &'b mut Use {
    let known = bucket.iter().position(|used| used.taken && used.client == client);
    let index = known.unwrap_or_else(|| {
        let worth = |at: &usize| (bucket[*at].connections, bucket[*at].paid_until);
        (0..BUCKET).min_by_key(worth).unwrap_or(0)
    });
    let used = &mut bucket[index];
    if known.is_none() {
        if used.connections > 0 || used.paid_until > now {
            forgotten.bump();
        }
        *used = Use { client, taken: true, ..Use::default() };
    }
    used
}

/// What is paid for after one more request, or for how long there may be none. Times in nanoseconds.
fn pay(paid_until: u64, now: u64, rate: &RequestRate) -> Result<u64, Duration> {
    let price = (nanoseconds(rate.per) / u64::from(rate.requests.max(1))).max(1);
    let savings = price.saturating_mul(u64::from(rate.burst.max(1)));
    let next = paid_until.max(now).saturating_add(price);
    match next.saturating_sub(now).checked_sub(savings) {
        Some(wait) if wait > 0 => Err(Duration::from_nanos(wait)),
        _ => Ok(next),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Which client this address belongs to; `None` for one that is not limited.
pub fn client_of(rules: &PerClient, address: IpAddr) -> Option<u128> {
    if rules.exempt.iter().any(|range| range.contains(&address)) {
        return None;
    }
    Some(match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(rules.ipv4_prefix)).unwrap_or(0);
            // Where IPv6 has the same addresses, which is nobody else's.
            Ipv4Addr::from_bits(address.to_bits() & mask).to_ipv6_mapped().to_bits()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(rules.ipv6_prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).to_bits()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, per: Duration, burst: u32) -> RequestRate {
        RequestRate { requests, per, burst }
    }

    fn rules() -> PerClient {
        PerClient {
            max_connections: None,
            rate: None,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            exempt: vec!["10.0.0.0/8".parse().unwrap()],
        }
    }

    fn client(text: &str) -> Option<u128> {
        client_of(&rules(), text.parse().unwrap())
    }

    fn ask(clients: &Clients, client: u128, rate: &RequestRate, now: Instant) -> Result<(), Duration> {
        clients.request(client, rate, now, &Counter::default())
    }

    fn connect(clients: &Clients, client: u128) -> Result<(), TooMany> {
        clients.connect(client, 2, clients.epoch, &Counter::default())
    }

    #[test]
    fn a_client_has_its_burst_at_once_and_then_its_rate() {
        let (clients, rate, start) =
            (Clients::default(), rate(10, Duration::from_secs(1), 5), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let count = |ms: u64| (0..100).filter(|_| ask(&clients, 1, &rate, at(ms)).is_ok()).count();
        assert_eq!(count(10), 5);
        assert_eq!(count(110), 1);
        assert_eq!(count(410), 3);
        assert_eq!(count(60_000), 5, "no more than the burst is saved up");
        assert_eq!(ask(&clients, 2, &rate, at(60_000)), Ok(()), "another client");
        let wait = ask(&clients, 1, &rate, at(60_000)).unwrap_err();
        assert_eq!(wait.as_millis(), 100);
    }

    #[test]
    fn rates_of_less_than_one_a_second_are_kept() {
        let (clients, rate, start) =
            (Clients::default(), rate(6, Duration::from_secs(60), 1), Instant::now());
        assert_eq!(ask(&clients, 1, &rate, start), Ok(()));
        assert_eq!(ask(&clients, 1, &rate, start).unwrap_err().as_secs(), 10);
        assert_eq!(ask(&clients, 1, &rate, start + Duration::from_millis(10_001)), Ok(()));
    }

    #[test]
    fn connections_are_counted_until_they_are_gone() {
        let clients = Clients::default();
        assert_eq!((connect(&clients, 1), connect(&clients, 1)), (Ok(()), Ok(())));
        assert_eq!((connect(&clients, 1), connect(&clients, 2)), (Err(TooMany), Ok(())));
        clients.disconnect(1);
        assert_eq!(connect(&clients, 1), Ok(()));
        clients.disconnect(3);
    }

    #[test]
    fn a_client_is_a_range_of_addresses() {
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1:2:3"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("::1"), client("0.0.0.1"));
        assert_eq!(client("10.1.2.3"), None);
        let all = PerClient { ipv4_prefix: 0, ipv6_prefix: 0, ..rules() };
        let of = |text: &str| client_of(&all, text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("198.51.100.1"));
        assert_eq!(of("2001:db8::1"), of("::1"));
    }

    #[test]
    fn a_crowd_neither_grows_the_table_nor_makes_an_offender_forgotten() {
        let (clients, rate, start) =
            (Clients::default(), rate(10, Duration::from_secs(1), 10), Instant::now());
        let forgotten = Counter::default();
        let offender = client("2001:db8::1").unwrap();
        let mut served =
            (0..50).filter(|_| clients.request(offender, &rate, start, &forgotten).is_ok()).count();
        assert_eq!(served, 10);
        let holder = client("192.0.2.1").unwrap();
        assert_eq!((connect(&clients, holder), connect(&clients, holder)), (Ok(()), Ok(())));
        for network in 0..500_000u128 {
            let _ = clients.request((0x2a00 << 112) | (network << 64), &rate, start, &forgotten);
        }
        served += (0..50).filter(|_| clients.request(offender, &rate, start, &forgotten).is_ok()).count();
        assert_eq!(served, 10, "its use is still known");
        assert_eq!(connect(&clients, holder), Err(TooMany), "connections are still known");
        assert!(forgotten.get() > 400_000, "{}", forgotten.get());
    }
}
