//! Everything that is counted, in the form that Prometheus reads.
//!
//! Sums the workers' lanes at the moment of asking; nothing is kept here. Names follow Prometheus' conventions: base
//! units in the name, `_total` for what only grows. Counters of a target end with its membership and come back with it. What there
//! is of each target is kept short, so that hundreds of them stay within a MiB.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::membership::PoolControl;
use super::sources::Source;
use super::upgrades::RESULTS;
use super::{Control, Phase, discovery, dns_answers, phase_word};
use crate::config::ZoneName;
use crate::pool::counters::{Distribution, Lanes};
use crate::pool::{
    Counter, Failure, HandshakeFailure, Http2Fault, Http2Lane, Overload, PoolLane, ProxyHeaderFailure,
    Refusal, Status, TargetLane, TunnelEnd, Verdict, WorkerLane,
};
use crate::telemetry::process::{self, Process};
use crate::telemetry::prometheus::{COARSE, Exposition, FINE, Family, Kind};

/// Classes of status, in the order of the counters.
pub const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The text of `GET /metrics`.
pub fn render(control: &Control, process: &Process) -> String {
    let mut text = Exposition::default();
    node(&mut text, control);
    configuration(&mut text, control);
    connections(&mut text, control);
    http2(&mut text, control);
    handshakes(&mut text, control);
    pools(&mut text, control);
    sessions(&mut text, control);
    zones(&mut text, control);
    names(&mut text, control);
    target_states(&mut text, control);
    target_traffic(&mut text, control);
    if let Some(nodes) = &control.dns {
        dns_answers::metrics::render(&mut text, nodes);
    }
    of_process(&mut text, control, process);
    text.finish()
}

fn node(text: &mut Exposition, control: &Control) {
    let running = control.running();
    let zone = running.config.zone.as_deref().unwrap_or("");
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("zone", zone)];
    text.family("selvedge_build_info", Kind::Gauge, "Version and zone of this node; always 1.")
        .sample(&labels, 1);
    let mut phases =
        text.family("selvedge_phase", Kind::Gauge, "1 for what the node is doing, 0 for the rest.");
    for phase in [Phase::Starting, Phase::Serving, Phase::Leaving, Phase::Stopping, Phase::Succeeded] {
        phases.sample(&[("phase", phase_word(phase))], u8::from(phase == control.phase()));
    }
    let workers = control.running().config.workers;
    text.family("selvedge_workers", Kind::Gauge, "Data-plane threads.").sample(&[], workers);
    text.family("selvedge_uptime_seconds", Kind::Gauge, "Time since the start.")
        .sample(&[], control.uptime().as_secs_f64());
}

fn configuration(text: &mut Exposition, control: &Control) {
    let running = control.running();
    text.family(
        "selvedge_config_generation",
        Kind::Gauge,
        "Configurations that have run, the present one included.",
    )
    .sample(&[], running.generation);
    text.family(
        "selvedge_config_since_seconds",
        Kind::Gauge,
        "When the configuration began to run, since 1970.",
    )
    .sample(&[], seconds(running.since));
    text.family(
        "selvedge_config_restart_needed",
        Kind::Gauge,
        "Settings of the configuration that wait for a restart.",
    )
    .sample(&[], running.restart.len());
    let mut reloads = text.family("selvedge_config_reloads_total", Kind::Counter, "Reloads, by result.");
    for (result, count) in ["done", "refused"].into_iter().zip(control.reloads.counts()) {
        reloads.sample(&[("result", result)], count);
    }
    let last = control.reloads.last();
    let good = last.as_ref().is_none_or(|last| last.refused.is_empty());
    text.family(
        "selvedge_config_last_reload_successful",
        Kind::Gauge,
        "1 if the last reload was done or there was none, 0 if it was refused.",
    )
    .sample(&[], u8::from(good));
    if let Some(last) = last {
        text.family(
            "selvedge_config_last_reload_seconds",
            Kind::Gauge,
            "When the last reload was tried, since 1970.",
        )
        .sample(&[], seconds(last.at));
    }
    let mut upgrades =
        text.family("selvedge_upgrades_total", Kind::Counter, "Upgrades to another process, by result.");
    for (result, count) in RESULTS.into_iter().zip(control.upgrades.counts()) {
        upgrades.sample(&[("result", result)], count);
    }
}

