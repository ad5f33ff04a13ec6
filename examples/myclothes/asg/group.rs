//! The Auto Scaling group as it is known: which instances there are, in which phase, and what has to be done next. Pure: it is
//! told what happened and what time it is, and says what to start and to stop.
//!
//! The not obvious: an instance that leaves is taken out of DNS first, keeps its place until its sessions are gone, and is only then
//! asked to end; its replacement therefore stands in another place. And nothing leaves before what takes its place is *settled*:
//! healthy in the eyes of the balancer, not merely started.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::placement::place;

/// A process that lives shorter than this has died at once.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// A place where so many have died at once in a row is not counted on.
const HOPELESS: u32 = 3;
/// When no balancer can be asked, an instance counts as settled this long after it was ready.
const SETTLES_UNSEEN: Duration = Duration::from_secs(5);
/// Time that the balancers have to notice that an instance is no longer published.
const NOTICE: Duration = Duration::from_secs(3);

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Fewest and most instances of each zone.
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// Instances of the whole group.
    pub(crate) desired: usize,
    /// An instance that fails its checks for this long is killed and replaced.
    pub(crate) patience: Duration,
    /// Longest time for the sessions of an instance that leaves.
    pub(crate) drain: Duration,
}

/// A place for an instance: its zone, as an index, and its number there, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) zone: usize,
    pub(crate) number: u8,
}

/// What an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It died, or did not start: it is started at this moment.
    Waiting(Instant),
    /// On its way to being ready.
    Starting,
    /// Published.
    Serving,
    /// No longer published; until this moment at most, for the sake of its sessions.
    Draining(Instant),
    /// Killed for being unhealthy; another will take its place.
    Killed,
    /// Asked to end.
    Ending,
}

/// One instance.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) phase: Phase,
    /// Since when it has been in this phase.
    pub(crate) since: Instant,
    /// Those from before a refresh have a smaller one.
    pub(crate) generation: u64,
    /// Process id, while there is a process that is ready.
    pub(crate) pid: Option<u32>,
    /// It has been healthy in the eyes of the balancer.
    pub(crate) settled: bool,
    pub(crate) unhealthy_since: Option<Instant>,
    /// It was killed because it did not settle, and the one after it has not settled either.
    stuck: bool,
    /// How often in a row it has died at once.
    short_lives: u32,
}

/// What the balancers say of one instance: how many of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Have answered at all.
    pub(crate) asked: usize,
    pub(crate) healthy: usize,
    pub(crate) unhealthy: usize,
    /// Still have something to do with it: they would lose sessions or requests.
    pub(crate) needed: usize,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process.
    Start(Slot),
    /// Take it out of DNS: its phase says so already.
    Drain(Slot, &'static str),
    /// Ask the process to end.
    Stop(Slot),
    /// Kill the process.
    Kill(Slot, &'static str),
}

/// The group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) spec: Spec,
    pub(crate) instances: BTreeMap<Slot, Instance>,
    pub(crate) generation: u64,
    /// Instances of an earlier generation are being replaced.
    pub(crate) refreshing: bool,
    zones: usize,
}

impl Instance {
    fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since) = (phase, now);
        if phase != Phase::Serving {
            self.unhealthy_since = None;
        }
    }

    /// Counts towards what its zone should have.
    fn counts(&self) -> bool {
        !matches!(self.phase, Phase::Draining(_) | Phase::Ending)
    }

    fn serves_well(&self) -> bool {
        self.phase == Phase::Serving && self.settled && self.unhealthy_since.is_none()
    }
}

impl Group {
    pub(crate) fn new(spec: Spec, zones: usize) -> Self {
        Self { spec, instances: BTreeMap::new(), generation: 1, refreshing: false, zones }
    }

    /// A process is ready.
    pub(crate) fn ready(&mut self, slot: Slot, pid: u32, now: Instant) {
        if let Some(instance) = self.instances.get_mut(&slot)
            && instance.phase == Phase::Starting
        {
            instance.enter(Phase::Serving, now);
            (instance.pid, instance.settled) = (Some(pid), false);
        }
    }

    /// A process has ended, or could not be started. `pause` says how long to wait when that has happened so many times in a
    /// row.
    pub(crate) fn ended(&mut self, slot: Slot, now: Instant, pause: impl Fn(u32) -> Duration) {
        let Some(instance) = self.instances.get_mut(&slot) else { return };
        if !instance.counts() {
            self.instances.remove(&slot);
            return;
        }
        let lived = instance.phase == Phase::Serving && now.duration_since(instance.since) >= SHORT_LIFE;
        let wanted = lived || instance.phase == Phase::Killed;
        instance.short_lives = if wanted { 0 } else { instance.short_lives + 1 };
        (instance.pid, instance.settled) = (None, false);
        let at = now + pause(instance.short_lives);
        instance.enter(Phase::Waiting(at), now);
    }

