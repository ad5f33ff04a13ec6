//! What the API shows of DNS answers: the JSON of `/v1/dns`.
//!
//! Keys may be added and are never renamed. Counts are those since the start of the process.

use serde::Serialize;

use super::view::{Checked, Named, ProbeView};
use crate::config::DnsPolicy;
use crate::control::dns_answers::{LIMITED, Nodes, Rcode, Transport, Watched};
use crate::control::membership::health_word;
use crate::telemetry::time::rfc3339;

/// `GET /v1/dns`.
#[derive(Serialize)]
pub(super) struct DnsView {
    domain: String,
    addresses: Vec<String>,
    /// No node is good, so all of them are answered.
    all_bad: bool,
    names: Vec<NameView>,
    nodes: Vec<DnsNodeView>,
    queries: Named,
    responses: Named,
    limited: Named,
    ignored: u64,
    truncated: u64,
    connections_open: u64,
}

#[derive(Serialize)]
struct NameView {
    name: String,
    policy: &'static str,
    ttl_seconds: u64,
    /// Addresses that an answer may hold now.
    answers: Vec<String>,
}

#[derive(Serialize)]
struct DnsNodeView {
    zone: String,
    ipv4: Option<String>,
    ipv6: Option<String>,
    weight: u32,
    priority: u16,
    check: String,
    /// It passes its checks and its zone is in service.
    good: bool,
    /// Why, in words.
    reason: String,
    health: &'static str,
    zone_is_out: bool,
    last_probe: Option<ProbeView>,
    checks: Checked,
    since: String,
}

impl DnsView {
    /// What is answered now.
    pub(super) fn of(nodes: &Nodes) -> Self {
        let (config, answers) = (nodes.config(), nodes.answers());
        let counters = &answers.counters;
        let view = answers.view.load();
        let names = config.names.iter().enumerate().map(|(index, name)| NameView {
            name: name.name.to_string(),
            policy: policy_word(name.policy),
            ttl_seconds: name.ttl.as_secs(),
            answers: view.addresses(index).iter().map(ToString::to_string).collect(),
        });
        let watched = nodes.watched();
        let queries =
            Transport::ALL.iter().zip(&counters.received).map(|(by, count)| (by.as_str(), count.get()));
        let responses =
            Rcode::ALL.iter().zip(&counters.rcodes).map(|(rcode, count)| (rcode.as_str(), count.get()));
        let limited = LIMITED.into_iter().zip(&counters.limited).map(|(action, count)| (action, count.get()));
        Self {
            domain: config.domain.to_string(),
            addresses: answers.addresses.iter().map(ToString::to_string).collect(),
            all_bad: watched.iter().all(|node| !node.good),
            names: names.collect(),
            nodes: watched.iter().map(DnsNodeView::of).collect(),
            queries: Named(queries.collect()),
            responses: Named(responses.collect()),
            limited: Named(limited.collect()),
            ignored: counters.noise.get(),
            truncated: counters.truncated.get(),
            connections_open: counters.open.get(),
        }
    }
}

impl DnsNodeView {
    fn of(node: &Watched) -> Self {
        let config = &node.node;
        let [passed, failed] = node.probes;
        Self {
            zone: config.zone.to_string(),
            ipv4: config.ipv4.map(|address| address.to_string()),
            ipv6: config.ipv6.map(|address| address.to_string()),
            weight: config.weight,
            priority: config.priority,
            check: config.check.to_string(),
            good: node.good,
            reason: node.reason(),
            health: health_word(node.checks.state()),
            zone_is_out: node.zone_is_out,
            last_probe: node.last_probe.as_ref().map(ProbeView::of),
            checks: Checked { passed, failed, consecutive: node.checks.consecutive() },
            since: rfc3339(node.since),
        }
    }
}

fn policy_word(policy: DnsPolicy) -> &'static str {
    match policy {
        DnsPolicy::Multivalue => "multivalue",
        DnsPolicy::Weighted => "weighted",
        DnsPolicy::Failover => "failover",
        DnsPolicy::Nearest => "nearest",
    }
}
