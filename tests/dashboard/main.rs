//! What operators watch and steer with, black box: the stream of events, the dashboard in a browser, the terminal.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod events;
mod figures;
mod terminal;
