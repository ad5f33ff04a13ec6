//! The nodes, as the control thread sees them: checked like targets, and answered or not.
//!
//! The one writer of the [`View`]. Not obvious: a node that no check has ended for yet is answered, because leaving it
//! out would be a decision without a reason; then its first failure takes it out.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::{AbortHandle, spawn_local};
use tracing::{info, warn};

use super::listen::Answers;
use super::view::View;
use crate::config::{Dns, DnsNode, TargetProtocol, ZoneName};
use crate::control::health::verdict::Checks;
use crate::control::health::{self, Probed};
use crate::control::inheritance::millis;
use crate::control::membership::{health_of, health_word};
use crate::pool::HealthState;

/// All nodes, and what is answered.
pub struct Nodes {
    answers: Answers,
    nodes: RefCell<Vec<Watched>>,
    loops: RefCell<Vec<Loop>>,
}

/// One node, with all that led to its being answered or not.
pub struct Watched {
    /// From the configuration.
    pub node: DnsNode,
    /// From active checks.
    pub checks: Checks,
    /// The last check; `None` before the first has ended.
    pub last_probe: Option<Probed>,
    /// Checks that passed, and checks that failed.
    pub probes: [u64; 2],
    /// Its zone is shifted away or has failed.
    pub zone_is_out: bool,
    /// It passes its checks and its zone is in service.
    pub good: bool,
    /// Since when it is good, or not.
    pub since: SystemTime,
}

/// What a process has found out about a node, for the one that takes its place.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftNode {
    node: String,
    health: String,
    passes: u32,
    failures: u32,
    probes: [u64; 2],
    last: Option<LeftProbe>,
    zone_is_out: bool,
    /// Seconds since 1970.
    since: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeftProbe {
    /// Seconds since 1970.
    at: u64,
    took_ms: u64,
    passed: bool,
    drain: bool,
    what: String,
}

/// A loop that ends when this is dropped.
struct Loop(AbortHandle);

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Nodes {
    /// Takes charge of what is answered.
    pub fn new(answers: Answers) -> Self {
        let config = answers.view.load().config.clone();
        let nodes = config.nodes.iter().map(|node| Watched::new(node, &config));
        let nodes = RefCell::new(nodes.collect());
        Self { answers, nodes, loops: RefCell::default() }
    }

    /// What is known of them.
    pub fn leave(&self) -> Vec<LeftNode> {
        self.watched().iter().map(LeftNode::of).collect()
    }

    /// Goes on with what another process knew of those that are here too.
    pub fn inherit(&self, left: &[LeftNode]) {
        let config = self.config();
        for node in self.nodes.borrow_mut().iter_mut() {
            let name = key(&node.node);
            if let Some(left) = left.iter().find(|left| left.node == name && config.health.enabled) {
                left.apply(node);
            }
        }
        let good: Vec<bool> = self.watched().iter().map(|node| node.good).collect();
        self.answers.view.store(Arc::new(View::new(config, &good)));
    }

    /// Starts the checks. Needs a `LocalSet`.
    pub fn start(self: &Rc<Self>) {
        let config = self.config();
        let indices = (0..config.nodes.len()).filter(|_| config.health.enabled);
        let loops = indices.map(|index| {
            let (nodes, config) = (self.clone(), config.clone());
            let check = async move {
                let record = |probed| nodes.record(index, probed);
                health::repeat(
                    &config.health,
                    (None, TargetProtocol::Http1),
                    config.nodes[index].check,
                    index as u32,
                    record,
                )
                .await;
            };
            Loop(spawn_local(check).abort_handle())
        });
        let loops = loops.collect();
        *self.loops.borrow_mut() = loops;
    }

    /// Answers as `config` says from now on; what is known about nodes that stay is kept. Everything but
    /// [`Dns::addresses`] can change: the sockets stay as they are. Needs a `LocalSet`.
    pub fn adopt(self: &Rc<Self>, config: &Arc<Dns>) {
        if *self.config() == **config {
            return;
        }
        let mut known = self.nodes.take();
        let nodes = config.nodes.iter().map(|node| {
            let same = |other: &Watched| {
                let of = |node: &DnsNode| (node.ipv4, node.ipv6, node.check);
                of(&other.node) == of(node) && config.health.enabled
            };
            match known.iter().position(same) {
                Some(index) => Watched { node: node.clone(), ..known.swap_remove(index) },
                None => Watched::new(node, config),
            }
        });
        let nodes: Vec<_> = nodes.collect();
        let good: Vec<bool> = nodes.iter().map(|node| node.good).collect();
        *self.nodes.borrow_mut() = nodes;
        self.answers.view.store(Arc::new(View::new(config.clone(), &good)));
        self.start();
    }

    /// The configuration.
    pub fn config(&self) -> Arc<Dns> {
        self.answers.view.load().config.clone()
    }

    /// What the answering thread shares.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// The nodes, in the order of the configuration. Not to be held across an await.
    pub fn watched(&self) -> Ref<'_, [Watched]> {
        Ref::map(self.nodes.borrow(), Vec::as_slice)
    }

    /// Takes the result of a check of one node, and publishes what follows from it.
    fn record(&self, index: usize, probed: Probed) {
        {
            let mut nodes = self.nodes.borrow_mut();
            let node = &mut nodes[index];
            node.probes[usize::from(!probed.passed)] += 1;
            // Its transitions are not those that matter here: `refresh` logs what is answered.
            let _ = node.checks.observe(probed.passed, &self.config().health);
            node.last_probe = Some(probed);
        }
        self.refresh();
    }

    /// Takes nodes out whose zone is out of service, and back in whose zone is in service again.
    pub fn look_at_zones(&self, is_out: impl Fn(&ZoneName) -> bool) {
        for node in self.nodes.borrow_mut().iter_mut() {
            node.zone_is_out = is_out(&node.node.zone);
        }
        self.refresh();
    }

    /// Publishes, if a node is good now that was not, or the reverse.
    fn refresh(&self) {
        let mut nodes = self.nodes.borrow_mut();
        let mut changed = false;
        for node in nodes.iter_mut() {
            let good = node.passes_checks() && !node.zone_is_out;
            if good != node.good {
                (node.good, node.since, changed) = (good, SystemTime::now(), true);
                node.log();
            }
        }
        if changed {
            let good: Vec<bool> = nodes.iter().map(|node| node.good).collect();
            let view = self.answers.view.load();
            if good.iter().all(|good| !good) {
                warn!(domain = %view.config.domain, nodes = good.len(), "no node is left: all of them are answered");
            }
            self.answers.view.store(Arc::new(view.with(&good)));
        }
    }
}