fn connections(text: &mut Exposition, control: &Control) {
    let lanes = &control.node.pools.workers;
    let mut plain = |name, kind, help, of: fn(&WorkerLane) -> &Counter| {
        text.family(name, kind, help).sample(&[], lanes.sum(of));
    };
    plain("selvedge_connections_accepted_total", Kind::Counter, "Client connections accepted.", |l| {
        &l.accepted
    });
    plain("selvedge_connections_open", Kind::Gauge, "Client connections open now.", |l| &l.open);
    plain(
        "selvedge_connections_denied_total",
        Kind::Counter,
        "Client connections closed at accept because the listener does not allow their source.",
        |l| &l.denied,
    );
    plain(
        "selvedge_proxy_headers_total",
        Kind::Counter,
        "Client connections that began with a PROXY header, from sources that announce clients.",
        |l| &l.proxy_headers,
    );
    plain("selvedge_accept_errors_total", Kind::Counter, "Failed accepts.", |l| &l.accept_errors);
    plain("selvedge_tunnels_open", Kind::Gauge, "Upgraded connections open now.", |l| &l.tunnels);
    plain("selvedge_panics_total", Kind::Counter, "Client connections lost to a panic.", |l| &l.panics);
    plain(
        "selvedge_requests_received_total",
        Kind::Counter,
        "Requests whose head was read, refused ones included.",
        |l| &l.requests,
    );
    lines_and_spans(text, control);
    room(text, control);
    let mut tunnels = text.family(
        "selvedge_tunnels_closed_total",
        Kind::Counter,
        "Upgraded connections that are over, by why.",
    );
    for why in TunnelEnd::ALL {
        let count = lanes.sum(|lane| &lane.tunnels_closed[*why as usize]);
        tunnels.sample(&[("reason", why.as_str())], count);
    }
    let mut headers = text.family(
        "selvedge_proxy_header_failures_total",
        Kind::Counter,
        "Client connections closed because they did not begin with the PROXY header that was due.",
    );
    for reason in ProxyHeaderFailure::ALL {
        let count = lanes.sum(|lane| &lane.proxy_header_failures[*reason as usize]);
        headers.sample(&[("reason", reason.as_str())], count);
    }
    let mut refusals =
        text.family("selvedge_refusals_total", Kind::Counter, "Requests refused before a target was chosen.");
    for reason in Refusal::ALL {
        let count = lanes.sum(|lane| &lane.refusals[*reason as usize]);
        refusals.sample(&[("reason", reason.as_str())], count);
    }
}

/// What is told of requests one by one.
fn lines_and_spans(text: &mut Exposition, control: &Control) {
    let lanes = &control.node.pools.workers;
    let mut lines = text.family(
        "selvedge_access_log_lines_total",
        Kind::Counter,
        "Lines of the access log: written, dropped because too many waited, or failed at the output.",
    );
    lines.sample(&[("result", "written")], control.node.pools.access_log.written.get());
    lines.sample(&[("result", "dropped")], lanes.sum(|lane| &lane.access_dropped));
    lines.sample(&[("result", "failed")], control.node.pools.access_log.failed.get());
    let mut spans = text.family(
        "selvedge_otlp_spans_total",
        Kind::Counter,
        "Spans of sampled requests: exported, dropped because too many waited, rejected by the collector, or failed with their batch.",
    );
    let sent = &control.node.pools.spans;
    spans.sample(&[("result", "exported")], sent.exported.get());
    spans.sample(&[("result", "dropped")], lanes.sum(|lane| &lane.spans_dropped));
    spans.sample(&[("result", "rejected")], sent.rejected.get());
    spans.sample(&[("result", "failed")], sent.failed.get());
}

