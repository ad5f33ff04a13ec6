//! Who is ejected, for what, and with what consequence for the sessions.

use super::*;

fn rules() -> Outlier {
    Outlier {
        enabled: true,
        consecutive: 5,
        window: Duration::from_secs(10),
        min_requests: 20,
        failures: 0.5,
        latency: Some(5.0),
        ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        max_ejected: 0.5,
    }
}

fn tally(requests: u64, failures: u64, mean_ms: u64) -> Tally {
    Tally { requests, failures, answers: requests, first_byte_us: requests * mean_ms * 1000 }
}

/// Six targets in three zones, all well.
fn pool() -> Vec<Evidence> {
    ["az-a", "az-a", "az-b", "az-b", "az-c", "az-c"].map(well).into()
}

fn well(zone: &str) -> Evidence {
    Evidence {
        zone: zone.into(),
        in_service: true,
        ejected: false,
        failures: 0,
        unreachable: 0,
        refused: false,
        repeated: false,
        limit: 5,
        silences: 0,
        unanswered: 1,
        silent_for: Duration::ZERO,
        recent: tally(100, 1, 10),
    }
}

/// Index and consequence of each sentence.
fn judged(targets: &[Evidence]) -> Vec<(usize, Stay)> {
    judge(&rules(), targets).into_iter().map(|sentence| (sentence.index, sentence.stay)).collect()
}

#[test]
fn nobody_is_ejected_from_a_pool_that_is_well() {
    assert_eq!(judged(&pool()), []);
}

#[test]
fn errors_in_a_row_eject_and_move_the_sessions() {
    let mut targets = pool();
    targets[2].failures = 4;
    assert_eq!(judged(&targets), []);
    targets[2].failures = 5;
    assert_eq!(judged(&targets), [(2, Stay::Moves)]);
}

#[test]
fn a_neighbour_half_way_there_is_ejected_with_it() {
    let mut targets = pool();
    targets[2].failures = 5;
    targets[3].failures = 3;
    targets[4].failures = 2;
    assert_eq!(judged(&targets), [(2, Stay::Moves), (3, Stay::Moves)]);
}

#[test]
fn a_target_that_refuses_connections_keeps_its_sessions_until_a_check_passes() {
    let mut targets = pool();
    (targets[0].failures, targets[0].unreachable, targets[0].refused) = (5, 5, true);
    let sentence = judge(&rules(), &targets).remove(0);
    assert_eq!((sentence.stay, sentence.until_checked), (Stay::Here, true));
    let now = Instant::now();
    let mut record = Record::default();
    record.eject(&rules(), now, sentence);
    assert!(record.pass_check(false) && record.ejected.is_none());
}

#[test]
fn a_target_whose_connections_break_again_and_again_loses_its_sessions() {
    let mut targets = pool();
    (targets[0].failures, targets[0].unreachable) = (5, 5);
    assert_eq!(judged(&targets), [(0, Stay::Elsewhere)]);
    targets[0].repeated = true;
    assert_eq!(judged(&targets), [(0, Stay::Moves)]);
}

#[test]
fn when_most_are_unreachable_nobody_stands_out() {
    let mut targets = pool();
    for target in &mut targets[..4] {
        (target.failures, target.unreachable, target.refused) = (5, 5, true);
    }
    assert_eq!(judged(&targets), []);
}

#[test]
fn one_request_in_vain_spares_the_target_and_two_convict_it() {
    let mut targets = pool();
    targets[1].silences = 1;
    assert_eq!(judged(&targets), [(1, Stay::Elsewhere)]);
    targets[1].silences = 2;
    assert_eq!(judged(&targets), [(1, Stay::Moves)]);
}

#[test]
fn a_target_that_is_silent_while_others_answer_gets_no_new_sessions() {
    let mut targets = pool();
    (targets[1].unanswered, targets[1].silent_for) = (3, Duration::from_millis(2900));
    assert_eq!(judged(&targets), []);
    targets[1].silent_for = Duration::from_millis(3100);
    assert_eq!(judged(&targets), [(1, Stay::Here)]);
    targets.iter_mut().for_each(|target| target.recent = tally(100, 0, 300_000));
    assert_eq!(judged(&targets), [], "an application that takes minutes is not silent");
}

#[test]
fn a_share_of_failures_ejects_only_who_stands_out() {
    let mut targets = pool();
    targets[5].recent = tally(100, 60, 10);
    assert_eq!(judged(&targets), [(5, Stay::Moves)]);
    targets.iter_mut().for_each(|target| target.recent = tally(100, 60, 10));
    assert_eq!(judged(&targets), [], "all fail alike: that is not this target's fault");
    targets = pool();
    targets[5].recent = tally(19, 19, 10);
    assert_eq!(judged(&targets), [], "too few requests to tell");
}

#[test]
fn a_slow_target_keeps_its_sessions_and_gets_no_new_ones() {
    let mut targets = pool();
    targets[5].recent = tally(100, 0, 400);
    assert_eq!(judged(&targets), [(5, Stay::Here)]);
    targets[5].recent = tally(100, 0, 90);
    assert_eq!(judged(&targets), [], "nine times as long, and hardly noticed");
}

#[test]
fn at_most_half_are_out_and_never_the_last() {
    let mut targets = pool();
    targets.iter_mut().for_each(|target| target.failures = 5);
    assert_eq!(judged(&targets).len(), 3);
    targets[0].ejected = true;
    assert_eq!(judged(&targets).len(), 2);
    let mut one = vec![well("az-a")];
    one[0].failures = 9;
    assert_eq!(judged(&one), []);
    let mut two = vec![well("az-a"), well("az-b")];
    two[0].failures = 5;
    assert_eq!(judged(&two), [(0, Stay::Moves)]);
    two[1].in_service = false;
    assert_eq!(judged(&two), [], "the other one is not in service");
}

#[test]
fn an_ejection_ends_when_another_process_is_there() {
    let mut record = Record::default();
    let sentence = Sentence { index: 0, stay: Stay::Moves, until_checked: false, reason: String::new() };
    record.eject(&rules(), Instant::now(), sentence);
    assert!(
        !record.pass_check(false) && record.ejected.is_some(),
        "a passed check says nothing about errors"
    );
    assert!(record.pass_check(true) && record.ejected.is_none());
}

#[test]
fn ejections_grow_longer_and_a_trial_follows() {
    let (rules, start) = (rules(), Instant::now());
    let sentence = || Sentence { index: 0, stay: Stay::Moves, until_checked: false, reason: String::new() };
    let mut record = Record::default();
    assert_eq!(record.limit(&rules), 5);
    assert_eq!(record.eject(&rules, start, sentence()).until, start + Duration::from_secs(30));
    assert_eq!(record.limit(&rules), u32::MAX);
    assert!(!record.is_repeated(&rules, 0), "once, or twice at once, may be a restart");
    assert!(!record.pass_time(start + Duration::from_secs(29)));
    let back = start + Duration::from_secs(30);
    assert!(record.pass_time(back));
    assert_eq!((record.limit(&rules), record.trial_until), (2, Some(back + TRIAL)));
    assert_eq!(record.eject(&rules, back, sentence()).until, back + Duration::from_secs(60));
    let back = back + Duration::from_secs(60);
    assert!(record.pass_time(back) && record.pass_time(back + TRIAL));
    assert!(record.is_repeated(&rules, 4));
    assert!(!record.is_repeated(&rules, 5), "it was of use since");
    record.pass_time(back + Duration::from_secs(1000));
    assert!(!record.is_repeated(&rules, 0));
}