/// What tells one node from another.
fn key(node: &DnsNode) -> String {
    format!("{:?} {:?} {}", node.ipv4, node.ipv6, node.check)
}

impl LeftNode {
    fn of(node: &Watched) -> Self {
        let (passes, failures) = node.checks.in_a_row();
        let last = node.last_probe.as_ref().map(|probe| LeftProbe {
            at: seconds(probe.at),
            took_ms: millis(probe.took),
            passed: probe.passed,
            drain: probe.drain,
            what: probe.what.clone(),
        });
        Self {
            node: key(&node.node),
            health: health_word(node.checks.state()).to_owned(),
            passes,
            failures,
            probes: node.probes,
            last,
            zone_is_out: node.zone_is_out,
            since: seconds(node.since),
        }
    }

    fn apply(&self, node: &mut Watched) {
        node.checks = Checks::inherited(health_of(&self.health), self.passes, self.failures);
        node.probes = self.probes;
        node.last_probe = self.last.as_ref().map(|probe| Probed {
            at: at(probe.at),
            took: Duration::from_millis(probe.took_ms),
            passed: probe.passed,
            drain: probe.drain,
            what: probe.what.clone(),
        });
        node.zone_is_out = self.zone_is_out;
        node.good = node.passes_checks() && !node.zone_is_out;
        node.since = at(self.since);
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Watched {
    fn new(node: &DnsNode, config: &Dns) -> Self {
        Self {
            node: node.clone(),
            checks: Checks::new(&config.health),
            last_probe: None,
            probes: [0; 2],
            zone_is_out: false,
            good: true,
            since: SystemTime::now(),
        }
    }

    fn passes_checks(&self) -> bool {
        let leaves = self.last_probe.as_ref().is_some_and(|probe| probe.drain);
        match self.checks.state() {
            HealthState::Healthy => !leaves,
            HealthState::Initial => self.last_probe.as_ref().is_none_or(|probe| probe.passed),
            HealthState::Unhealthy => false,
        }
    }

    /// Why it is good or not, in a few words.
    pub fn reason(&self) -> String {
        let in_a_row = self.checks.consecutive();
        match (&self.last_probe, self.checks.state()) {
            _ if self.zone_is_out => "its zone is out of service".to_owned(),
            (None, HealthState::Healthy) => "checks are off".to_owned(),
            (None, _) => "not checked yet".to_owned(),
            (Some(probe), HealthState::Initial) => format!("first checks fail: {}", probe.what),
            (Some(probe), HealthState::Healthy) if probe.passed => format!("checks pass: {}", probe.what),
            (Some(probe), HealthState::Unhealthy) if probe.passed => {
                format!("recovering, the last {in_a_row} passed: {}", probe.what)
            }
            (Some(probe), _) => format!("the last {in_a_row} failed: {}", probe.what),
        }
    }

    fn log(&self) {
        let (zone, node, reason) = (&self.node.zone, self.node.address(), self.reason());
        if self.good {
            info!(%zone, %node, reason, "a node is answered again");
        } else {
            warn!(%zone, %node, reason, "a node is no longer answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use arc_swap::ArcSwap;

    use super::super::counters::Counters;
    use super::super::tests::config;
    use super::*;

    /// Nodes of a configuration with checks: `192.0.2.0` in `az-a`, `192.0.2.1` in `az-b`, and so on in turn.
    fn nodes(config: &Arc<Dns>) -> Rc<Nodes> {
        let view = View::new(config.clone(), &vec![true; config.nodes.len()]);
        let view = Arc::new(ArcSwap::from_pointee(view));
        let answers = Answers { addresses: Vec::new(), view, counters: Arc::new(Counters::default()) };
        Rc::new(Nodes::new(answers))
    }

    fn checked(count: u8) -> Dns {
        let mut config = config(count);
        config.health.enabled = true;
        config
    }

    fn probed(passed: bool) -> Probed {
        Probed {
            at: SystemTime::now(),
            took: std::time::Duration::ZERO,
            passed,
            drain: false,
            what: "500".into(),
        }
    }

    /// Last numbers of the IPv4 addresses that are answered for the first name.
    fn answered(nodes: &Nodes) -> Vec<u8> {
        let addresses = nodes.answers.view.load().addresses(0);
        let mut numbers: Vec<u8> = addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(v4) => Some(v4.octets()[3]),
                IpAddr::V6(_) => None,
            })
            .collect();
        numbers.sort();
        numbers
    }

    #[test]
    fn a_new_node_is_answered_until_its_first_failure_and_an_old_one_until_the_threshold() {
        let nodes = nodes(&Arc::new(checked(3)));
        nodes.record(0, probed(true));
        assert_eq!(answered(&nodes), [0, 1, 2]);
        nodes.record(1, probed(false));
        assert_eq!(answered(&nodes), [0, 2]);
        nodes.record(0, probed(false));
        assert_eq!(answered(&nodes), [0, 2]);
        nodes.record(0, probed(false));
        assert_eq!(answered(&nodes), [2]);
        assert_eq!(nodes.watched()[0].reason(), "the last 2 failed: 500");
        nodes.record(1, probed(true));
        assert_eq!(answered(&nodes), [1, 2]);
    }

    #[test]
    fn a_node_that_asks_to_be_drained_is_not_answered() {
        let nodes = nodes(&Arc::new(checked(2)));
        nodes.record(0, probed(true));
        nodes.record(0, Probed { drain: true, ..probed(true) });
        assert_eq!(answered(&nodes), [1]);
    }

    #[test]
    fn nodes_of_a_zone_that_is_out_are_not_answered_however_healthy() {
        let nodes = nodes(&Arc::new(checked(4)));
        nodes.look_at_zones(|_| false);
        assert_eq!(answered(&nodes), [0, 1, 2, 3]);
        nodes.look_at_zones(|zone| &**zone == "az-a");
        assert_eq!(answered(&nodes), [1, 3]);
        assert_eq!(nodes.watched()[0].reason(), "its zone is out of service");
        for other in [1, 3, 1, 3] {
            nodes.record(other, probed(false));
        }
        assert_eq!(answered(&nodes), [0, 1, 2, 3], "nobody is left");
        nodes.look_at_zones(|_| false);
        assert_eq!(answered(&nodes), [0, 2]);
    }

    #[test]
    fn what_is_known_of_nodes_goes_with_an_upgrade() {
        let before = nodes(&Arc::new(checked(3)));
        before.record(0, probed(true));
        before.record(1, probed(false));
        before.look_at_zones(|_| false);
        let left = serde_json::to_string(&before.leave()).unwrap();
        let after = nodes(&Arc::new(checked(4)));
        after.inherit(&serde_json::from_str::<Vec<LeftNode>>(&left).unwrap());
        assert_eq!(answered(&after), [0, 2, 3], "1 fails, 3 is new");
        assert_eq!(after.watched()[1].reason(), before.watched()[1].reason());
        assert_eq!((after.watched()[0].probes, after.watched()[1].probes), ([1, 0], [0, 1]));
        after.record(1, probed(true));
        assert_eq!(answered(&after), [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn what_is_known_of_nodes_outlives_a_change_of_the_configuration() {
        let before = Arc::new(checked(3));
        let nodes = nodes(&before);
        nodes.record(1, probed(false));
        let mut after = checked(4);
        after.nodes.remove(0);
        after.nodes[0].weight = 7;
        for name in &mut after.names {
            name.nodes = vec![0, 1, 2];
        }
        let local = tokio::task::LocalSet::new();
        local.run_until(async { nodes.adopt(&Arc::new(after)) }).await;
        assert_eq!(answered(&nodes), [2, 3], "1 still fails, 0 is gone, 3 is new");
        assert_eq!((nodes.watched()[0].node.weight, nodes.watched()[0].probes), (7, [0, 1]));
    }
}
