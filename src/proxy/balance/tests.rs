//! Which target gets the request.

use super::*;
use crate::config;
use crate::pool::{AdminState, Duty, HealthState, Member, Snapshot, TargetId, TargetState};
use proptest::prelude::*;
use std::sync::Arc;

fn member(zone: &str, host: u8, weight: u32, limit: u32) -> Member {
    let address = format!("127.0.0.{host}:9001").parse().unwrap();
    let id = TargetId::of("shop", zone, address);
    Member {
        state: Arc::new(TargetState::new(id, zone.into(), address, 1)),
        weight,
        max_connections: limit,
        health: HealthState::Healthy,
        admin: AdminState::Up,
        duty: Duty::Serving,
    }
}

fn snapshot(members: &[Member]) -> Snapshot {
    Snapshot::build(&pool(), members.to_vec())
}

fn pool() -> Arc<config::Pool> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npool = \"shop\"\n[[pool.shop.target]]\naddress = \"127.0.0.1:1\"\n";
    std::fs::write(&file, text).unwrap();
    config::Config::load(&file, &config::Overrides::default()).unwrap().pools[0].clone()
}

fn three_zones() -> Vec<Member> {
    ["az-a", "az-b", "az-c"]
        .iter()
        .zip(0u8..)
        .flat_map(|(z, i)| [member(z, 1 + 2 * i, 1, u32::MAX), member(z, 2 + 2 * i, 1, u32::MAX)])
        .collect()
}

fn choice<'a>(
    snapshot: &'a Snapshot,
    balance: Balance,
    bond: Option<&'a Bond>,
    tried: &'a [u32],
) -> Choice<'a> {
    Choice { snapshot, balance, bond, tried, ahead: 0 }
}

fn bond(target: TargetId, session: u64) -> Bond {
    Bond { target, session, born: 0, seen: 0 }
}

fn picked(pick: Pick) -> usize {
    match pick {
        Pick::Target { index, .. } => index,
        other => panic!("no target: {other:?}"),
    }
}

