//! How many instances each zone should have. Pure.
//!
//! The group's number is spread as evenly as it goes. A zone that cannot be used keeps its share, so that it is tried again
//! and again, and the other zones carry that share meanwhile.

/// The number for each zone when the group wants `desired` instances and no zone may have more than `most`.
/// `usable` says of each zone whether instances come into service there.
pub(crate) fn place(desired: usize, most: usize, usable: &[bool]) -> Vec<usize> {
    let ordinary = spread(desired, usable.len());
    let able = usable.iter().filter(|usable| **usable).count();
    let mut carried = spread(desired, able).into_iter();
    let places = ordinary.into_iter().zip(usable);
    places
        .map(|(share, usable)| match usable {
            true => share.max(carried.next().unwrap_or_default()).min(most),
            false => share.min(most),
        })
        .collect()
}

/// Even shares; the first ones are larger by one when there is a rest.
fn spread(total: usize, zones: usize) -> Vec<usize> {
    (0..zones).map(|zone| total / zones + usize::from(zone < total % zones)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_get_even_shares() {
        assert_eq!(place(6, 9, &[true; 3]), [2, 2, 2]);
        assert_eq!(place(8, 9, &[true; 3]), [3, 3, 2]);
        assert_eq!(place(1, 9, &[true; 3]), [1, 0, 0]);
        assert_eq!(place(0, 9, &[true; 3]), [0, 0, 0]);
    }

    #[test]
    fn the_others_carry_what_a_zone_cannot_and_it_keeps_its_share() {
        assert_eq!(place(6, 9, &[true, false, true]), [3, 2, 3]);
        assert_eq!(place(7, 9, &[false, true, true]), [3, 4, 3]);
        assert_eq!(place(6, 9, &[false, false, true]), [2, 2, 6]);
        assert_eq!(place(6, 4, &[false, false, true]), [2, 2, 4], "but no zone gets more than it may have");
        assert_eq!(place(6, 9, &[false; 3]), [2, 2, 2]);
    }
}
