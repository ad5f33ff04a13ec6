//! Why a pick came out as it did: in codes for every line of the access log, in words for a trace.
//!
//! Looks at what the pick has looked at, and decides nothing.

use super::{Choice, Pick, rehome};
use crate::config::{self, Balance, ZoneMode, ZoneName};
use crate::decision::{Candidate, LeftOut, Round};
use crate::pool::{Chosen, Decision, OwnTarget, Status, ZoneChoice};

/// What the pool's configuration and the node's place have to do with it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// How zones share the load.
    pub mode: ZoneMode,
    /// Where the node stands.
    pub here: Option<&'a ZoneName>,
}

impl<'a> Place<'a> {
    /// Of this pool, at a node in `here`.
    pub fn new(pool: &config::Pool, here: Option<&'a ZoneName>) -> Self {
        Self { mode: pool.zones.mode, here }
    }
}

impl Choice<'_> {
    /// The codes of what this choice has picked.
    pub fn decision(&self, pick: Pick, place: Place<'_>) -> Decision {
        let (index, rehomed) = match pick {
            Pick::Target { index, rehomed } => (index, rehomed),
            Pick::OwnIsFull { .. } | Pick::AllFull | Pick::AllSilent => {
                return Decision { chosen: Chosen::Full, own: self.own(), zone: ZoneChoice::Any };
            }
            Pick::NoneLeft => {
                return Decision { chosen: Chosen::Nobody, own: self.own(), zone: ZoneChoice::Any };
            }
        };
        let id = self.snapshot.targets[index].state.id;
        let chosen = match self.bond {
            None => Chosen::New,
            Some(bond) if rehomed && self.may_return && bond.home == id => Chosen::Returned,
            Some(_) if rehomed => Chosen::Moved,
            Some(bond) if bond.target == id => Chosen::Bound,
            Some(_) => Chosen::Lent,
        };
        let zone = match chosen {
            Chosen::Bound | Chosen::Returned => ZoneChoice::Session,
            Chosen::Moved => self.zone_of_move(index),
            _ => self.zone_of(index, place),
        };
        Decision { chosen, own: self.own(), zone }
    }

    /// What is the matter with the session's own target.
    fn own(&self) -> OwnTarget {
        let Some(bond) = self.bond else { return OwnTarget::Fine };
        let Some(index) = self.snapshot.index_of(bond.target) else { return OwnTarget::Gone };
        match self.snapshot.targets[index].status {
            Status::Initial => OwnTarget::Initial,
            Status::Unhealthy => OwnTarget::Unhealthy,
            Status::Ejected => OwnTarget::Ejected,
            Status::Shifted => OwnTarget::Shifted,
            Status::Standby => OwnTarget::Standby,
            Status::Draining => OwnTarget::Draining,
            Status::Drained => OwnTarget::Drained,
            Status::Down => OwnTarget::Down,
            Status::Healthy if self.was_tried(index) => OwnTarget::Failed,
            Status::Healthy if self.is_suspended(index) => OwnTarget::Suspended,
            Status::Healthy => OwnTarget::Fine,
        }
    }

    fn zone_of_move(&self, index: usize) -> ZoneChoice {
        let own = self.bond.and_then(|bond| self.snapshot.index_of(bond.target));
        let number = |index: usize| self.snapshot.targets[index].zone_number;
        match own {
            None => ZoneChoice::Any,
            Some(own) if number(own) == number(index) => ZoneChoice::Same,
            Some(_) => ZoneChoice::Other,
        }
    }

    fn zone_of(&self, index: usize, place: Place<'_>) -> ZoneChoice {
        let Some(here) = place.here.filter(|_| place.mode != ZoneMode::Even) else { return ZoneChoice::Any };
        let snapshot = self.snapshot;
        let is_near = |index: usize| snapshot.targets[index].state.zone == *here;
        match place.mode {
            _ if is_near(index) => ZoneChoice::Near,
            _ if !snapshot.open.iter().any(|index| is_near(*index as usize)) => ZoneChoice::NoneNear,
            ZoneMode::Spill if self.tried.is_empty() && snapshot.tiers[0].up_to < 1 << 32 => {
                ZoneChoice::Spilled
            }
            _ => ZoneChoice::Far,
        }
    }

    /// What speaks against a target for a request that is bound to none; `None` if it could have it.
    fn against(&self, index: usize) -> Option<String> {
        let target = &self.snapshot.targets[index];
        let at = index as u32;
        if self.was_tried(index) {
            return Some("has failed this request".to_owned());
        }
        if !target.takes_new {
            return Some(match target.status {
                Status::Healthy if self.snapshot.failed_zones.contains(&target.state.zone) => {
                    "its zone has too few healthy targets".to_owned()
                }
                Status::Healthy => "it has no share".to_owned(),
                status => in_words(status).to_owned(),
            });
        }
        if self.is_suspended(index) {
            return Some("suspended: it fails or hangs, and that is not decided yet".to_owned());
        }
        if !target.state.has_room(target.max_connections, self.ahead) {
            return Some(format!("full: {} requests under way", target.state.in_flight()));
        }
        let in_tier = self.snapshot.tiers.iter().any(|tier| tier.open.contains(&at));
        (!in_tier).then(|| "in another zone, while the node's own serves".to_owned())
    }

    /// The parts that the policy's draw gives to those who could have the request.
    fn choosable(&self) -> Vec<Candidate> {
        let mut parts = vec![0.0; self.snapshot.targets.len()];
        let mut before = 0;
        for tier in &self.snapshot.tiers {
            let part = (tier.up_to - before) as f64 / 2f64.powi(32);
            before = tier.up_to;
            tier.rotation
                .iter()
                .for_each(|index| parts[*index as usize] += part / tier.rotation.len() as f64);
        }
        let could = (0..parts.len()).filter(|index| self.against(*index).is_none()).collect::<Vec<_>>();
        self.shares(&could, |index| parts[index])
    }

    fn shares(&self, indices: &[usize], part: impl Fn(usize) -> f64) -> Vec<Candidate> {
        let sum: f64 = indices.iter().map(|index| part(*index)).sum();
        let percent = |index: usize| if sum > 0.0 { 100.0 * part(index) / sum } else { 0.0 };
        let name = |index: usize| self.snapshot.targets[index].state.name.clone();
        indices.iter().map(|index| Candidate { target: name(*index), percent: percent(*index) }).collect()
    }

    /// All about this pick.
    pub fn round(&self, pick: Pick, place: Place<'_>) -> Round {
        let decision = self.decision(pick, place);
        let targets = &self.snapshot.targets;
        let picked = match pick {
            Pick::Target { index, .. } => Some(index),
            _ => None,
        };
        let (candidates, against): (_, Box<dyn Fn(usize) -> Option<String> + '_>) =
            match (decision.chosen, self.bond, picked) {
                (Chosen::Bound | Chosen::Returned, _, Some(index)) => {
                    (self.shares(&[index], |_| 1.0), Box::new(|_| None))
                }
                (Chosen::Moved, Some(bond), _) => {
                    let all: Vec<_> = rehome::candidates(self, bond).map(|index| index as usize).collect();
                    let weighed = self.shares(&all, |index| f64::from(targets[index].weight.max(1)));
                    let elsewhere = || "in another zone than the session".to_owned();
                    let why = move |index| self.against(index).unwrap_or_else(elsewhere);
                    (weighed, Box::new(move |index| (!all.contains(&index)).then(|| why(index))))
                }
                _ => match (self.choosable(), picked) {
                    (none, Some(index)) if none.is_empty() => (
                        self.shares(&[index], |_| 1.0),
                        Box::new(move |at| self.against(at).filter(|_| at != index)),
                    ),
                    (some, _) => (some, Box::new(|index| self.against(index))),
                },
            };
        let left_out = (0..targets.len()).filter_map(|index| {
            Some(LeftOut { why: against(index)?, target: targets[index].state.name.clone() })
        });
        let hashed = matches!((self.balance, self.key), (Balance::Hash(_), Some(_)));
        let bound = matches!(decision.chosen, Chosen::Bound | Chosen::Returned | Chosen::Moved);
        Round {
            code: decision.to_string(),
            zones: self.zone_words(decision.zone, place),
            certain: bound || hashed || candidates.len() <= 1,
            left_out: left_out.collect(),
            pick: picked.map(|index| targets[index].state.name.clone()),
            why: self.why(decision, pick),
            candidates,
            attempt: None,
        }
    }

    fn zone_words(&self, zone: ZoneChoice, place: Place<'_>) -> String {
        let here = place.here.map_or("no zone", |zone| zone);
        match zone {
            ZoneChoice::Any if place.mode == ZoneMode::Even => "all alike (mode even)".to_owned(),
            ZoneChoice::Any if place.here.is_none() => "all alike: the node stands in no zone".to_owned(),
            ZoneChoice::Any => "all alike".to_owned(),
            ZoneChoice::Session => "that of the session".to_owned(),
            ZoneChoice::Near => format!("{here}, where this node stands"),
            ZoneChoice::NoneNear => format!("another than {here}, where no target takes requests"),
            ZoneChoice::Spilled => format!("another than {here}, which does not carry its whole part"),
            ZoneChoice::Far => {
                format!("another than {here}, whose targets have failed this request or are full")
            }
            ZoneChoice::Same => "the one that the session was in".to_owned(),
            ZoneChoice::Other => "another than the session was in: nobody there takes it".to_owned(),
        }
    }

    fn why(&self, decision: Decision, pick: Pick) -> String {
        let own = || match self.bond.and_then(|bond| self.snapshot.index_of(bond.target)) {
            Some(index) => {
                format!("{}, which {}", self.snapshot.targets[index].state.name, of_own(decision.own))
            }
            None => "a target that is gone".to_owned(),
        };
        match decision.chosen {
            Chosen::New => format!("by {}", self.policy()),
            Chosen::Bound if decision.own == OwnTarget::Fine => "its session is bound to it".to_owned(),
            Chosen::Bound => format!("its session is bound to it, though it {}", of_own(decision.own)),
            Chosen::Returned => "its session returns to its first target, which is back".to_owned(),
            Chosen::Moved => format!("its session moves: it was bound to {}", own()),
            Chosen::Lent => format!("for this request: its session stays bound to {}", own()),
            Chosen::Full if matches!(pick, Pick::OwnIsFull { .. }) => {
                "the target of its session is full: it waits for that one".to_owned()
            }
            Chosen::Full if pick == Pick::AllSilent => {
                "those that were drawn have been silent for a while: it hesitates".to_owned()
            }
            Chosen::Full => "all who could have it are full: it waits".to_owned(),
            Chosen::Nobody => "no target takes requests: it waits for one".to_owned(),
        }
    }

    fn policy(&self) -> &'static str {
        match (self.balance, self.key) {
            (Balance::RoundRobin, _) => "round_robin",
            (Balance::LeastOutstanding, _) => "least_outstanding",
            (Balance::PeakEwma, _) => "peak_ewma",
            (Balance::Hash(_), Some(_)) => "hash",
            (Balance::Hash(_), None) => "least_outstanding, as the request has not what is hashed",
        }
    }
}

fn in_words(status: Status) -> &'static str {
    match status {
        Status::Initial => "not checked yet",
        Status::Healthy => "in service",
        Status::Unhealthy => "fails its checks",
        Status::Ejected => "ejected because of what it answers",
        Status::Shifted => "its zone is taken out",
        Status::Standby => "stands by until no target of a lower priority can serve",
        Status::Draining => "drains: keeps its sessions, takes no new ones",
        Status::Drained => "drained: its sessions have had their time",
        Status::Down => "taken down",
    }
}

fn of_own(own: OwnTarget) -> &'static str {
    match own {
        OwnTarget::Fine => "is in service",
        OwnTarget::Gone => "is gone",
        OwnTarget::Initial => "was not checked yet",
        OwnTarget::Unhealthy => "fails its checks",
        OwnTarget::Ejected => "is ejected because of what it answers",
        OwnTarget::Shifted => "is in a zone that is taken out",
        OwnTarget::Standby => "stands by",
        OwnTarget::Draining => "drains",
        OwnTarget::Drained => "is drained",
        OwnTarget::Down => "was taken down",
        OwnTarget::Suspended => "is suspended",
        OwnTarget::Failed => "has failed this request",
    }
}
