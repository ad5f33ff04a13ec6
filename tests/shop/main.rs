//! The shop, black box: one instance by itself, the processes that are kept alive, and the whole system through the proxy.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod browser;
mod carts;
mod documents;
mod group;
mod instance;
mod lab;
mod processes;
mod readme;
mod scaling;
mod shoppers;
mod survival;
