//! What holds for a million sessions on three thousand targets behind twenty nodes, by the very code that decides for requests.
//!
//! `cargo bench --bench simulate` prints the figures.

#[path = "../benches/simulate/fleet.rs"]
mod fleet;

use fleet::{Fleet, ZONES, follow, sessions};

const NODES: usize = 20;
const EACH: usize = 1000;
const SESSIONS: usize = 1_000_000;

#[test]
fn shares_are_even_a_lost_zone_moves_only_its_own_sessions_and_all_nodes_agree() {
    let calm = Fleet::new(EACH);
    assert_eq!(calm.len(), ZONES * EACH);
    let bonds = sessions(&calm, NODES, SESSIONS);
    let third = 1.0 / ZONES as f64;

    let outcome = follow(&calm, NODES, 1, &mut bonds.clone());
    assert_eq!((outcome.moved, outcome.disagreed), (0, 0));
    assert!(outcome.zones.iter().all(|part| (part / third - 1.0).abs() < 0.02), "{outcome:?}");

    let mut dead = calm.clone();
    dead.kill(|zone, _| zone == 1);
    let lost = (outcome.zones[1] * SESSIONS as f64).round() as usize;
    let mut moved = bonds.clone();
    let outcome = follow(&dead, NODES, 1, &mut moved);
    assert_eq!(
        (outcome.moved, outcome.disagreed),
        (lost, 0),
        "only the zone's own sessions move, to one place each"
    );
    assert!(
        outcome.zones[1] == 0.0
            && outcome.zones.iter().all(|part| *part == 0.0 || (part / 0.5 - 1.0).abs() < 0.02)
    );
    let again = follow(&calm, NODES, 2, &mut moved);
    assert_eq!(again.moved, 0, "they stay where they went when the zone is back");
}

#[test]
fn every_node_agrees_about_every_session_of_a_dead_target() {
    let calm = Fleet::new(100);
    let mut bonds = sessions(&calm, NODES, 100_000);
    let mut dead = calm.clone();
    dead.kill(|zone, place| zone == 0 && place < 10);
    let outcome = follow(&dead, NODES, NODES - 1, &mut bonds);
    assert!((3000..3700).contains(&outcome.moved), "{outcome:?}");
    assert_eq!(outcome.disagreed, 0);
    let third = 1.0 / ZONES as f64;
    let even = outcome.zones.iter().all(|part| (part / third - 1.0).abs() < 0.02);
    assert!(even, "a session of a dead target stays in its zone: {outcome:?}");
}

#[test]
fn what_is_done_on_purpose_moves_what_is_meant_and_nothing_else() {
    let calm = Fleet::new(100);
    let bonds = sessions(&calm, NODES, 60_000);
    let after = |change: fn(&mut Fleet)| {
        let mut fleet = calm.clone();
        change(&mut fleet);
        follow(&fleet, NODES, 2, &mut bonds.clone())
    };
    let there = (after(|_| {}).zones[1] * bonds.len() as f64).round() as usize;
    let shifted = after(|fleet| fleet.shift(1, 1.0));
    assert_eq!((shifted.moved, shifted.disagreed, shifted.zones[1]), (there, 0, 0.0));
    let part = after(|fleet| fleet.shift(1, 0.2));
    assert!(part.moved.abs_diff(there / 5) < there / 25, "a fifth of the zone's sessions: {part:?}");
    for nothing in
        [after(|fleet| fleet.drain(|zone, place| zone == 2 && place < 50)), after(|fleet| fleet.grow(10))]
    {
        assert_eq!((nothing.moved, nothing.needlessly), (0, 0), "{nothing:?}");
        assert!(nothing.peak < 1.5, "{nothing:?}");
    }
}
