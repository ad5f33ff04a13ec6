//! The shop, black box: one instance by itself, the processes that are kept alive, and the whole system through the proxy.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod browser;
mod cache;
mod carts;
#[path = "../support/chromium.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test binaries, each of which uses its own part"
)]
mod chromium;
mod clicks;
mod databases;
mod documents;
mod group;
mod instance;
mod lab;
mod pages;
mod processes;
mod readme;
mod scaling;
mod shoppers;
mod survival;
mod trust;
