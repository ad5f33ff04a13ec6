//! Places for connections: who may have one, and how many there are.
//!
//! Three bounds: that of a listener, where more wait in the kernel's queue; that of the node, where file descriptors end, which
//! idle connections give way to; and that of one client, whose next connection is closed. What is open is counted by guards.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Worker;
use crate::config;
use crate::pool::Clients;
use crate::pool::clients::{TooMany, client_of};

/// What is known of a listener's clients over all workers. Also tells one listener from another.
#[derive(Default)]
pub(crate) struct Occupancy {
    open: AtomicUsize,
    /// Made when the first client is limited.
    clients: OnceLock<Clients>,
}

impl Occupancy {
    /// A place for one more connection, or which bound says no.
    pub(crate) fn place(
        self: &Arc<Self>,
        worker: &'static Worker,
        most: usize,
    ) -> Result<OpenConnection, Full> {
        let workers = worker.all_lanes();
        if workers.sum(|lane| &lane.open) >= worker.room().connections() {
            return Err(Full::Node);
        }
        let one_more = |now| (now < most).then_some(now + 1);
        self.open.try_update(Relaxed, Relaxed, one_more).map_err(|_| Full::Listener)?;
        worker.lane().open.bump();
        Ok(OpenConnection { worker, occupancy: self.clone() })
    }

    /// Counts a connection of this client, if it may have one more.
    pub(crate) fn admit(
        self: &Arc<Self>,
        worker: &Worker,
        listener: &config::Listener,
        address: IpAddr,
    ) -> Result<Option<ClientConnection>, TooMany> {
        let Some(rules) = &listener.per_client else { return Ok(None) };
        let Some(most) = rules.max_connections else { return Ok(None) };
        // Who forwards for others has the connections of all of them.
        if listener.trusted.iter().any(|range| range.contains(&address)) {
            return Ok(None);
        }
        let Some(client) = client_of(rules, address) else { return Ok(None) };
        self.clients().connect(client, most, Instant::now(), &worker.lane().forgotten)?;
        Ok(Some(ClientConnection { client, occupancy: self.clone() }))
    }

    /// Counts a request of this client, or says after how long it may ask again.
    pub(crate) fn ask(
        &self,
        worker: &Worker,
        rules: &config::PerClient,
        address: IpAddr,
    ) -> Result<(), Duration> {
        let Some(rate) = &rules.rate else { return Ok(()) };
        let Some(client) = client_of(rules, address) else { return Ok(()) };
        self.clients().request(client, rate, Instant::now(), &worker.lane().forgotten)
    }

    fn clients(&self) -> &Clients {
        self.clients.get_or_init(Clients::default)
    }
}

/// Which bound leaves no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Listener,
    /// File descriptors.
    Node,
}

/// An open connection: counted, and the place where a panic is noticed that would end it.
pub(crate) struct OpenConnection {
    worker: &'static Worker,
    occupancy: Arc<Occupancy>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.occupancy.open.fetch_sub(1, Relaxed);
        self.worker.lane().open.drop_one();
        note_panic(self.worker);
    }
}

/// A connection counted at its client.
pub(crate) struct ClientConnection {
    client: u128,
    occupancy: Arc<Occupancy>,
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.occupancy.clients().disconnect(self.client);
    }
}

/// Counts a panic, if one is unwinding what serves a client.
pub(crate) fn note_panic(worker: &Worker) {
    if std::thread::panicking() {
        worker.lane().panics.bump();
        tracing::error!("a panic has cost one connection; this is a defect, please report it");
    }
}
