//! `cargo bench --bench simulate [-- NODES TARGETS_PER_ZONE SESSIONS]`: what becomes of sessions when targets and zones fail.
//!
//! The decision code itself, with three zones, many targets, sessions and nodes, and without sockets or time. Prints for each
//! event how many sessions moved, how many of them needlessly, whether nodes disagreed about one, the fullest target
//! against the mean, and the part of each zone. `tests/simulation.rs` asserts what must hold.

mod fleet;

use fleet::{Fleet, ZONES, follow, sessions};

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [nodes, each, count] = match given[..] {
        [nodes, each, count] => [nodes, each, count],
        _ => [20, 1000, 1_000_000],
    };
    let calm = Fleet::new(each);
    println!("{nodes} nodes, {} targets in {ZONES} zones, {count} sessions", calm.len());
    println!(
        "{:<44} {:>9} {:>7} {:>11} {:>10} {:>6}   zones",
        "event", "moved", "share", "needlessly", "disagreed", "peak"
    );
    let bonds = sessions(&calm, nodes, count);
    type Event = (&'static str, fn(&mut Fleet, usize));
    let events: [Event; 8] = [
        ("nothing", |_, _| {}),
        ("one target dies", |fleet, _| fleet.kill(|zone, place| zone == 0 && place == 0)),
        ("a tenth of each zone dies", |fleet, each| fleet.kill(|_, place| place < each / 10)),
        ("a zone dies", |fleet, _| fleet.kill(|zone, _| zone == 1)),
        ("a zone is shifted", |fleet, _| fleet.shift(1, 1.0)),
        ("a zone is shifted, a fifth evacuated so far", |fleet, _| fleet.shift(1, 0.2)),
        ("half of a zone drains", |fleet, each| fleet.drain(|zone, place| zone == 2 && place < each / 2)),
        ("a tenth more targets come", |fleet, each| fleet.grow(each / 10)),
    ];
    for (name, happen) in events {
        let mut after = calm.clone();
        happen(&mut after, each);
        let outcome = follow(&after, nodes, nodes.min(3) - 1, &mut bonds.clone());
        let share = outcome.moved as f64 / count as f64 * 100.0;
        let zones = outcome.zones.map(|part| format!("{:5.2} %", part * 100.0)).join(" ");
        let fleet::Outcome { moved, needlessly, disagreed, peak, .. } = outcome;
        println!(
            "{name:<44} {moved:>9} {share:>5.2} % {needlessly:>11} {disagreed:>10} {peak:>6.2}   {zones}"
        );
    }
}
