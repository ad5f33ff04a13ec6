//! In turn, smoothly by weight: the order was computed with the snapshot, so a pick is one step along it.

use super::{Choice, Pick};

pub(super) fn pick(choice: &Choice<'_>, turn: usize) -> Pick {
    let rotation = &choice.snapshot.rotation;
    (0..rotation.len())
        .map(|step| rotation[turn.wrapping_add(step) % rotation.len()] as usize)
        .find(|index| choice.begin(*index))
        .map_or_else(|| choice.none_began(), |index| Pick::Target { index, rehomed: false })
}
