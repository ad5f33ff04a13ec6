//! Which target gets the request.

use super::*;
use crate::config::{self, Balance, HashOn, ZoneName};
use crate::pool::{AdminState, HealthState, Member, Snapshot, Stay, TargetId, TargetState, ZoneOut};
use proptest::prelude::*;
use std::sync::Arc;

fn member(zone: &str, host: u8, weight: u32, limit: u32) -> Member {
    let address = format!("127.0.0.{host}:9001").parse().unwrap();
    let id = TargetId::of("shop", zone, address);
    Member {
        weight,
        max_connections: limit,
        ..Member::in_service(Arc::new(TargetState::new(id, zone.into(), address, 1)))
    }
}

fn snapshot(members: &[Member]) -> Snapshot {
    Snapshot::build(&pool(""), None, members.to_vec())
}

/// A pool with these further lines below `[pool.shop]`.
fn pool(lines: &str) -> Arc<config::Pool> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    let text = format!(
        "zone = \"az-a\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npool = \"shop\"\n[pool.shop]\n{lines}\n\
         [[pool.shop.target]]\naddress = \"127.0.0.1:1\"\n"
    );
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
    balance: &'a Balance,
    bond: Option<&'a Bond>,
    tried: &'a [u32],
) -> Choice<'a> {
    Choice {
        snapshot,
        balance,
        key: None,
        bond,
        may_return: false,
        tried,
        may_hesitate: false,
        ahead: 0,
        counts: true,
    }
}

fn bond(target: TargetId, session: u64) -> Bond {
    Bond { target, home: target, session, born: 0, seen: 0 }
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
    let choice = choice(&snapshot, &Balance::RoundRobin, None, &[]);
    let picks: Vec<_> = (0..14).map(|turn| picked(choice.pick(turn, 0))).collect();
    assert_eq!(picks[..7], picks[7..]);
    assert_eq!([0, 1, 2].map(|index| picks[..7].iter().filter(|pick| **pick == index).count()), [5, 1, 1]);
    assert!(picks.windows(5).all(|five| five.iter().any(|pick| *pick != 0)), "{picks:?}");
}

#[test]
fn two_choices_keep_away_from_the_loaded_target() {
    let snapshot = snapshot(&[member("a", 1, 1, u32::MAX), member("a", 2, 1, u32::MAX)]);
    (0..50).for_each(|_| assert!(snapshot.targets[0].state.begin(u32::MAX, 0)));
    let choice = choice(&snapshot, &Balance::LeastOutstanding, None, &[]);
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
    let choice = choice(&snapshot, &Balance::RoundRobin, Some(&bond), &[]);
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
    let choice = choice(&snapshot, &Balance::RoundRobin, Some(&bond), &[]);
    assert_eq!(choice.pick(0, 0), Pick::Target { index: own, rehomed: false });
}

#[test]
fn one_failed_attempt_goes_elsewhere_without_moving_the_bond() {
    let members = three_zones();
    let snapshot = snapshot(&members);
    let bond = bond(members[0].state.id, 7);
    let own = snapshot.index_of(bond.target).unwrap() as u32;
    let tried = [own];
    let pick = choice(&snapshot, &Balance::LeastOutstanding, Some(&bond), &tried).pick(0, 99);
    assert!(matches!(pick, Pick::Target { index, rehomed: false } if index != own as usize));
}

