//! Power of two choices: of two random targets the one with fewer requests in flight for its weight.
//!
//! Two are enough to keep the longest queue short, and unlike the minimum of all they do not send every worker to the
//! same target at once. When neither can take the request, the least loaded of all the others gets it.

use super::{Choice, Pick};

pub(super) fn pick(choice: &Choice<'_>, random: u64) -> Pick {
    let rotation = &choice.snapshot.rotation;
    if rotation.is_empty() {
        return Pick::NoneLeft;
    }
    // A target stands in the rotation as often as its weight says. Multiply-shift instead of a remainder.
    let draw = |half: u64| rotation[(((half & 0xffff_ffff) * rotation.len() as u64) >> 32) as usize];
    let (first, mut second) = (draw(random), draw(random >> 32));
    if first == second {
        // Another place in the rotation is another target unless that one stands there again.
        let at = rotation.iter().position(|index| *index == first).unwrap_or_default();
        let others = (rotation.len() - 1).max(1);
        second = rotation[(at + 1 + (random >> 48) as usize % others) % rotation.len()];
    }
    let better = if load(choice, second) < load(choice, first) { [second, first] } else { [first, second] };
    for index in better {
        if choice.begin(index as usize) {
            return Pick::Target { index: index as usize, rehomed: false };
        }
    }
    pick_least(choice)
}

/// The slow way: the least loaded of all that take new sessions and can begin.
fn pick_least(choice: &Choice<'_>) -> Pick {
    let mut candidates: Vec<u32> = choice.snapshot.open.to_vec();
    candidates.sort_by(|a, b| load(choice, *a).total_cmp(&load(choice, *b)));
    candidates
        .into_iter()
        .find(|index| choice.begin(*index as usize))
        .map_or_else(|| choice.none_began(), |index| Pick::Target { index: index as usize, rehomed: false })
}

/// Requests in flight for each unit of weight, the one to come included.
fn load(choice: &Choice<'_>, index: u32) -> f64 {
    let target = choice.target(index);
    f64::from(target.state.in_flight() + 1) / f64::from(target.weight.max(1))
}