/// What the node has room for, and what it gave up and refused.
fn room(text: &mut Exposition, control: &Control) {
    let lanes = &control.node.pools.workers;
    text.family(
        "selvedge_connections_limited_total",
        Kind::Counter,
        "Client connections closed because their client has as many as it may.",
    )
    .sample(&[], lanes.sum(|lane| &lane.limited));
    text.family(
        "selvedge_clients_forgotten_total",
        Kind::Counter,
        "Clients whose use was forgotten although it mattered, because there were too many.",
    )
    .sample(&[], lanes.sum(|lane| &lane.forgotten));
    let mut shed = text.family(
        "selvedge_connections_shed_total",
        Kind::Counter,
        "Idle connections closed to make room, by who is at their other end.",
    );
    shed.sample(&[("side", "client")], lanes.sum(|lane| &lane.shed_clients));
    shed.sample(&[("side", "target")], lanes.sum(|lane| &lane.shed_targets));
    let mut overloads = text.family(
        "selvedge_overload_refusals_total",
        Kind::Counter,
        "Requests refused because the node has no room for them.",
    );
    for why in Overload::ALL {
        let count = lanes.sum(|lane| &lane.overloads[*why as usize]);
        overloads.sample(&[("reason", why.as_str())], count);
    }
    text.family("selvedge_connections_max", Kind::Gauge, "Client connections that file descriptors allow.")
        .sample(&[], control.node.pools.room.connections());
    let limits = control.running().config.limits;
    text.family(
        "selvedge_requests_max",
        Kind::Gauge,
        "Requests in flight that the node allows; 0 for no limit.",
    )
    .sample(&[], limits.max_requests.unwrap_or(0));
    text.family("selvedge_memory_max_bytes", Kind::Gauge, "Memory that the node may use; 0 for no limit.")
        .sample(&[], limits.memory.unwrap_or(0));
}

/// Since 1970.
fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// HTTP/2 with clients.
fn http2(text: &mut Exposition, control: &Control) {
    let lanes = &control.node.pools.workers;
    let mut plain = |name, kind, help, of: fn(&Http2Lane) -> &Counter| {
        text.family(name, kind, help).sample(&[], lanes.sum(|lane| of(&lane.http2)));
    };
    plain("selvedge_http2_connections_total", Kind::Counter, "Client connections that spoke HTTP/2.", |l| {
        &l.connections
    });
    plain("selvedge_http2_connections_open", Kind::Gauge, "Of these, open now.", |l| &l.open);
    plain("selvedge_http2_requests_total", Kind::Counter, "Requests received by HTTP/2.", |l| &l.requests);
    plain("selvedge_http2_streams_open", Kind::Gauge, "Of these, under way now.", |l| &l.streams);
    let mut faults = text.family(
        "selvedge_http2_faults_total",
        Kind::Counter,
        "HTTP/2 connections ended because of what the client did or did not do.",
    );
    for reason in Http2Fault::ALL {
        let count = lanes.sum(|lane| &lane.http2.faults[*reason as usize]);
        faults.sample(&[("reason", reason.as_str())], count);
    }
}

/// TLS with clients.
fn handshakes(text: &mut Exposition, control: &Control) {
    let lanes = &control.node.pools.workers;
    let mut done = text.family(
        "selvedge_tls_handshakes_total",
        Kind::Counter,
        "TLS handshakes with clients that succeeded, by version and by whether an earlier session was resumed.",
    );
    for (version, of_version) in ["1.2", "1.3"].into_iter().enumerate() {
        for (resumed, of_both) in ["false", "true"].into_iter().enumerate() {
            let count = lanes.sum(|lane| &lane.tls.handshakes[version][resumed]);
            done.sample(&[("version", of_version), ("resumed", of_both)], count);
        }
    }
    let mut failed = text.family(
        "selvedge_tls_handshake_failures_total",
        Kind::Counter,
        "TLS handshakes with clients that failed.",
    );
    for reason in HandshakeFailure::ALL {
        let count = lanes.sum(|lane| &lane.tls.failures[*reason as usize]);
        failed.sample(&[("reason", reason.as_str())], count);
    }
    text.family(
        "selvedge_tls_handshakes_in_flight",
        Kind::Gauge,
        "TLS handshakes with clients under way now.",
    )
    .sample(&[], lanes.sum(|lane| &lane.tls.under_way));
    acme(control, text);
    let running = control.running();
    let certificates = || {
        let listeners = running.config.listeners.iter();
        listeners.filter_map(|listener| Some((listener, listener.tls.as_ref()?))).flat_map(
            |(listener, tls)| tls.certificates.iter().map(|certificate| (&*listener.name, certificate)),
        )
    };
    if certificates().next().is_none() {
        return;
    }
    let mut ends = text.family(
        "selvedge_tls_certificate_not_after_seconds",
        Kind::Gauge,
        "When a certificate that clients are shown expires, since 1970.",
    );
    for (listener, certificate) in certificates() {
        let file = certificate.file.display().to_string();
        ends.sample(&[("listener", listener), ("file", &file)], seconds(certificate.facts.not_after));
    }
}

