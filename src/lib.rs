#![doc = include_str!("README.md")]

pub mod cli;
pub mod config;
pub mod control;
pub mod decision;
pub mod descriptors;
pub mod handover;
pub mod lifecycle;
pub mod pool;
pub mod privileges;
pub mod proxy;
pub mod reload;
pub mod server;
pub mod systemd;
pub mod telemetry;
