//! The data plane from outside: the built binary between scripted clients and scripted origins on loopback sockets.
//!
//! One program for all of it, a module for each behaviour, because linking is what takes long. `SELVEDGE_SOAK=1` makes the
//! tests of endurance as long as the specification asks; without it everything runs in a minute or so.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod acme;
mod allow;
mod balancing;
mod bonds;
mod browser;
mod conduct;
mod deadlines;
mod discovery;
mod discovery_trouble;
mod errors;
mod explain;
mod forwarding;
mod framing;
mod grpc;
mod handover;
mod handover_load;
mod hang_up;
mod harness;
mod hop_by_hop;
mod http2;
mod http2_clients;
mod http2_flow;
mod http2_heads;
mod http2_limits;
mod http2_upstream;
mod http2_upstream_trouble;
mod leftovers;
mod lifecycle;
mod limits;
mod metrics;
mod overload;
mod per_client;
mod privileges;
mod proxy_protocol;
mod registration;
mod reload;
mod reload_commands;
mod reload_listeners;
mod reload_sessions;
mod retries;
mod routing;
mod session;
mod steering;
mod streaming;
mod strict_answers;
mod strict_heads;
mod survival;
mod systemd;
mod tls;
mod tls_clients;
mod tls_config;
mod tls_scan;
mod tls_tickets;
mod tls_upstream;
mod tunnel_ends;
mod upgrade;
mod zones;

/// Counts refused requests, by `reason`.
const REFUSALS: &str = "selvedge_refusals_total";