    /// Notes what the balancers say. `seen` gives nothing for an instance that none of them has answered about.
    pub(crate) fn observe(&mut self, now: Instant, seen: impl Fn(Slot) -> Seen) {
        for (slot, instance) in &mut self.instances {
            let Seen { asked, healthy, unhealthy, needed } = seen(*slot);
            match instance.phase {
                Phase::Serving => {
                    let unseen = asked == 0 && now.duration_since(instance.since) >= SETTLES_UNSEEN;
                    instance.settled |= unseen || healthy * 2 > asked;
                    if instance.settled && now.duration_since(instance.since) >= SHORT_LIFE {
                        (instance.stuck, instance.short_lives) = (false, 0);
                    }
                    match unhealthy * 2 > asked {
                        true => instance.unhealthy_since = instance.unhealthy_since.or(Some(now)),
                        false => instance.unhealthy_since = None,
                    }
                }
                Phase::Draining(until)
                    if asked > 0 && needed == 0 && now.duration_since(instance.since) >= NOTICE =>
                {
                    instance.phase = Phase::Draining(until.min(now));
                }
                _ => {}
            }
        }
    }

    /// What has to be done now. Done actions are assumed to succeed: what does not is told by [`Self::ended`].
    pub(crate) fn step(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.stop_the_drained(now, &mut actions);
        self.kill_the_unhealthy(now, &mut actions);
        let usable: Vec<bool> = (0..self.zones).map(|zone| self.is_usable(zone, now)).collect();
        let wanted = place(self.spec.desired, self.spec.max, &usable);
        let turn = self.refresh_turn();
        for (zone, wanted) in wanted.into_iter().enumerate() {
            let surge = usize::from(turn == Some(zone));
            self.fill(zone, wanted + surge, now, &mut actions);
            self.thin(zone, wanted, surge, now, &mut actions);
        }
        self.start_the_waiting(now, &mut actions);
        actions
    }

    /// Changes what is wanted.
    pub(crate) fn set(&mut self, min: usize, max: usize, desired: usize) -> Result<(), String> {
        let zones = self.zones;
        if min > max {
            return Err(format!("the minimum of a zone, {min}, is above its maximum, {max}"));
        }
        let (least, most) = (min * zones, max * zones);
        if !(least..=most).contains(&desired) {
            return Err(format!(
                "{desired} instances are wanted, but {zones} zones with {min} to {max} each have {least} to {most}; \
                 change --min or --max too"
            ));
        }
        (self.spec.min, self.spec.max, self.spec.desired) = (min, max, desired);
        Ok(())
    }

    /// Replaces all instances, one after the other.
    pub(crate) fn refresh(&mut self) {
        self.generation += 1;
        self.refreshing = true;
    }

    /// Whether everything is as it is wanted, with nothing on its way.
    pub(crate) fn is_steady(&self) -> bool {
        !self.refreshing
            && self.instances.len() == self.spec.desired
            && self.instances.values().all(Instance::serves_well)
    }

    /// Instances of `zone` that count.
    fn of(&self, zone: usize) -> impl Iterator<Item = (Slot, &Instance)> {
        let all = self.instances.iter().map(|(slot, instance)| (*slot, instance));
        all.filter(move |(slot, instance)| slot.zone == zone && instance.counts())
    }

    fn stop_the_drained(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (slot, instance) in &mut self.instances {
            if matches!(instance.phase, Phase::Draining(until) if now >= until) {
                instance.enter(Phase::Ending, now);
                actions.push(Action::Stop(*slot));
            }
        }
    }

    /// One of a zone at a time, so that a zone that only looks unhealthy loses one instance and not all; and none when most of the
    /// group looks unhealthy: then the checks are more probably wrong.
    fn kill_the_unhealthy(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let patience = self.spec.patience;
        let serving = self.instances.values().filter(|instance| instance.phase == Phase::Serving);
        let (all, ill) = serving.fold((0, 0), |(all, ill), instance| {
            (all + 1, ill + usize::from(instance.unhealthy_since.is_some()))
        });
        if ill * 2 > all {
            return;
        }
        for zone in 0..self.zones {
            let unsettled = self.of(zone).any(|(_, instance)| !instance.settled);
            let too_long = |instance: &Instance| {
                let since = match instance.settled {
                    true => instance.unhealthy_since.filter(|_| !unsettled),
                    false => Some(instance.since),
                };
                instance.phase == Phase::Serving
                    && since.is_some_and(|since| now.duration_since(since) >= patience)
            };
            let found = self.of(zone).find(|(_, instance)| too_long(instance)).map(|(slot, _)| slot);
            if let Some(slot) = found
                && let Some(instance) = self.instances.get_mut(&slot)
            {
                instance.stuck |= !instance.settled;
                instance.settled = false;
                instance.enter(Phase::Killed, now);
                actions.push(Action::Kill(slot, "it fails its checks"));
            }
        }
    }

