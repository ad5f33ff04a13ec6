//! Lives of a group, told second by second: processes start in one second, and the balancers see what a test says.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A group whose processes are imagined.
struct World {
    group: Group,
    now: Instant,
    start: Instant,
    /// Places whose instances fail their checks.
    ill: Vec<Slot>,
    /// A zone where nothing becomes healthy.
    cut: Option<usize>,
    /// Nodes that answer.
    asked: usize,
    /// Instances that still have sessions.
    busy: Vec<Slot>,
    log: Vec<(u64, Action)>,
    fewest_good: usize,
}

fn slot(zone: usize, number: u8) -> Slot {
    Slot { zone, number }
}

impl World {
    /// Three zones, two instances in each, all in service for a while.
    fn new() -> Self {
        let spec = Spec { min: 1, max: 4, desired: 6, patience: SECOND * 30, drain: SECOND * 60 };
        let start = Instant::now();
        let mut world = Self {
            group: Group::new(spec, 3),
            now: start,
            start,
            ill: Vec::new(),
            cut: None,
            asked: 3,
            busy: Vec::new(),
            log: Vec::new(),
            fewest_good: usize::MAX,
        };
        world.pass(10);
        assert_eq!(world.serving(), [slot(0, 1), slot(0, 2), slot(1, 1), slot(1, 2), slot(2, 1), slot(2, 2)]);
        assert!(world.group.is_steady());
        world.log.clear();
        world.start = world.now;
        world.fewest_good = usize::MAX;
        world
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += SECOND;
            let starting = self.group.instances.iter().filter(|(_, one)| one.phase == Phase::Starting);
            for slot in starting.map(|(slot, _)| *slot).collect::<Vec<_>>() {
                self.group.ready(slot, 1, self.now);
            }
            let (ill, cut, busy, asked) = (&self.ill, self.cut, &self.busy, self.asked);
            self.group.observe(self.now, |slot| {
                let bad = ill.contains(&slot) || cut == Some(slot.zone);
                Seen {
                    asked,
                    healthy: if bad { 0 } else { asked },
                    unhealthy: if bad { asked } else { 0 },
                    needed: usize::from(busy.contains(&slot)),
                }
            });
            for action in self.group.step(self.now) {
                if let Action::Stop(slot) | Action::Kill(slot, _) = action {
                    self.ill.retain(|ill| *ill != slot);
                    self.end(slot);
                }
                self.log.push(((self.now - self.start).as_secs(), action));
            }
            let good = self.group.instances.values().filter(|instance| instance.serves_well()).count();
            self.fewest_good = self.fewest_good.min(good);
        }
    }

    fn end(&mut self, slot: Slot) {
        self.group.ended(slot, self.now, |times| SECOND * times);
    }

    fn serving(&self) -> Vec<Slot> {
        let serving = self.group.instances.iter().filter(|(_, one)| one.phase == Phase::Serving);
        serving.map(|(slot, _)| *slot).collect()
    }
}

#[test]
fn a_dead_instance_is_started_again_in_its_place_at_once() {
    let mut world = World::new();
    world.end(slot(1, 2));
    assert_eq!(world.group.step(world.now), [Action::Start(slot(1, 2))]);
    world.pass(3);
    assert!(world.group.is_steady());
}

#[test]
fn one_that_dies_at_once_again_and_again_waits_and_the_other_zones_carry_its_share() {
    let mut world = World::new();
    for _ in 0..3 {
        world.end(slot(1, 2));
        let waiting = world.group.instances[&slot(1, 2)].phase;
        assert!(matches!(waiting, Phase::Waiting(_)));
        world.group.instances.get_mut(&slot(1, 2)).unwrap().enter(Phase::Starting, world.now);
    }
    world.end(slot(1, 2));
    let actions = world.group.step(world.now);
    assert!(actions.contains(&Action::Start(slot(0, 3))), "{actions:?}");
    assert!(!actions.contains(&Action::Start(slot(1, 2))), "{actions:?}");
    world.pass(80);
    assert!(world.group.is_steady(), "back to two in each zone when it comes up: {:?}", world.group);
}

