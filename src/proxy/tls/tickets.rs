//! Session tickets that any node with the same session keys opens: nothing is stored, nothing is exchanged.
//!
//! A ticket is sealed with a key that is derived from the first session key, from what the listener asks of its clients,
//! and from the time: every [`PERIOD`] has its own. Tickets of the period before are opened too, and those of the one after,
//! for nodes whose clock is ahead. So all nodes change keys together without being told.
//!
//! What the listener asks is in the key because a resumed session does not show its certificate again: a ticket of a
//! listener that asks for none would otherwise open one that does.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use rustls::server::ProducesTickets;

use crate::config::KeyRing;

/// Seconds that one set of keys seals.
const PERIOD: u64 = 6 * 3600;
/// Id of the session key, number of the period, nonce.
const HEAD: usize = 4 + 4 + 12;
const TAG: usize = 16;
/// Longest ticket that is opened: one that holds a client's certificate chain has a few KiB.
const TICKET_MAX: usize = 64 * 1024;

/// See the module's documentation.
pub(super) struct Tickets {
    ring: Arc<KeyRing>,
    /// What the listener asks of its clients.
    clients: Vec<u8>,
    keys: ArcSwap<Keys>,
}

/// The keys that may be used in one period.
struct Keys {
    period: u32,
    /// The one that seals comes first.
    keys: Vec<TicketKey>,
}

struct TicketKey {
    id: [u8; 4],
    period: u32,
    aead: LessSafeKey,
}

impl Tickets {
    /// Tickets of a listener that asks its clients for `clients`, whatever that means: what differs in it is not resumed.
    pub(super) fn new(ring: Arc<KeyRing>, clients: Vec<u8>) -> Self {
        let keys = ArcSwap::from_pointee(Keys::of(&ring, &clients, period_now()));
        Self { ring, clients, keys }
    }

    fn keys_of(&self, period: u32) -> Arc<Keys> {
        let keys = self.keys.load_full();
        if keys.period == period {
            return keys;
        }
        let keys = Arc::new(Keys::of(&self.ring, &self.clients, period));
        self.keys.store(keys.clone());
        keys
    }

    fn seal(&self, period: u32, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys_of(period);
        let key = keys.keys.first()?;
        let mut nonce = [0; 12];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(HEAD + plain.len() + TAG);
        ticket.extend_from_slice(&key.id);
        ticket.extend_from_slice(&key.period.to_be_bytes());
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let (head, body) = ticket.split_at_mut(HEAD);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.aead.seal_in_place_separate_tag(nonce, Aad::from(&head[..8]), body).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, period: u32, ticket: &[u8]) -> Option<Vec<u8>> {
        if !(HEAD + TAG..=TICKET_MAX).contains(&ticket.len()) {
            return None;
        }
        let (head, body) = ticket.split_at(HEAD);
        let of = u32::from_be_bytes(head[4..8].try_into().ok()?);
        let keys = self.keys_of(period);
        let key = keys.keys.iter().find(|key| key.id == head[..4] && key.period == of)?;
        let nonce = Nonce::try_assume_unique_for_key(&head[8..]).ok()?;
        let mut body = body.to_vec();
        let plain = key.aead.open_in_place(nonce, Aad::from(&head[..8]), &mut body).ok()?.len();
        body.truncate(plain);
        Some(body)
    }
}

impl Keys {
    fn of(ring: &KeyRing, clients: &[u8], period: u32) -> Self {
        let periods = [period, period.wrapping_sub(1), period.wrapping_add(1)];
        let keys = periods.into_iter().flat_map(|period| {
            ring.iter().filter_map(move |key| {
                let purpose: [&[u8]; 3] = [b"tls ticket 1", &period.to_be_bytes(), clients];
                Some(TicketKey { id: key.id, period, aead: key.derive(&purpose)? })
            })
        });
        Self { period, keys: keys.collect() }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// A ticket sealed at the very end of its period is opened for one period more.
    fn lifetime(&self) -> u32 {
        PERIOD as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(period_now(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(period_now(), ticket)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

fn period_now() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    (seconds / PERIOD) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::fresh_line;

    fn tickets(keys: &str, clients: &[u8]) -> Tickets {
        Tickets::new(Arc::new(KeyRing::parse(keys).unwrap()), clients.to_vec())
    }

    #[test]
    fn a_ticket_opens_at_another_node_in_its_period_and_the_next() {
        let keys = fresh_line();
        let (one, other) = (tickets(&keys, b""), tickets(&keys, b""));
        let ticket = one.seal(1000, b"session").unwrap();
        for period in [999, 1000, 1001] {
            assert_eq!(other.open(period, &ticket).as_deref(), Some(&b"session"[..]), "{period}");
        }
        assert_eq!(other.open(1002, &ticket), None);
        assert_eq!(other.open(998, &ticket), None);
    }

    #[test]
    fn a_ticket_opens_with_a_ring_that_still_has_its_key_and_with_no_other() {
        let (old, new) = (fresh_line(), fresh_line());
        let ticket = tickets(&old, b"").seal(7, b"session").unwrap();
        assert!(tickets(&format!("{new}\n{old}"), b"").open(7, &ticket).is_some());
        assert!(tickets(&new, b"").open(7, &ticket).is_none());
    }

    #[test]
    fn a_ticket_of_a_listener_that_asks_for_less_does_not_open_one_that_asks_for_more() {
        let keys = fresh_line();
        let ticket = tickets(&keys, b"off").seal(7, b"session").unwrap();
        assert!(tickets(&keys, b"require").open(7, &ticket).is_none());
    }

    #[test]
    fn a_ticket_that_was_tampered_with_opens_nowhere() {
        let tickets = tickets(&fresh_line(), b"");
        let ticket = tickets.seal(7, b"session").unwrap();
        for at in 0..ticket.len() {
            let mut bad = ticket.clone();
            bad[at] ^= 1;
            assert_eq!(tickets.open(7, &bad), None, "byte {at}");
            assert_eq!(tickets.open(7, &ticket[..at]), None, "cut at {at}");
        }
        assert_eq!(tickets.open(7, &vec![0; TICKET_MAX + 1]), None);
    }
}
