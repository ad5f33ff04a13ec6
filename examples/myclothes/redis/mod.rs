//! A client of Redis, for whoever keeps something there: carts ([`crate::cart_stores`]), and what the catalogue's cache knows
//! ([`crate::cache`]).
//!
//! ```text
//! address.rs   what may be written: which servers, and how they are found
//! servers.rs   connections, Sentinels, clusters
//! wire.rs      the protocol
//! ```
//!
//! Only commands about one key, or about keys of one slot, can be asked. What they mean is not known here.

mod address;
mod servers;
mod wire;

pub(crate) use address::Address;
pub(crate) use servers::{ROLE, Servers};
pub(crate) use wire::{Command, Reply};
