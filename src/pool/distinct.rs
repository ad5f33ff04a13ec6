//! About how many different sessions were seen lately: two HyperLogLog sketches that take turns.
//!
//! Not obvious: a window slides in two halves. New sessions go into the present half; the answer is the union of both;
//! when the control plane turns the window, the older half is emptied and becomes the present one. So a session counts for
//! one to two halves after it was last seen. With 1024 registers the error is about 3 %.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering::Relaxed};

use xxhash_rust::xxh3::xxh3_64;

const REGISTERS: usize = 1024;

/// A count of distinct sessions; written by workers, read and turned by the control plane.
pub struct Distinct {
    halves: [[AtomicU8; REGISTERS]; 2],
    present: AtomicUsize,
    /// When a session was last seen, in seconds since 1970; 0 for never.
    last_seen: AtomicU32,
}

impl Default for Distinct {
    fn default() -> Self {
        let half = || std::array::from_fn(|_| AtomicU8::new(0));
        Self { halves: [half(), half()], present: AtomicUsize::new(0), last_seen: AtomicU32::new(0) }
    }
}

impl Distinct {
    /// A request of this session was here at `now`, in seconds since 1970.
    pub fn see(&self, session: u64, now: u32) {
        let hash = xxh3_64(&session.to_le_bytes());
        let register = &self.halves[self.present.load(Relaxed)][hash as usize % REGISTERS];
        // The rank of the first set bit among the 54 that do not choose the register.
        let rank = (hash >> 10 | 1 << 54).trailing_zeros() as u8 + 1;
        // Nearly always only two loads: registers rise a few times in a window.
        if register.load(Relaxed) < rank {
            register.fetch_max(rank, Relaxed);
        }
        if self.last_seen.load(Relaxed) != now {
            self.last_seen.store(now, Relaxed);
        }
    }

    /// Begins the next half of the window.
    pub fn turn(&self) {
        let next = 1 - self.present.load(Relaxed);
        self.halves[next].iter().for_each(|register| register.store(0, Relaxed));
        self.present.store(next, Relaxed);
    }

    /// About how many sessions were seen in the window.
    pub fn count(&self) -> u64 {
        let (mut sum, mut empty) = (0.0, 0u32);
        for (one, other) in self.halves[0].iter().zip(&self.halves[1]) {
            let rank = one.load(Relaxed).max(other.load(Relaxed));
            sum += 0.5f64.powi(i32::from(rank));
            empty += u32::from(rank == 0);
        }
        let registers = REGISTERS as f64;
        let estimate = 0.7213 / (1.0 + 1.079 / registers) * registers * registers / sum;
        // Few sessions leave many registers empty, whose number is then the better measure.
        let count = match empty {
            0 => estimate,
            _ if estimate > 2.5 * registers => estimate,
            _ => registers * (registers / f64::from(empty)).ln(),
        };
        count.round() as u64
    }

    /// What a process leaves to the one that takes its place: all registers of the window, and when a session was last seen.
    pub fn leave(&self) -> (Vec<u8>, u32) {
        let registers = self.halves[0].iter().zip(&self.halves[1]);
        let most = registers.map(|(one, other)| one.load(Relaxed).max(other.load(Relaxed)));
        (most.collect(), self.last_seen.load(Relaxed))
    }

    /// Takes on what another process has seen, as if it had been in the present half; of another size it is ignored.
    pub fn inherit(&self, registers: &[u8], last_seen: u32) {
        self.last_seen.fetch_max(last_seen, Relaxed);
        if registers.len() == REGISTERS {
            let present = &self.halves[self.present.load(Relaxed)];
            for (register, seen) in present.iter().zip(registers) {
                register.fetch_max((*seen).min(55), Relaxed);
            }
        }
    }

    /// When a session was last seen, in seconds since 1970; `None` for never.
    pub fn last_seen(&self) -> Option<u32> {
        Some(self.last_seen.load(Relaxed)).filter(|at| *at > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_once_and_to_within_a_tenth() {
        for sessions in [0u64, 1, 7, 100, 3000, 100_000] {
            let distinct = Distinct::default();
            for session in (0..sessions).chain(0..sessions) {
                distinct.see(session.wrapping_mul(0x9e37_79b9_7f4a_7c15), 1);
            }
            let count = distinct.count();
            assert!(count.abs_diff(sessions) as f64 <= sessions as f64 * 0.1, "{count} for {sessions}");
        }
    }

    #[test]
    fn a_session_is_forgotten_after_two_turns() {
        let distinct = Distinct::default();
        distinct.see(1, 5);
        distinct.turn();
        distinct.see(2, 6);
        assert_eq!(distinct.count(), 2);
        distinct.turn();
        assert_eq!(distinct.count(), 1);
        distinct.turn();
        assert_eq!((distinct.count(), distinct.last_seen()), (0, Some(6)));
    }
}
