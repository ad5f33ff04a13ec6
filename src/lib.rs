#![doc = include_str!("README.md")]

pub mod config;
pub mod control;
pub mod lifecycle;
pub mod pool;
pub mod telemetry;
