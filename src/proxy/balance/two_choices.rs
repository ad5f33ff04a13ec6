//! Power of two choices: of two random targets the one with the smaller load.
//!
//! Two are enough to keep the longest queue short, and unlike the minimum of all they do not send every worker to the
//! same target at once. Loads are compared, not shares: a tie goes to the first that was drawn, so that idle targets get
//! their shares. When both are silent (see [`by_outstanding`]) a few more are drawn: a target that hangs must not win
//! because another is busy. If those are silent too, the request hesitates: in a burst out of nothing, nobody knows yet
//! which target answers. A target whose last requests have failed is asked less, before anybody decides about it.

use std::time::{Duration, Instant};

use super::{Choice, Found};
use crate::pool::Tier;

/// Further draws when both targets look as if they hung.
const MORE: u64 = 8;

/// From here on a target looks as if it hung.
const SILENT: f64 = 1000.0;

/// What doubt adds to a target's load.
const DOUBT: f64 = 500.0;

/// How much a target has to do.
type Load = fn(&Choice<'_>, u32) -> f64;

pub(super) fn pick(choice: &Choice<'_>, tier: &Tier, random: u64, load: Load) -> Found {
    let rotation = &tier.rotation;
    // A target stands in the rotation as often as its share says. Multiply-shift instead of a remainder.
    let draw = |half: u64| rotation[(((half & 0xffff_ffff) * rotation.len() as u64) >> 32) as usize];
    // A doubtful target loses seven times in eight: one that has healed must have a chance to show it.
    let doubts = random >> 61 != 0;
    let load =
        |index: u32| load(choice, index) + if doubts && choice.is_doubtful(index) { DOUBT } else { 0.0 };
    let (first, mut second) = (draw(random), draw(random >> 32));
    if first == second {
        // Another place in the rotation is another target unless that one stands there again.
        let at = rotation.iter().position(|index| *index == first).unwrap_or_default();
        let others = (rotation.len() - 1).max(1);
        second = rotation[(at + 1 + (random >> 48) as usize % others) % rotation.len()];
    }
    let (first_load, second_load) = (load(first), load(second));
    let (mut better, mut worse, mut best_load) = match second_load < first_load {
        true => (second, first, second_load),
        false => (first, second, first_load),
    };
    if best_load >= SILENT {
        for more in 1..=MORE {
            let other = draw(random.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(more as u32 * 7) >> 16);
            let other_load = load(other);
            if other_load < best_load {
                (better, worse, best_load) = (other, better, other_load);
            }
        }
    }
    if let Some(index) = [better, worse].into_iter().find(|index| choice.begin_answering(*index)) {
        return Found::Target(index);
    }
    if best_load >= SILENT && choice.may_hesitate && tier.open.len() > 1 {
        return Found::Silent;
    }
    // The slow way: the least loaded of all that can begin.
    let mut candidates: Vec<u32> = tier.open.to_vec();
    candidates.sort_by(|a, b| load(*a).total_cmp(&load(*b)));
    if candidates.first().is_some_and(|least| load(*least) >= SILENT) {
        // All look as if they hung, and one of them does: a busy one has answered a moment ago.
        let now = Instant::now();
        let answered_ago = |index: &u32| choice.target(*index).state.conduct.answered_ago(now);
        candidates.sort_by_key(|index| answered_ago(index).unwrap_or(Duration::MAX));
    }
    candidates.into_iter().find(|index| choice.begin_well(*index)).into()
}

/// Requests in flight, and silence.
pub(super) fn by_outstanding(choice: &Choice<'_>, index: u32) -> f64 {
    choice.outstanding(index)
}

/// Requests in flight, the one to come included, times the time to the first byte lately, and silence. Shares are in the
/// draw only: a target of less power shows it by its times.
pub(super) fn by_latency(choice: &Choice<'_>, index: u32) -> f64 {
    let target = choice.target(index);
    let ms = f64::from(target.state.conduct.latency_us()) / 1000.0;
    let silent = choice.outstanding(index) >= SILENT;
    ms * f64::from(target.state.in_flight() + 1) + if silent { 1e6 } else { 0.0 }
}