    /// Instances come into service in the zone: none has been trying for too long.
    fn is_usable(&self, zone: usize, now: Instant) -> bool {
        let waits = |instance: &Instance| {
            !instance.settled && now.duration_since(instance.since) >= self.spec.patience
        };
        !self.of(zone).any(|(_, one)| one.stuck || one.short_lives >= HOPELESS || waits(one))
    }

    /// The zone in which instances are being replaced, as long as there is something to replace.
    fn refresh_turn(&mut self) -> Option<usize> {
        let generation = self.generation;
        let turn = self.instances.iter().find(|(_, one)| one.counts() && one.generation < generation);
        let turn = turn.map(|(slot, _)| slot.zone);
        self.refreshing &= turn.is_some();
        turn.filter(|_| self.refreshing)
    }

    fn fill(&mut self, zone: usize, wanted: usize, now: Instant, actions: &mut Vec<Action>) {
        let missing = wanted.saturating_sub(self.of(zone).count());
        let free = (1..=u8::MAX - 1).map(|number| Slot { zone, number });
        let free: Vec<_> = free.filter(|slot| !self.instances.contains_key(slot)).take(missing).collect();
        for slot in free {
            self.instances.insert(
                slot,
                Instance {
                    phase: Phase::Starting,
                    since: now,
                    generation: self.generation,
                    pid: None,
                    settled: false,
                    unhealthy_since: None,
                    stuck: false,
                    short_lives: 0,
                },
            );
            actions.push(Action::Start(slot));
        }
    }

    /// Takes away what is too many: what does not serve yet at once, and of what serves no more than others can carry.
    fn thin(&mut self, zone: usize, wanted: usize, surge: usize, now: Instant, actions: &mut Vec<Action>) {
        let generation = self.generation;
        let total = self.of(zone).count();
        let idle = self.of(zone).filter(|(_, one)| one.phase != Phase::Serving && one.phase != Phase::Killed);
        let idle: Vec<_> = idle.map(|(slot, _)| slot).collect();
        for slot in idle.into_iter().rev().take(total.saturating_sub(wanted + surge)) {
            match self.instances.get_mut(&slot) {
                Some(instance) if instance.phase == Phase::Starting => {
                    instance.enter(Phase::Ending, now);
                    actions.push(Action::Stop(slot));
                }
                _ => drop(self.instances.remove(&slot)),
            }
        }
        let good = self.of(zone).filter(|(_, instance)| instance.serves_well()).count();
        let mut leavers: Vec<_> = self.of(zone).filter(|(_, one)| one.phase == Phase::Serving).collect();
        let serving = leavers.len();
        // The old and the ill first, then the last numbers.
        leavers.sort_by_key(|(slot, one)| {
            (one.generation >= generation, one.serves_well(), std::cmp::Reverse(slot.number))
        });
        let leavers: Vec<_> = leavers.into_iter().map(|(slot, one)| (slot, one.serves_well())).collect();
        let (mut good_left, until) = (good, now + self.spec.drain);
        for (slot, serves_well) in leavers.into_iter().take(serving.saturating_sub(wanted)) {
            good_left -= usize::from(serves_well);
            // What takes its place may not be settled yet.
            if good_left < wanted {
                break;
            }
            if let Some(instance) = self.instances.get_mut(&slot) {
                let why = if instance.generation < generation { "it is replaced" } else { "it is too many" };
                instance.enter(Phase::Draining(until), now);
                actions.push(Action::Drain(slot, why));
            }
        }
    }

    fn start_the_waiting(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (slot, instance) in &mut self.instances {
            if matches!(instance.phase, Phase::Waiting(at) if now >= at) {
                instance.enter(Phase::Starting, now);
                instance.generation = self.generation;
                actions.push(Action::Start(*slot));
            }
        }
    }

    /// When [`Self::step`] has something to do without anything happening before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let deadline = |instance: &Instance| match instance.phase {
            Phase::Waiting(at) | Phase::Draining(at) => Some(at),
            _ => None,
        };
        self.instances.values().filter_map(deadline).min()
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