#[test]
fn round_robin_gives_each_target_exactly_its_weight_and_no_bursts() {
    let snapshot =
        snapshot(&[member("a", 1, 5, u32::MAX), member("a", 2, 1, u32::MAX), member("a", 3, 1, u32::MAX)]);
    let choice = choice(&snapshot, Balance::RoundRobin, None, &[]);
    let picks: Vec<_> = (0..7).map(|turn| picked(choice.pick(turn, 0))).collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn two_choices_keep_away_from_the_loaded_target() {
    let snapshot = snapshot(&[member("a", 1, 1, u32::MAX), member("a", 2, 1, u32::MAX)]);
    (0..50).for_each(|_| assert!(snapshot.targets[0].state.begin(u32::MAX, 0)));
    let choice = choice(&snapshot, Balance::LeastOutstanding, None, &[]);
    for turn in 0..20 {
        assert_eq!(picked(choice.pick(turn, (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))), 1);
    }
}

#[test]
fn a_session_stays_while_its_target_keeps_it_and_waits_when_that_is_full() {
    let mut members = three_zones();
    members[3].max_connections = 1;
    members[3].admin = AdminState::Drain;
    let snapshot = snapshot(&members);
    let bond = bond(members[3].state.id, 7);
    let own = snapshot.index_of(bond.target).unwrap();
    let choice = choice(&snapshot, Balance::RoundRobin, Some(&bond), &[]);
    assert_eq!(choice.pick(0, 0), Pick::Target { index: own, rehomed: false });
    assert_eq!(choice.pick(0, 0), Pick::OwnIsFull { index: own });
}

#[test]
fn a_session_waits_for_the_first_check_of_its_target() {
    let mut members = three_zones();
    members[0].health = HealthState::Initial;
    let snapshot = snapshot(&members);
    let bond = bond(members[0].state.id, 7);
    let own = snapshot.index_of(bond.target).unwrap();
    assert!(!snapshot.open.contains(&(own as u32)), "no new sessions");
    let choice = choice(&snapshot, Balance::RoundRobin, Some(&bond), &[]);
    assert_eq!(choice.pick(0, 0), Pick::Target { index: own, rehomed: false });
}

#[test]
fn one_failed_attempt_goes_elsewhere_without_moving_the_bond() {
    let members = three_zones();
    let snapshot = snapshot(&members);
    let bond = bond(members[0].state.id, 7);
    let own = snapshot.index_of(bond.target).unwrap() as u32;
    let tried = [own];
    let pick = choice(&snapshot, Balance::LeastOutstanding, Some(&bond), &tried).pick(0, 99);
    assert!(matches!(pick, Pick::Target { index, rehomed: false } if index != own as usize));
}

#[test]
fn full_targets_are_waited_for_and_tried_ones_are_not() {
    let snapshot = snapshot(&[member("a", 1, 1, 1), member("a", 2, 1, 1)]);
    for balance in [Balance::RoundRobin, Balance::LeastOutstanding] {
        snapshot.targets.iter().for_each(|target| assert!(target.state.begin(1, 0)));
        assert_eq!(choice(&snapshot, balance, None, &[]).pick(0, 1), Pick::AllFull);
        assert_eq!(choice(&snapshot, balance, None, &[0, 1]).pick(0, 1), Pick::NoneLeft);
        snapshot.targets[1].state.end();
        assert_eq!(picked(choice(&snapshot, balance, None, &[]).pick(0, 1)), 1);
        snapshot.targets.iter().for_each(|target| target.state.end());
    }
}

#[test]
fn who_waits_comes_first() {
    let snapshot = snapshot(&[member("a", 1, 1, 1)]);
    let newcomer = Choice { ahead: 1, ..choice(&snapshot, Balance::RoundRobin, None, &[]) };
    assert_eq!(newcomer.pick(0, 0), Pick::AllFull);
}

proptest! {
    #[test]
    fn a_lost_session_stays_in_its_zone_and_all_nodes_agree(session: u64, lost in 0usize..6, shuffle: u64) {
        let mut members = three_zones();
        members[lost].health = HealthState::Unhealthy;
        let bond = bond(members[lost].state.id, session);
        let one = snapshot(&members);
        members.rotate_left(shuffle as usize % 6);
        let other = snapshot(&members);
        let target = |snapshot: &Snapshot| {
            let index = picked(choice(snapshot, Balance::RoundRobin, Some(&bond), &[]).pick(shuffle as usize, shuffle));
            snapshot.targets[index].state.id
        };
        prop_assert_eq!(target(&one), target(&other));
        let (new, old) = (one.index_of(target(&one)).unwrap(), one.index_of(bond.target).unwrap());
        prop_assert_eq!(&one.targets[new].state.zone, &one.targets[old].state.zone);
    }

    #[test]
    fn no_pick_ever_takes_a_target_that_takes_nothing(
        states in prop::collection::vec((0u8..3, 0u8..3, 0u32..3), 1..8), session: u64, turn: usize, random: u64, bound: bool, policy: bool,
    ) {
        let members: Vec<_> = states.iter().zip(1u8..).map(|((health, admin, weight), host)| Member {
            health: [HealthState::Initial, HealthState::Healthy, HealthState::Unhealthy][*health as usize],
            admin: [AdminState::Up, AdminState::Drain, AdminState::Down][*admin as usize],
            ..member("a", host, *weight, u32::MAX)
        }).collect();
        let snapshot = snapshot(&members);
        let bond = bond(members[0].state.id, session);
        let balance = if policy { Balance::RoundRobin } else { Balance::LeastOutstanding };
        let choice = choice(&snapshot, balance, bound.then_some(&bond), &[]);
        match choice.pick(turn, random) {
            Pick::Target { index, rehomed } => {
                let target = &snapshot.targets[index];
                let own = bound && target.state.id == bond.target;
                prop_assert!(target.takes_new || (own && target.keeps_bound && !rehomed));
                prop_assert_eq!(target.state.in_flight(), 1);
            }
            Pick::NoneLeft => prop_assert!(snapshot.open.is_empty()),
            other => prop_assert!(false, "nothing is full: {other:?}"),
        }
    }
}
