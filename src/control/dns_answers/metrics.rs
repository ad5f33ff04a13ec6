//! What is counted of questions and answers, in the form that Prometheus reads.

use super::authority::Rcode;
use super::counters::{LIMITED, Transport};
use super::nodes::{Nodes, Watched};
use crate::telemetry::prometheus::{Exposition, Kind};

/// Writes all families about DNS.
pub fn render(text: &mut Exposition, nodes: &Nodes) {
    let counters = &nodes.answers().counters;
    let mut received = text.family(
        "selvedge_dns_queries_total",
        Kind::Counter,
        "Messages that came in on DNS sockets, whatever they were.",
    );
    for (transport, count) in Transport::ALL.into_iter().zip(&counters.received) {
        received.sample(&[("transport", transport.as_str())], count.get());
    }
    let mut responses = text.family("selvedge_dns_responses_total", Kind::Counter, "DNS answers, by result.");
    for (rcode, count) in Rcode::ALL.into_iter().zip(&counters.rcodes) {
        responses.sample(&[("rcode", rcode.as_str())], count.get());
    }
    let mut limited = text.family(
        "selvedge_dns_limited_total",
        Kind::Counter,
        "DNS queries beyond the rate limit: told to come over TCP, or dropped.",
    );
    for (action, count) in LIMITED.into_iter().zip(&counters.limited) {
        limited.sample(&[("action", action)], count.get());
    }
    for (name, kind, help, counter) in [
        (
            "selvedge_dns_ignored_total",
            Kind::Counter,
            "Messages on DNS sockets that were no queries and got no answer.",
            &counters.noise,
        ),
        (
            "selvedge_dns_truncated_total",
            Kind::Counter,
            "DNS answers that were longer than the client could take over UDP.",
            &counters.truncated,
        ),
        (
            "selvedge_dns_unsent_total",
            Kind::Counter,
            "DNS answers that the system did not take.",
            &counters.unsent,
        ),
        ("selvedge_dns_connections_open", Kind::Gauge, "DNS connections over TCP open now.", &counters.open),
        (
            "selvedge_dns_connections_accepted_total",
            Kind::Counter,
            "DNS connections over TCP accepted.",
            &counters.accepted,
        ),
        (
            "selvedge_dns_connections_displaced_total",
            Kind::Counter,
            "DNS connections over TCP closed to make room for another.",
            &counters.displaced,
        ),
        (
            "selvedge_dns_panics_total",
            Kind::Counter,
            "DNS sockets that started again after a panic.",
            &counters.panics,
        ),
    ] {
        text.family(name, kind, help).sample(&[], counter.get());
    }
    of_nodes(text, nodes);
}

fn of_nodes(text: &mut Exposition, nodes: &Nodes) {
    let watched = nodes.watched();
    let mut good = text.family(
        "selvedge_dns_node_good",
        Kind::Gauge,
        "1 while a node passes its checks and its zone is in service; when none does, all are answered.",
    );
    for Watched { node, good: is_good, .. } in watched.iter() {
        let address = node.address().to_string();
        good.sample(&[("zone", &node.zone), ("node", &address)], u8::from(*is_good));
    }
    let mut checks =
        text.family("selvedge_dns_node_checks_total", Kind::Counter, "Checks of a node, by result.");
    for Watched { node, probes, .. } in watched.iter() {
        let address = node.address().to_string();
        for (result, count) in ["passed", "failed"].into_iter().zip(probes) {
            checks.sample(&[("zone", &node.zone), ("node", &address), ("result", result)], count);
        }
    }
}
