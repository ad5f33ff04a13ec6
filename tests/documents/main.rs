//! The documents tell the truth: pages and schemas are those of this version, every configuration in them can be run, and what
//! they say of metrics is what a node shows.
//!
//! The commands in them are run by `tests/shop/documents.rs`, where there is a whole system to run them against.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod configuration;
mod grafana;
mod kubernetes;
mod metrics;
mod pages;
mod programs;
mod prometheus;