#[test]
fn a_hung_instance_is_killed_when_patience_ends_and_replaced() {
    let mut world = World::new();
    world.ill.push(slot(2, 1));
    world.pass(30);
    assert_eq!(world.log, []);
    world.pass(4);
    assert_eq!(
        world.log,
        [(31, Action::Kill(slot(2, 1), "it fails its checks")), (32, Action::Start(slot(2, 1)))]
    );
    assert!(world.group.is_steady());
}

#[test]
fn when_most_look_unhealthy_nobody_is_killed() {
    let mut world = World::new();
    world.ill = world.serving()[..4].to_vec();
    world.pass(100);
    assert_eq!(world.log, []);
}

#[test]
fn without_a_balancer_to_ask_instances_settle_and_are_stopped_by_time() {
    let mut world = World::new();
    world.asked = 0;
    world.group.set(1, 4, 5).unwrap();
    world.pass(1);
    assert_eq!(world.log, [(1, Action::Drain(slot(2, 2), "it is too many"))]);
    world.pass(60);
    assert_eq!(world.log[1..], [(61, Action::Stop(slot(2, 2)))]);
    world.group.set(1, 4, 6).unwrap();
    world.pass(8);
    assert!(world.group.is_steady());
}

#[test]
fn a_zone_that_is_cut_off_loses_one_instance_and_the_others_carry_it_until_it_is_back() {
    let mut world = World::new();
    world.cut = Some(1);
    world.pass(100);
    let killed: Vec<_> = world.log.iter().filter(|(_, action)| matches!(action, Action::Kill(..))).collect();
    assert!(killed.iter().all(|(_, action)| *action == Action::Kill(slot(1, 1), "it fails its checks")));
    let elsewhere = world.serving().iter().filter(|slot| slot.zone != 1).count();
    assert_eq!(elsewhere, 6, "{:?}", world.serving());
    world.cut = None;
    world.pass(80);
    assert!(world.group.is_steady(), "{:?}", world.group);
    assert_eq!(world.serving().iter().filter(|slot| slot.zone == 1).count(), 2);
}

#[test]
fn scaling_in_takes_the_last_of_the_fullest_zones_and_waits_for_their_sessions() {
    let mut world = World::new();
    world.busy.push(slot(2, 2));
    world.group.set(1, 4, 4).unwrap();
    world.pass(1);
    let drained = |zone| (1, Action::Drain(slot(zone, 2), "it is too many"));
    assert_eq!(world.log, [drained(1), drained(2)]);
    world.pass(9);
    assert_eq!(world.log[2..], [(4, Action::Stop(slot(1, 2)))], "after the nodes had time to notice");
    world.busy.clear();
    world.pass(2);
    assert_eq!(world.log[3..], [(11, Action::Stop(slot(2, 2)))]);
    assert!(world.group.is_steady());
}

#[test]
fn a_refresh_replaces_everything_zone_by_zone_and_never_serves_with_less() {
    let mut world = World::new();
    world.group.refresh();
    world.pass(60);
    assert!(world.group.is_steady(), "{:?}", world.group);
    assert_eq!(world.fewest_good, 6);
    assert!(world.group.instances.values().all(|instance| instance.generation == 2));
    let started = world.log.iter().filter_map(|(_, action)| match action {
        Action::Start(slot) => Some(slot.zone),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2]);
}

#[test]
fn a_refresh_whose_first_instance_is_no_good_goes_no_further() {
    let mut world = World::new();
    world.ill.push(slot(0, 3));
    world.group.refresh();
    world.pass(25);
    assert_eq!(world.log, [(1, Action::Start(slot(0, 3)))]);
    assert_eq!(world.fewest_good, 6);
    world.group.refreshing = false;
    world.pass(10);
    assert_eq!(world.serving().len(), 6, "given up, it goes: {:?}", world.group);
}

#[test]
fn what_cannot_be_is_refused_with_the_numbers() {
    let mut world = World::new();
    assert!(world.group.set(3, 2, 6).is_err());
    let error = world.group.set(1, 2, 7).unwrap_err();
    assert!(error.contains('7') && error.contains("3 to 6"), "{error}");
    world.group.set(0, 0, 0).unwrap();
    world.pass(6);
    assert!(world.serving().is_empty());
}