#[test]
fn full_targets_are_waited_for_and_tried_ones_are_not() {
    let snapshot = snapshot(&[member("a", 1, 1, 1), member("a", 2, 1, 1)]);
    for balance in [&Balance::RoundRobin, &Balance::LeastOutstanding] {
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
    let newcomer = Choice { ahead: 1, ..choice(&snapshot, &Balance::RoundRobin, None, &[]) };
    assert_eq!(newcomer.pick(0, 0), Pick::AllFull);
}

/// Parts of 60 000 picks without a session that each zone gets from a node in az-a.
fn shares(members: Vec<Member>, lines: &str) -> [f64; 3] {
    let zone = ZoneName::from("az-a");
    let config = pool(lines);
    let snapshot = Snapshot::build(&config, Some(&zone), members);
    let mut counts = [0u32; 3];
    for turn in 0..60_000 {
        let random = (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555;
        let index =
            picked(choice(&snapshot, &config.balance, None, &[]).pick(turn, random.wrapping_mul(random | 1)));
        let target = &snapshot.targets[index];
        counts[usize::from(target.state.zone.as_bytes()[3] - b'a')] += 1;
        target.state.answered();
        target.state.end();
    }
    counts.map(|count| f64::from(count) / 60_000.0)
}

fn assert_shares(shares: [f64; 3], expected: [f64; 3]) {
    let close = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 0.02);
    assert!(close, "{shares:?}, expected {expected:?}");
}

#[test]
fn zones_share_the_load_as_their_mode_says() {
    let third = 1.0 / 3.0;
    for balance in ["round_robin", "least_outstanding"] {
        let lines = |zones: &str| format!("balance = {balance:?}\n[pool.shop.zones]\n{zones}");
        assert_shares(shares(three_zones(), &lines("")), [third; 3]);
        assert_shares(
            shares(three_zones(), &lines("weights = { az-a = 2, az-c = 0 }")),
            [2.0 * third, third, 0.0],
        );
        assert_shares(shares(three_zones(), &lines("mode = \"local\"")), [1.0, 0.0, 0.0]);
        assert_shares(shares(three_zones(), &lines("mode = \"spill\"")), [1.0, 0.0, 0.0]);
        let mut half = three_zones();
        half[0].health = HealthState::Unhealthy;
        // Half of the zone is left, trusted with 1.4 times its part.
        assert_shares(shares(half.clone(), &lines("mode = \"spill\"")), [0.7, 0.15, 0.15]);
        let without = lines("mode = \"spill\"\noverprovisioning = 1.0");
        assert_shares(shares(half.clone(), &without), [0.5, 0.25, 0.25]);
        half[1].health = HealthState::Unhealthy;
        for mode in ["local", "spill"] {
            assert_shares(shares(half.clone(), &lines(&format!("mode = {mode:?}"))), [0.0, 0.5, 0.5]);
        }
    }
}

#[test]
fn a_zone_that_lacks_healthy_targets_takes_no_new_sessions_unless_all_do() {
    let mut members = three_zones();
    members[0].health = HealthState::Unhealthy;
    for needed in ["\"60%\"", "2"] {
        let lines = format!("[pool.shop.zones]\nmin_healthy = {needed}");
        assert_shares(shares(members.clone(), &lines), [0.0, 0.5, 0.5]);
    }
    members.iter_mut().step_by(2).for_each(|member| member.health = HealthState::Unhealthy);
    let third = 1.0 / 3.0;
    assert_shares(shares(members, "[pool.shop.zones]\nmin_healthy = 2\npanic = \"0%\""), [third; 3]);
}

#[test]
fn a_target_that_starts_slowly_gets_its_part() {
    let mut members = three_zones();
    members[..2].iter_mut().for_each(|member| member.ramp = 0.1);
    for balance in ["round_robin", "least_outstanding"] {
        assert_shares(shares(members.clone(), &format!("balance = {balance:?}")), [0.048, 0.476, 0.476]);
    }
}

#[test]
fn a_suspended_target_is_passed_over_and_its_sessions_stay_bound() {
    let members = three_zones();
    members[0].state.conduct.pardon(1);
    members[0].state.conduct.answer_badly(std::time::Instant::now());
    let snapshot = snapshot(&members);
    let bond = bond(members[0].state.id, 7);
    let own = snapshot.index_of(bond.target).unwrap();
    for balance in [&Balance::RoundRobin, &Balance::LeastOutstanding, &Balance::PeakEwma] {
        for turn in 0..60 {
            let random = (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_ne!(picked(choice(&snapshot, balance, None, &[]).pick(turn, random)), own);
            let pick = choice(&snapshot, balance, Some(&bond), &[]).pick(turn, random);
            assert!(matches!(pick, Pick::Target { index, rehomed: false } if index != own));
        }
        let others: Vec<u32> = (0..6).filter(|index| *index != own as u32).collect();
        assert_eq!(picked(choice(&snapshot, balance, None, &others).pick(0, 3)), own, "better than none");
    }
}

#[test]
fn a_hung_target_gets_few_requests_while_the_others_answer() {
    let members = three_zones();
    let snapshot = snapshot(&members);
    let mut waiting = 0;
    for turn in 0..20_000 {
        let random = (turn as u64).wrapping_mul(0xd134_2543_de82_ef95);
        let index = picked(choice(&snapshot, &Balance::LeastOutstanding, None, &[]).pick(turn, random));
        match index {
            0 => waiting += 1,
            answers => {
                snapshot.targets[answers].state.answered();
                snapshot.targets[answers].state.end();
            }
        }
    }
    assert!(waiting <= 3, "{waiting} requests wait for the hung target");
}

#[test]
fn when_all_look_as_if_they_hung_the_one_that_answered_last_is_asked() {
    let members = three_zones();
    let snapshot = snapshot(&members);
    let now = std::time::Instant::now();
    for (at, target) in snapshot.targets.iter().enumerate() {
        // The first one has never answered, and fewer wait for it than for the busy ones.
        if at > 0 {
            target.state.conduct.succeed(now);
        }
        for _ in 0..if at > 0 { 9 } else { 3 } {
            target.state.begin(u32::MAX, 0);
        }
    }
    let choice = choice(&snapshot, &Balance::LeastOutstanding, None, &[]);
    for random in 0..100u64 {
        assert_ne!(picked(choice.pick(0, random.wrapping_mul(0x9e37_79b9_7f4a_7c15))), 0);
    }
}

#[test]
fn while_nobody_has_ever_answered_the_least_loaded_is_asked() {
    let members = three_zones();
    let snapshot = snapshot(&members);
    for (at, target) in snapshot.targets.iter().enumerate() {
        (0..if at == 2 { 4 } else { 9 }).for_each(|_| assert!(target.state.begin(u32::MAX, 0)));
    }
    let choice = choice(&snapshot, &Balance::LeastOutstanding, None, &[]);
    for random in 0..5u64 {
        assert_eq!(picked(choice.pick(0, random.wrapping_mul(0x9e37_79b9_7f4a_7c15))), 2);
    }
}

#[test]
fn in_a_burst_a_request_hesitates_before_a_fourth_one_goes_unanswered() {
    let members = three_zones();
    let snapshot = snapshot(&members);
    let choice = Choice { may_hesitate: true, ..choice(&snapshot, &Balance::LeastOutstanding, None, &[]) };
    let picks: Vec<_> =
        (0..200u64).map(|turn| choice.pick(0, turn.wrapping_mul(0xd134_2543_de82_ef95))).collect();
    let sent = picks.iter().filter(|pick| **pick != Pick::AllSilent).count();
    assert!((15..=18).contains(&sent), "{sent} requests were sent before anybody answered");
    snapshot.targets[4].state.answered();
    let after: Vec<_> =
        (0..20u64).map(|turn| choice.pick(0, turn.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    assert!(after.contains(&Pick::Target { index: 4, rehomed: false }));
}

#[test]
fn an_ejected_target_keeps_serves_or_loses_its_sessions() {
    let mut members = three_zones();
    let bond = bond(members[0].state.id, 7);
    let pick = |members: &[Member]| {
        let snapshot = snapshot(members);
        let own = snapshot.index_of(bond.target).unwrap();
        assert!(!snapshot.open.contains(&(own as u32)));
        match choice(&snapshot, &Balance::RoundRobin, Some(&bond), &[]).pick(0, 9) {
            Pick::Target { index, rehomed } => (index == own, rehomed),
            other => panic!("{other:?}"),
        }
    };
    members[0].ejected = Some(Stay::Here);
    assert_eq!(pick(&members), (true, false));
    members[0].ejected = Some(Stay::Elsewhere);
    assert_eq!(pick(&members), (false, false));
    members[0].ejected = Some(Stay::Moves);
    assert_eq!(pick(&members), (false, true));
}

#[test]
fn sessions_of_a_shifted_zone_move_in_the_share_that_is_due_and_keep_their_place_in_it() {
    let members = |moved| {
        let mut members = three_zones();
        let out = Some(ZoneOut { moved, trickle: 0.0 });
        members[..2].iter_mut().for_each(|member| member.zone_out = out);
        members
    };
    let target = members(0.0)[0].state.id;
    let moves = |moved, session| {
        let (snapshot, bond) = (snapshot(&members(moved)), bond(target, session));
        let pick = choice(&snapshot, &Balance::RoundRobin, Some(&bond), &[]).pick(0, session);
        matches!(pick, Pick::Target { rehomed: true, .. })
    };
    let sessions = |moved| (0..2000u64).filter(|session| moves(moved, session * 7919)).collect::<Vec<_>>();
    let (few, more) = (sessions(0.1), sessions(0.3));
    assert!(
        (150..250).contains(&few.len()) && (500..700).contains(&more.len()),
        "{} {}",
        few.len(),
        more.len()
    );
    assert!(few.iter().all(|session| more.contains(session)));
    assert_eq!((sessions(0.0).len(), sessions(1.0).len()), (0, 2000));
}

#[test]
fn a_gray_zone_gets_a_trickle_of_new_requests_and_no_moved_session() {
    let mut members = three_zones();
    let out = Some(ZoneOut { moved: 1.0, trickle: 0.05 });
    members[..2].iter_mut().for_each(|member| member.zone_out = out);
    assert_shares(shares(members.clone(), ""), [0.024, 0.488, 0.488]);
    members[2].health = HealthState::Unhealthy;
    let snapshot = snapshot(&members);
    for session in 0..200 {
        let bond = bond(members[2].state.id, session);
        let index = picked(choice(&snapshot, &Balance::RoundRobin, Some(&bond), &[]).pick(0, session));
        assert_ne!(&*snapshot.targets[index].state.zone, "az-a");
    }
}

#[test]
fn a_session_returns_to_its_first_target_when_it_may() {
    let members = three_zones();
    let moved = Bond { home: members[0].state.id, ..bond(members[3].state.id, 7) };
    let all = snapshot(&members);
    let pick = |snapshot: &Snapshot, may_return| {
        let choice = Choice { may_return, ..choice(snapshot, &Balance::RoundRobin, Some(&moved), &[]) };
        choice.pick(0, 0)
    };
    let index_of = |id| all.index_of(id).unwrap();
    assert_eq!(pick(&all, false), Pick::Target { index: index_of(moved.target), rehomed: false });
    assert_eq!(pick(&all, true), Pick::Target { index: index_of(moved.home), rehomed: true });
    let mut draining = members.clone();
    draining[0].admin = AdminState::Drain;
    assert_eq!(
        pick(&snapshot(&draining), true),
        Pick::Target { index: index_of(moved.target), rehomed: false }
    );
}

#[test]
fn equal_keys_go_to_equal_targets_and_a_lost_target_moves_only_its_own() {
    let mut members = three_zones();
    let balance = Balance::Hash(HashOn::Path);
    let all = snapshot(&members);
    members[4].health = HealthState::Unhealthy;
    let less = snapshot(&members);
    let lost = members[4].state.id;
    let mut counts = [0; 6];
    for key in 0..6000u64 {
        let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let target = |snapshot: &Snapshot, turn| {
            let choice = Choice { key: Some(key), ..choice(snapshot, &balance, None, &[]) };
            let index = picked(choice.pick(turn, turn as u64));
            snapshot.targets[index].state.id
        };
        let (one, other) = (target(&all, 1), target(&all, 2));
        assert_eq!(one, other);
        assert!(target(&less, 3) == one || one == lost);
        counts[all.index_of(one).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
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
            let index = picked(choice(snapshot, &Balance::RoundRobin, Some(&bond), &[]).pick(shuffle as usize, shuffle));
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
        let choice = choice(&snapshot, &balance, bound.then_some(&bond), &[]);
        match choice.pick(turn, random) {
            Pick::Target { index, rehomed } => {
                let target = &snapshot.targets[index];
                let own = bound && target.state.id == bond.target;
                prop_assert!(target.takes_new || (own && target.keeps.any() && !rehomed));
                prop_assert_eq!(target.state.in_flight(), 1);
            }
            Pick::NoneLeft => prop_assert!(snapshot.open.is_empty()),
            other => prop_assert!(false, "nothing is full: {other:?}"),
        }
    }
}
