//! Many nodes, targets and sessions, and the same code that decides for requests, without a socket.
//!
//! A [`Fleet`] is what all nodes agree about: the members of one pool. A [`Node`] has a snapshot of it and requests in flight
//! of its own. Sessions are bonds: a session is at any node, as a client's next request may come to any.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use selvedge::config::{Config, Overrides, Pool, ZoneName};
use selvedge::pool::{AdminState, HealthState, Member, Snapshot, TargetId, TargetState, ZoneOut};
use selvedge::proxy::balance::{Choice, Pick};
use selvedge::proxy::session::Bond;

/// Number of zones.
pub(crate) const ZONES: usize = 3;

/// What every node knows of the pool.
#[derive(Clone)]
pub(crate) struct Fleet {
    config: Arc<Pool>,
    members: Vec<Member>,
}

/// One balancer.
pub(crate) struct Node {
    config: Arc<Pool>,
    snapshot: Snapshot,
    turn: usize,
    random: u64,
}

/// What became of sessions when something happened.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Sessions that moved.
    pub(crate) moved: usize,
    /// Of these, those whose target could have kept them.
    pub(crate) needlessly: usize,
    /// Sessions that two nodes would have sent to different targets.
    pub(crate) disagreed: usize,
    /// Sessions of the fullest target, divided by the mean of those in service.
    pub(crate) peak: f64,
    /// Part of the sessions in each zone.
    pub(crate) zones: [f64; ZONES],
}

impl Fleet {
    /// `each` targets in each zone, all healthy.
    pub(crate) fn new(each: usize) -> Self {
        let members = (0..ZONES * each).map(|number| {
            let zone = format!("az-{}", char::from(b'a' + (number / each) as u8));
            let place = number % each;
            let ip = Ipv4Addr::new(10, (number / each) as u8, (place >> 8) as u8, place as u8);
            member(&zone, SocketAddr::from((ip, 9001)))
        });
        Self { config: pool(), members: members.collect() }
    }

    /// Targets in all.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Marks the targets that `which` chooses by zone and place as dead.
    pub(crate) fn kill(&mut self, which: impl Fn(usize, usize) -> bool) {
        self.each(which, |member| member.health = HealthState::Unhealthy);
    }

    /// Takes a zone out, as an operator does, with this share of its sessions to move.
    pub(crate) fn shift(&mut self, zone: usize, moved: f64) {
        self.each(|of, _| of == zone, |member| member.zone_out = Some(ZoneOut { moved, trickle: 0.0 }));
    }

    /// Drains targets.
    pub(crate) fn drain(&mut self, which: impl Fn(usize, usize) -> bool) {
        self.each(which, |member| member.admin = AdminState::Drain);
    }

    /// Adds `each` targets to each zone.
    pub(crate) fn grow(&mut self, each: usize) {
        for zone in 0..ZONES as u8 {
            let name = format!("az-{}", char::from(b'a' + zone));
            self.members.extend((0..each).map(|place| {
                let ip = Ipv4Addr::new(10, 100 + zone, (place >> 8) as u8, place as u8);
                member(&name, SocketAddr::from((ip, 9001)))
            }));
        }
    }

    fn each(&mut self, which: impl Fn(usize, usize) -> bool, change: impl Fn(&mut Member)) {
        let mut places = [0; ZONES];
        for member in &mut self.members {
            let zone = usize::from(member.state.zone.as_bytes()[3] - b'a');
            if which(zone, places[zone]) {
                change(member);
            }
            places[zone] += 1;
        }
    }

    /// A node that sees the fleet as it is now, with nothing in flight.
    pub(crate) fn node(&self, number: usize) -> Node {
        let members = self.members.iter().map(|member| Member {
            state: Arc::new(TargetState::new(
                member.state.id,
                member.state.zone.clone(),
                member.state.address,
                1,
            )),
            ..member.clone()
        });
        let mut members: Vec<Member> = members.collect();
        // No node learns of targets in the same order.
        let by = number * 7919 % members.len();
        members.rotate_left(by);
        let random = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Node {
            snapshot: Snapshot::build(&self.config, None, members),
            config: self.config.clone(),
            turn: number * 104_729,
            random,
        }
    }
}

