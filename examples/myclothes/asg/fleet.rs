//! The loop around the group: starts and stops its processes, publishes who serves, hears what the balancers say.
//!
//! Everything that is decided is decided in [`super::group`] and [`super::tracking`]; here it is carried out. Each process has a
//! task of its own, which tells of its life and takes orders.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::Sizes;
use super::balancer::{self, Node, Report};
use super::command::{InstanceView, Status, Wish};
use super::group::{Action, Group, Phase, Slot};
use super::life::{Event, Order, live};
use super::tracking::{Policy, Tracker};
use crate::dns::Member;
use crate::socket;
use crate::supervise::{Part, ending, pause, say};

/// Lines that `asg status` shows of what happened lately.
const REMEMBERED: usize = 30;

/// Where instances can be, and how they are started.
pub(crate) struct Site {
    pub(crate) zones: Vec<String>,
    /// The instance of a place, given the index of its zone and its number there.
    pub(crate) member: Box<dyn Fn(usize, u8) -> Member + Send + Sync>,
    /// Its process.
    pub(crate) part: Box<dyn Fn(&Member) -> Part + Send + Sync>,
}

/// The instances that are published, by name.
pub(crate) type Alive = Arc<watch::Sender<BTreeMap<String, Member>>>;

/// A wish with the way back.
type Asked = socket::Asked<Wish, Status>;

/// A group that runs, in a task of its own.
pub(crate) struct Fleet {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    /// For `myclothes asg`.
    pub(crate) wishes: mpsc::Sender<Asked>,
}

impl Fleet {
    /// Starts all instances and waits until they are ready; the error is that of the first which did not start. Gives them with
    /// their process ids. The group begins to decide with [`Started::run`].
    pub(crate) async fn start(sizes: &Sizes, site: Site, alive: Alive) -> Result<Started, String> {
        let spec = sizes.spec(site.zones.len())?;
        let (events_sender, events) = mpsc::channel(64);
        let mut keeper = Keeper {
            group: Group::new(spec, site.zones.len()),
            site,
            alive,
            policy: sizes.policy(),
            window: Duration::from_secs(sizes.scaling_window.into()),
            cooldowns: [sizes.scale_out_cooldown, sizes.scale_in_cooldown]
                .map(|seconds| Duration::from_secs(seconds.into())),
            tracker: Tracker::default(),
            before: Vec::new(),
            orders: BTreeMap::new(),
            events: events_sender,
            gone: BTreeMap::new(),
            log: VecDeque::new(),
        };
        let mut events = events;
        keeper.act();
        let mut missing = keeper.group.instances.len();
        let mut members = Vec::new();
        while missing > 0 {
            let Some((slot, event)) = events.recv().await else { break };
            match event {
                Event::Ready(pid) => {
                    members.push((keeper.member(slot), pid));
                    keeper.group.ready(slot, pid, Instant::now());
                    keeper.act();
                    missing -= 1;
                }
                Event::Failed(reason) => return Err(reason),
                event @ (Event::Ended(_) | Event::Gone) => {
                    keeper.note(slot, event);
                    keeper.act();
                    missing += 1;
                }
            }
        }
        members.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        Ok(Started { members, keeper, events })
    }

    /// Stops all instances, and waits until they have.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        // A panic there was reported already.
        let _ = self.task.await;
    }
}

/// A group whose instances are ready and that does not decide anything yet.
pub(crate) struct Started {
    /// The instances, with their process ids.
    pub(crate) members: Vec<(Member, u32)>,
    keeper: Keeper,
    events: mpsc::Receiver<(Slot, Event)>,
}

impl Started {
    /// Keeps the group from now on, by what these nodes say.
    pub(crate) fn run(self, nodes: Vec<Node>) -> Fleet {
        let (stop, stopped) = oneshot::channel();
        let (wishes, asked) = mpsc::channel(4);
        let (reports_sender, reports) = mpsc::channel(1);
        tokio::spawn(balancer::watch(nodes, reports_sender));
        let task = tokio::spawn(self.keeper.keep(self.events, reports, asked, stopped));
        Fleet { stop, task, wishes }
    }
}