/// Writes one sample of each pool.
fn each_pool<T: std::fmt::Display>(
    mut family: Family<'_>,
    control: &Control,
    value: impl Fn(&PoolControl) -> T,
) {
    for pool in &control.running().pools {
        family.sample(&[("pool", &pool.pool().name)], value(pool));
    }
}

fn pools(text: &mut Exposition, control: &Control) {
    let mut answers = text.family(
        "selvedge_requests_total",
        Kind::Counter,
        "Requests answered to clients, by class of status.",
    );
    for pool in &control.running().pools {
        let (name, lanes) = (&*pool.pool().name, &pool.pool().lanes);
        for (index, class) in CLASSES.into_iter().enumerate() {
            let count = lanes.sum(|lane| &lane.responses[index]);
            answers.sample(&[("pool", name), ("class", class)], count);
        }
    }
    let mut durations = text.family(
        "selvedge_request_duration_seconds",
        Kind::Histogram,
        "From a request's head to the last byte of its answer.",
    );
    for pool in &control.running().pools {
        let sum = Distribution::of_lanes(&pool.pool().lanes, |lane| &lane.duration);
        durations.histogram(&[("pool", &pool.pool().name)], &sum, FINE);
    }
    let mut gauge = |name, help, of: fn(&PoolControl) -> u64| {
        each_pool(text.family(name, Kind::Gauge, help), control, of);
    };
    gauge("selvedge_requests_in_flight", "Requests not yet answered, waiting ones included.", |pool| {
        pool.pool().live()
    });
    gauge("selvedge_requests_waiting", "Requests that wait for a target.", |pool| {
        pool.pool().queue.waiting() as u64
    });
    gauge("selvedge_retries_in_flight", "Retries not yet answered.", |pool| {
        u64::from(pool.pool().budget.in_flight())
    });
    gauge("selvedge_pool_panic", "1 while health is ignored because too few targets are healthy.", |pool| {
        u64::from(pool.pool().snapshot().panic)
    });
    let mut counter = |name, help, of: fn(&PoolLane) -> &Counter| {
        each_pool(text.family(name, Kind::Counter, help), control, |pool| pool.pool().lanes.sum(of));
    };
    counter("selvedge_requests_abandoned_total", "Requests whose client left before the answer.", |l| {
        &l.abandoned
    });
    counter("selvedge_retries_total", "Attempts after the first.", |l| &l.retries);
    counter("selvedge_retries_refused_total", "Retries that the budget refused.", |l| &l.retries_refused);
    counter("selvedge_queue_entered_total", "Requests that had to wait for a target.", |l| &l.queued);
    counter(
        "selvedge_requests_overloaded_total",
        "Requests refused because max_requests were in flight.",
        |l| &l.overloaded,
    );
    counter("selvedge_queue_refused_total", "Requests that found the queue full or waited in vain.", |l| {
        &l.queue_refused
    });
}

fn sessions(text: &mut Exposition, control: &Control) {
    let mut verdicts = text.family(
        "selvedge_session_verdicts_total",
        Kind::Counter,
        "What reading the session cookie of a request found.",
    );
    for pool in &control.running().pools {
        for verdict in Verdict::ALL {
            let count = pool.pool().lanes.sum(|lane| &lane.verdicts[*verdict as usize]);
            verdicts.sample(&[("pool", &pool.pool().name), ("verdict", verdict.as_str())], count);
        }
    }
    let rehomed = text.family(
        "selvedge_sessions_rehomed_total",
        Kind::Counter,
        "Sessions that moved because their target could not keep them.",
    );
    each_pool(rehomed, control, |pool| pool.pool().lanes.sum(|lane| &lane.rehomed));
}

/// Targets of a pool's zones, and how many of them are healthy.
pub fn count_zones(pool: &PoolControl) -> BTreeMap<ZoneName, (u64, u64)> {
    let mut zones = BTreeMap::new();
    for target in pool.targets().iter() {
        let (targets, healthy) = zones.entry(target.state.zone.clone()).or_insert((0, 0));
        *targets += 1;
        *healthy += u64::from(target.status == Status::Healthy);
    }
    zones
}