impl Node {
    /// A new session.
    pub(crate) fn open(&mut self, session: u64) -> Bond {
        let target = self.pick(None);
        Bond { target, home: target, session, born: 0, seen: 0 }
    }

    /// Where a session's request goes: its target, and whether the bond moves there.
    pub(crate) fn follow(&mut self, bond: &Bond) -> TargetId {
        self.pick(Some(bond))
    }

    fn pick(&mut self, bond: Option<&Bond>) -> TargetId {
        self.turn = self.turn.wrapping_add(1);
        self.random = self.random.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        let choice = Choice {
            snapshot: &self.snapshot,
            balance: &self.config.balance,
            key: None,
            bond,
            may_return: false,
            tried: &[],
            may_hesitate: false,
            ahead: 0,
            counts: true,
        };
        match choice.pick(self.turn, self.random ^ (self.random >> 29)) {
            Pick::Target { index, .. } => {
                let state = &self.snapshot.targets[index].state;
                state.answered();
                state.end();
                state.id
            }
            other => panic!("a request found no target: {other:?}"),
        }
    }
}

/// `count` sessions, spread over the nodes of the fleet.
pub(crate) fn sessions(fleet: &Fleet, nodes: usize, count: usize) -> Vec<Bond> {
    let mut nodes: Vec<Node> = (0..nodes).map(|number| fleet.node(number)).collect();
    let number = nodes.len();
    (0..count).map(|at| nodes[at % number].open((at as u64).wrapping_mul(0x2545_f491_4f6c_dd1d))).collect()
}

/// Lets every session make a request at a node that sees `after`, at another one than before, and those that move at `witnesses`
/// further nodes too.
pub(crate) fn follow(after: &Fleet, nodes: usize, witnesses: usize, bonds: &mut [Bond]) -> Outcome {
    let mut nodes: Vec<Node> = (0..nodes).map(|number| after.node(number)).collect();
    let known = after.node(0).snapshot;
    let zone_of: BTreeMap<TargetId, ZoneName> =
        known.targets.iter().map(|target| (target.state.id, target.state.zone.clone())).collect();
    let (mut outcome, number) = (Outcome::default(), nodes.len());
    let mut counts: BTreeMap<TargetId, usize> = BTreeMap::new();
    for (at, bond) in bonds.iter_mut().enumerate() {
        let target = nodes[(at * 7 + 3) % number].follow(bond);
        if target != bond.target {
            outcome.moved += 1;
            let kept = known.index_of(bond.target).is_some_and(|index| known.targets[index].keeps.any());
            outcome.needlessly += usize::from(kept && known.targets.iter().all(|target| target.keeps.any()));
            let others = (1..=witnesses).map(|step| (at * 7 + 3 + step) % number);
            let agreed = others.into_iter().all(|other| nodes[other].follow(bond) == target);
            outcome.disagreed += usize::from(!agreed);
            bond.target = target;
        }
        *counts.entry(target).or_default() += 1;
    }
    let serving = known.targets.iter().filter(|target| target.keeps.any()).count();
    let mean = bonds.len() as f64 / serving as f64;
    outcome.peak = counts.values().copied().max().unwrap_or_default() as f64 / mean;
    for (target, count) in counts {
        outcome.zones[usize::from(zone_of[&target].as_bytes()[3] - b'a')] +=
            count as f64 / bonds.len() as f64;
    }
    outcome
}

fn member(zone: &str, address: SocketAddr) -> Member {
    let id = TargetId::of("shop", zone, address);
    Member::in_service(Arc::new(TargetState::new(id, zone.into(), address, 1)))
}

fn pool() -> Arc<Pool> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("selvedge.toml");
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npool = \"shop\"\n[pool.shop.stickiness]\n\
                mode = \"lb_cookie\"\n[[pool.shop.target]]\naddress = \"127.0.0.1:1\"\n";
    std::fs::write(&file, text).expect("a file in it");
    Config::load(&file, &Overrides::default()).expect("a good configuration").pools[0].clone()
}