struct Keeper {
    site: Site,
    group: Group,
    alive: Alive,
    policy: Option<Policy>,
    window: Duration,
    cooldowns: [Duration; 2],
    tracker: Tracker,
    /// Requests that each node has counted.
    before: Vec<Option<u64>>,
    /// The way to each process.
    orders: BTreeMap<Slot, mpsc::Sender<Order>>,
    events: mpsc::Sender<(Slot, Event)>,
    /// When those that are to come back died.
    gone: BTreeMap<Slot, Instant>,
    log: VecDeque<(Instant, String)>,
}

impl Keeper {
    async fn keep(
        mut self,
        mut events: mpsc::Receiver<(Slot, Event)>,
        mut reports: mpsc::Receiver<Vec<Option<Report>>>,
        mut asked: mpsc::Receiver<Asked>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let deadline = self.group.next_deadline();
            let wake = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((slot, event)) = events.recv() => self.note(slot, event),
                Some(reports) = reports.recv() => self.hear(&reports),
                Some((wish, reply)) = asked.recv() => {
                    let done = self.grant(wish);
                    self.act();
                    // Whoever asked may have gone.
                    let _ = reply.send(done.map(|()| self.status()));
                }
                () = wake => {}
                _ = &mut stopped => break,
            }
            self.act();
        }
        for orders in self.orders.values() {
            // A process that does not take orders has ended.
            let _ = orders.try_send(Order::Stop);
        }
        while !self.orders.is_empty() {
            match events.recv().await {
                Some((slot, Event::Gone | Event::Ended(_) | Event::Failed(_))) => {
                    drop(self.orders.remove(&slot))
                }
                Some((_, Event::Ready(_))) => {}
                None => break,
            }
        }
    }

    /// Carries out what the group decides, and publishes who serves.
    fn act(&mut self) {
        for action in self.group.step(Instant::now()) {
            match action {
                Action::Start(slot) => {
                    let (orders, receiver) = mpsc::channel(4);
                    self.orders.insert(slot, orders);
                    let part = (self.site.part)(&self.member(slot));
                    tokio::spawn(live(part, slot, self.events.clone(), receiver));
                }
                Action::Drain(slot, why) => {
                    self.tell(format!("{} drains: {why}", self.name(slot)));
                }
                Action::Stop(slot) => {
                    self.tell(format!("{} is stopped", self.name(slot)));
                    self.order(slot, Order::Leave);
                }
                Action::Kill(slot, why) => {
                    self.tell(format!("{} is killed: {why}", self.name(slot)));
                    self.order(slot, Order::Kill);
                }
            }
        }
        let serving = self.group.instances.iter().filter(|(_, one)| one.phase == Phase::Serving);
        let members = serving.map(|(slot, _)| self.member(*slot));
        let published: BTreeMap<_, _> = members.map(|member| (member.name.clone(), member)).collect();
        self.alive.send_if_modified(|alive| {
            let differs = *alive != published;
            *alive = published;
            differs
        });
    }

    fn note(&mut self, slot: Slot, event: Event) {
        let now = Instant::now();
        let name = self.name(slot);
        match event {
            Event::Ready(pid) => {
                self.group.ready(slot, pid, now);
                match self.gone.remove(&slot) {
                    Some(died) => {
                        let after = now.duration_since(died).as_millis();
                        self.tell(format!("{name} is back after {after} ms as process {pid}"));
                    }
                    None => self.tell(format!("{name} is in service as process {pid}")),
                }
            }
            Event::Failed(reason) => {
                self.tell(format!("{reason}; it will be tried again"));
                self.end(slot, now);
            }
            Event::Ended(status) => {
                self.tell(format!("{name} ended: {}", ending(status)));
                self.gone.insert(slot, now);
                self.end(slot, now);
            }
            Event::Gone => self.end(slot, now),
        }
    }

    fn end(&mut self, slot: Slot, now: Instant) {
        self.orders.remove(&slot);
        self.group.ended(slot, now, pause);
        if !self.group.instances.contains_key(&slot) {
            self.gone.remove(&slot);
        }
    }

    fn hear(&mut self, reports: &[Option<Report>]) {
        let now = Instant::now();
        let member = &self.site.member;
        self.group.observe(now, |slot| balancer::seen(reports, member(slot.zone, slot.number).address));
        let requests = balancer::requests_since(&mut self.before, reports);
        let Some(policy) = self.policy else { return };
        self.tracker.record(now, requests, &policy);
        let (zones, spec) = (self.site.zones.len(), &self.group.spec);
        let bounds = spec.min * zones..=spec.max * zones;
        if let Some(next) = self.tracker.decide(now, spec.desired, bounds, &policy) {
            let rate = self.tracker.rate(now, &policy).unwrap_or_default();
            let was = std::mem::replace(&mut self.group.spec.desired, next);
            self.tell(format!(
                "{rate:.1} requests a second, {} wanted for each instance: {next} instead of {was} instances",
                policy.target
            ));
        }
    }

    fn grant(&mut self, wish: Wish) -> Result<(), String> {
        match wish {
            Wish::Status => return Ok(()),
            Wish::Set { min, max, desired, target } => {
                let spec = &self.group.spec;
                let (min, max) = (min.unwrap_or(spec.min), max.unwrap_or(spec.max));
                if max > super::MOST.into() {
                    return Err(format!("no zone has room for more than {} instances", super::MOST));
                }
                let zones = self.site.zones.len();
                let desired = desired.unwrap_or_else(|| spec.desired.max(min * zones).min(max * zones));
                self.group.set(min, max, desired)?;
                if let Some(target) = target {
                    let [out_cooldown, in_cooldown] = self.cooldowns;
                    let policy = |target| Policy { target, window: self.window, out_cooldown, in_cooldown };
                    self.policy = target.0.map(policy);
                    self.tracker = Tracker::default();
                }
                self.tell(format!("{desired} instances are wanted, {min} to {max} in each zone"));
            }
            Wish::Refresh => {
                self.group.refresh();
                self.tell("all instances will be replaced".to_owned());
            }
            Wish::Cancel => {
                self.group.refreshing = false;
                self.tell("the refresh is given up".to_owned());
            }
        }
        Ok(())
    }

    fn status(&self) -> Status {
        let now = Instant::now();
        let instances = self.group.instances.iter().map(|(slot, instance)| {
            let Member { name, zone, address } = self.member(*slot);
            InstanceView {
                name,
                zone,
                address,
                pid: instance.pid,
                phase: word(instance.phase).to_owned(),
                seconds: now.duration_since(instance.since).as_secs(),
                healthy: instance.settled && instance.unhealthy_since.is_none(),
                outdated: instance.generation < self.group.generation,
            }
        });
        let spec = &self.group.spec;
        let log = self.log.iter().map(|(at, line)| (now.duration_since(*at).as_secs(), line.clone()));
        Status {
            min_per_zone: spec.min,
            max_per_zone: spec.max,
            desired: spec.desired,
            target_requests: self.policy.map(|policy| policy.target),
            requests_per_second: self.policy.and_then(|policy| self.tracker.rate(now, &policy)),
            refreshing: self.group.refreshing,
            steady: self.group.is_steady(),
            instances: instances.collect(),
            log: log.collect(),
        }
    }

    fn order(&self, slot: Slot, order: Order) {
        if let Some(orders) = self.orders.get(&slot) {
            // A process that takes no more orders has ended, or is about to.
            let _ = orders.try_send(order);
        }
    }

    fn member(&self, slot: Slot) -> Member {
        (self.site.member)(slot.zone, slot.number)
    }

    fn name(&self, slot: Slot) -> String {
        self.member(slot).name
    }

    fn tell(&mut self, line: String) {
        say(&line);
        self.log.push_back((Instant::now(), line));
        if self.log.len() > REMEMBERED {
            self.log.pop_front();
        }
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting(_) => "waiting",
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Draining(_) => "draining",
        Phase::Killed => "killed",
        Phase::Ending => "ending",
    }
}
