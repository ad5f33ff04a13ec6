//! When a certificate is renewed, and when another try is made. Pure: times and randomness are passed in.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

/// Longest wait between two tries.
const BACK_OFF_MAX: Duration = Duration::from_secs(6 * 3600);

/// When to renew a certificate of this validity: when a third of its life is left, or within the window that the authority
/// `suggests`. `random` (0.0 to 1.0) chooses the moment in the window, so that not everybody comes at its beginning.
pub(super) fn renewal(
    validity: &RangeInclusive<SystemTime>,
    suggests: Option<&RangeInclusive<SystemTime>>,
    random: f64,
) -> SystemTime {
    let third =
        |span: &RangeInclusive<SystemTime>| span.end().duration_since(*span.start()).unwrap_or_default() / 3;
    let usual = validity.end().checked_sub(third(validity)).unwrap_or(*validity.start());
    match suggests {
        // A window behind the end of the certificate would leave clients without one.
        Some(window) if window.start() <= validity.end() => {
            let span = window.end().duration_since(*window.start()).unwrap_or_default();
            (*window.start() + span.mul_f64(random.clamp(0.0, 1.0))).min(*validity.end())
        }
        _ => usual,
    }
}

/// The wait after so many failures in a row, at least one: doubled each time, and spread by a fifth either way.
pub(super) fn back_off(first: Duration, failures: u32, random: f64) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled.min(BACK_OFF_MAX.max(first)).mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400)
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        assert_eq!(renewal(&(day(100)..=day(190)), None, 0.5), day(160));
    }

    #[test]
    fn the_authority_may_suggest_a_window() {
        let window = day(120)..=day(130);
        assert_eq!(renewal(&(day(100)..=day(190)), Some(&window), 0.0), day(120));
        assert_eq!(renewal(&(day(100)..=day(190)), Some(&window), 0.5), day(125));
        // It is going to be revoked.
        assert_eq!(renewal(&(day(100)..=day(190)), Some(&(day(1)..=day(2))), 1.0), day(2));
        assert_eq!(renewal(&(day(100)..=day(190)), Some(&(day(180)..=day(300))), 1.0), day(190));
        assert_eq!(renewal(&(day(100)..=day(190)), Some(&(day(191)..=day(300))), 0.0), day(160), "too late");
    }

    #[test]
    fn failures_in_a_row_are_tried_again_less_and_less_often() {
        let minute = Duration::from_secs(60);
        let waits = [1, 2, 3, 9, 100].map(|failures| back_off(minute, failures, 0.5).as_secs() / 60);
        assert_eq!(waits, [1, 2, 4, 256, 360]);
        assert!(
            back_off(minute, 1, 0.0) == minute.mul_f64(0.8)
                && back_off(minute, 1, 1.0) == minute.mul_f64(1.2)
        );
    }
}