fn zones(text: &mut Exposition, control: &Control) {
    let counts: Vec<_> =
        control.running().pools.iter().map(|pool| (pool.pool().name.clone(), count_zones(pool))).collect();
    let mut gauge = |name, help, of: fn(&(u64, u64)) -> u64| {
        let mut family = text.family(name, Kind::Gauge, help);
        for (pool, zones) in &counts {
            for (zone, count) in zones {
                family.sample(&[("pool", pool), ("zone", zone)], of(count));
            }
        }
    };
    gauge("selvedge_zone_targets", "Targets of a zone.", |(targets, _)| *targets);
    gauge("selvedge_zone_healthy_targets", "Healthy targets of a zone.", |(_, healthy)| *healthy);
    let mut out = text.family(
        "selvedge_zone_out",
        Kind::Gauge,
        "1 while a zone is taken out, by a shift or because it is gray.",
    );
    for (control, (pool, zones)) in control.running().pools.iter().zip(&counts) {
        for zone in zones.keys() {
            out.sample(&[("pool", pool), ("zone", zone)], u8::from(control.zone_out(zone).is_some()));
        }
    }
}

/// Calls `write` for every name in DNS of every pool, with the labels that name it.
fn each_name(
    control: &Control,
    mut write: impl FnMut([(&'static str, &str); 2], &discovery::Shown, &PoolControl),
) {
    for pool in &control.running().pools {
        for name in pool.names() {
            let labels = [("pool", &*pool.pool().name), ("name", &*name.question)];
            write(labels, &name.shown(), pool);
        }
    }
}

fn names(text: &mut Exposition, control: &Control) {
    let mut lookups = text.family(
        "selvedge_discovery_lookups_total",
        Kind::Counter,
        "Lookups of a name in DNS, by what they brought.",
    );
    each_name(control, |[pool, name], shown, _| {
        for (result, count) in discovery::RESULTS.into_iter().zip(shown.lookups) {
            lookups.sample(&[pool, name, ("result", result)], count);
        }
    });
    let mut targets =
        text.family("selvedge_discovery_targets", Kind::Gauge, "Targets that a name in DNS stands for now.");
    each_name(control, |labels, _, pool| {
        let source = Source::Dns(labels[1].1.into());
        targets.sample(&labels, pool.sources().of(&source).len());
    });
    let mut ages = text.family(
        "selvedge_discovery_answer_age_seconds",
        Kind::Gauge,
        "Since the last good answer; absent before the first.",
    );
    each_name(control, |labels, shown, _| {
        if let Some(good) = shown.good {
            ages.sample(&labels, good.at.elapsed().as_secs_f64());
        }
    });
}

/// Certificates that the node obtains by itself.
fn acme(control: &Control, text: &mut Exposition) {
    if control.running().config.acme.is_none() {
        return;
    }
    let mut ends = text.family(
        "selvedge_acme_certificate_not_after_seconds",
        Kind::Gauge,
        "When a certificate that the node obtained by itself expires, since 1970; 0 while there is none.",
    );
    control.certificates.each(|name, progress| {
        ends.sample(&[("certificate", name)], progress.not_after().map_or(0.0, seconds));
    });
    let mut tries = text.family(
        "selvedge_acme_orders_total",
        Kind::Counter,
        "Tries to obtain a certificate, by what came of them.",
    );
    control.certificates.each(|name, progress| {
        for (result, count) in [("obtained", progress.tries[0]), ("failed", progress.tries[1])] {
            tries.sample(&[("certificate", name), ("result", result)], count);
        }
    });
}

/// Calls `write` for every target of every pool, with the labels that name it.
fn each_target(control: &Control, mut write: impl FnMut([(&'static str, &str); 3], &super::tended::Tended)) {
    for pool in &control.running().pools {
        for target in pool.targets().iter() {
            let address = target.state.address.to_string();
            let labels = [("pool", &*pool.pool().name), ("zone", &*target.state.zone), ("target", &*address)];
            write(labels, target);
        }
    }
}

/// The labels of a target and one more.
fn and<'a>(labels: [(&'a str, &'a str); 3], name: &'a str, value: &'a str) -> [(&'a str, &'a str); 4] {
    let [pool, zone, target] = labels;
    [pool, zone, target, (name, value)]
}

fn target_states(text: &mut Exposition, control: &Control) {
    let mut statuses = text.family(
        "selvedge_target_status",
        Kind::Gauge,
        "Always 1, with the status that a target has now as a label.",
    );
    each_target(control, |labels, target| statuses.sample(&and(labels, "status", target.status.as_str()), 1));
    let mut in_flight = text.family(
        "selvedge_target_in_flight",
        Kind::Gauge,
        "Requests sent to a target and not yet answered to the last byte.",
    );
    each_target(control, |labels, target| in_flight.sample(&labels, target.state.in_flight()));
    let mut weights =
        text.family("selvedge_target_weight", Kind::Gauge, "Share of a target relative to the others.");
    each_target(control, |labels, target| weights.sample(&labels, target.weight));
    let mut sessions = text.family(
        "selvedge_target_sessions",
        Kind::Gauge,
        "About how many sessions bound to a target were seen in the last minutes.",
    );
    each_target(control, |labels, target| {
        sessions.sample(&labels, target.state.bound().map_or(0, |bound| bound.count()));
    });
    let mut safe = text.family(
        "selvedge_target_safe_to_remove",
        Kind::Gauge,
        "1 when a draining target can be switched off without loss.",
    );
    each_target(control, |labels, target| safe.sample(&labels, u8::from(target.was_safe)));
    let mut ejections =
        text.family("selvedge_target_ejections_total", Kind::Counter, "How often a target was ejected.");
    each_target(control, |labels, target| ejections.sample(&labels, target.watched.record.ever()));
    let mut checks =
        text.family("selvedge_target_checks_total", Kind::Counter, "Active checks of a target, by result.");
    each_target(control, |labels, target| {
        for (result, count) in ["passed", "failed"].into_iter().zip(target.probes) {
            checks.sample(&and(labels, "result", result), count);
        }
    });
}

fn target_traffic(text: &mut Exposition, control: &Control) {
    let mut counter = |name, help, of: fn(&TargetLane) -> &Counter| {
        let mut family = text.family(name, Kind::Counter, help);
        each_target(control, |labels, target| family.sample(&labels, target.state.lanes.sum(of)));
    };
    counter("selvedge_target_attempts_total", "Requests sent to a target, retries included.", |l| {
        &l.attempts
    });
    counter("selvedge_target_connects_total", "Connections opened to a target.", |l| &l.connects);
    counter("selvedge_target_sent_bytes_total", "Bytes of bodies sent to a target.", |l| &l.bytes_sent);
    counter("selvedge_target_received_bytes_total", "Bytes of bodies received from a target.", |l| {
        &l.bytes_received
    });
    let mut responses = text.family(
        "selvedge_target_responses_total",
        Kind::Counter,
        "Answers of a target, by class of status.",
    );
    each_target(control, |labels, target| {
        for (index, class) in CLASSES.into_iter().enumerate() {
            let count = target.state.lanes.sum(|lane| &lane.responses[index]);
            responses.sample(&and(labels, "class", class), count);
        }
    });
    let mut failures = text.family(
        "selvedge_target_failures_total",
        Kind::Counter,
        "Attempts at a target without a usable answer, by reason; a reason is there from its first time on.",
    );
    each_target(control, |labels, target| {
        for reason in Failure::ALL {
            let count = target.state.lanes.sum(|lane| &lane.failures[*reason as usize]);
            if count > 0 {
                failures.sample(&and(labels, "reason", reason.as_str()), count);
            }
        }
    });
    let mut first_byte = text.family(
        "selvedge_target_first_byte_seconds",
        Kind::Histogram,
        "From an attempt's start to the head of the target's answer.",
    );
    each_target(control, |labels, target| {
        let lanes: &Lanes<TargetLane> = &target.state.lanes;
        first_byte.histogram(&labels, &Distribution::of_lanes(lanes, |lane| &lane.first_byte), COARSE);
    });
}

/// Names and meanings are those of Prometheus' own client libraries.
fn of_process(text: &mut Exposition, control: &Control, process: &Process) {
    let start = process::start_time_seconds(control.uptime());
    text.family("process_start_time_seconds", Kind::Gauge, "Start of the process, in seconds since 1970.")
        .sample(&[], start);
    let mut optional = |name, kind, help, value: Option<f64>| {
        if let Some(value) = value {
            text.family(name, kind, help).sample(&[], value);
        }
    };
    let figure = |value: Option<u64>| value.map(|value| value as f64);
    optional(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory size in bytes.",
        figure(process.resident_bytes),
    );
    optional("process_open_fds", Kind::Gauge, "Number of open file descriptors.", figure(process.open_fds));
    optional(
        "process_max_fds",
        Kind::Gauge,
        "Maximum number of open file descriptors.",
        figure(process.max_fds),
    );
    optional(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Total user and system CPU time spent in seconds.",
        process.cpu.map(|cpu| cpu.as_secs_f64()),
    );
}
