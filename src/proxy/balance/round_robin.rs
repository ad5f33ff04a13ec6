//! In turn, smoothly by share: the order was computed with the snapshot, so a pick is one step along it.

use super::Choice;
use crate::pool::Tier;

pub(super) fn pick(choice: &Choice<'_>, tier: &Tier, turn: usize) -> Option<u32> {
    let rotation = &tier.rotation;
    (0..rotation.len())
        .map(|step| rotation[turn.wrapping_add(step) % rotation.len()])
        .find(|index| choice.begin_well(*index))
}
