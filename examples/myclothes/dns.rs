//! DNS for the instances: a small authoritative server for `shop.internal`.
//!
//! ```text
//! az-a-1.shop.internal           A    one instance        also as az-a-1.az-a.shop.internal, which says its zone
//! az-a.shop.internal             A    the instances of a zone        shop.internal              A    all instances
//! _http._tcp.az-a.shop.internal  SRV  the instances of a zone        _http._tcp.shop.internal   SRV  all instances
//! ```
//!
//! It holds the instances that are alive at this moment, with a TTL of one second, and is told of each change by the
//! process that keeps them alive, as a line of JSON on standard input. It does not forward and answers for no other zone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::{A, NS, SOA, SRV};
use hickory_server::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::parent;

/// The zone that is served.
const ORIGIN: &str = "shop.internal.";
/// Seconds for which an answer may be kept, "there is none" included.
const TTL: u32 = 1;
/// A TCP client that sends nothing for this long is closed.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Answers that wait for a slow TCP client.
const TCP_ANSWERS: usize = 16;

type Zone = InMemoryZoneHandler<TokioRuntimeProvider>;

/// Options of `myclothes dns`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Where to answer, over UDP and TCP
    #[arg(long, default_value = "127.0.0.1:5353")]
    address: SocketAddr,
}

/// An instance that is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) address: SocketAddr,
}

/// Answers until standard input ends; each of its lines is the list of all [`Member`]s.
pub(crate) async fn run(options: Options) -> Result<(), String> {
    let Options { address } = options;
    let failed = |error: std::io::Error| format!("dns: cannot listen on {address}: {error}");
    let udp = UdpSocket::bind(address).await.map_err(failed)?;
    let tcp = TcpListener::bind(address).await.map_err(failed)?;
    let origin = name(ORIGIN)?;
    let zone = Arc::new(Zone::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::AllowAll));
    publish(&zone, &records(&[], address.ip(), 0)?, 0).await;
    let mut catalog = Catalog::new();
    catalog.upsert(LowerName::new(&origin), vec![Arc::clone(&zone) as _]);
    let mut server = Server::new(catalog);
    server.register_socket(udp);
    server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
    println!("ready dns {address} {}", std::process::id());

    let mut lines = parent::lines();
    let mut serial = 0;
    while let Some(line) = lines.recv().await {
        serial += 1;
        let members: Vec<Member> = serde_json::from_str(&line)
            .map_err(|error| format!("dns: standard input is not a list of members: {error}"))?;
        publish(&zone, &records(&members, address.ip(), serial)?, serial).await;
    }
    // Nobody waits for an answer of a server that goes away.
    let _ = server.shutdown_gracefully().await;
    Ok(())
}

/// Turns the list of the living, by name, into the lines that [`run`] reads.
pub(crate) async fn write_members(
    mut alive: watch::Receiver<BTreeMap<String, Member>>,
    feed: watch::Sender<String>,
) {
    while alive.changed().await.is_ok() {
        let members: Vec<Member> = alive.borrow_and_update().values().cloned().collect();
        match serde_json::to_string(&members) {
            Ok(line) => drop(feed.send_replace(line)),
            Err(error) => unreachable!("names and addresses are JSON: {error}"),
        }
    }
}

/// Replaces all records at once: a question sees the old list or the new one.
async fn publish(zone: &Zone, records: &[Record], serial: u32) {
    let mut fresh = Zone::empty(Name::from(zone_origin(zone)), ZoneType::Primary, AxfrPolicy::Deny);
    for record in records {
        fresh.upsert_mut(record.clone(), serial);
    }
    *zone.records_mut().await = std::mem::take(fresh.records_get_mut());
}

fn zone_origin(zone: &Zone) -> LowerName {
    use hickory_server::zone_handler::ZoneHandler as _;
    zone.origin().clone()
}

/// All records of the zone.
fn records(members: &[Member], server: IpAddr, serial: u32) -> Result<Vec<Record>, String> {
    let origin = name(ORIGIN)?;
    let server_name = name(&format!("ns.{ORIGIN}"))?;
    let soa = SOA::new(server_name.clone(), name(&format!("owner.{ORIGIN}"))?, serial, 1, 1, 60, TTL);
    let mut records = vec![
        Record::from_rdata(origin.clone(), TTL, RData::SOA(soa)),
        Record::from_rdata(origin.clone(), TTL, RData::NS(NS(server_name.clone()))),
    ];
    if let IpAddr::V4(ip) = server {
        records.push(a_record(server_name, ip));
    }
    for member in members {
        let IpAddr::V4(ip) = member.address.ip() else { continue };
        let of_zone = format!("{}.{ORIGIN}", member.zone);
        let target = name(&format!("{}.{of_zone}", member.name))?;
        records.push(a_record(target.clone(), ip));
        records.push(a_record(name(&format!("{}.{ORIGIN}", member.name))?, ip));
        records.push(a_record(name(&of_zone)?, ip));
        records.push(a_record(origin.clone(), ip));
        for service in [format!("_http._tcp.{ORIGIN}"), format!("_http._tcp.{of_zone}")] {
            let srv = SRV::new(0, 1, member.address.port(), target.clone());
            records.push(Record::from_rdata(name(&service)?, TTL, RData::SRV(srv)));
        }
    }
    Ok(records)
}

fn a_record(name: Name, ip: Ipv4Addr) -> Record {
    Record::from_rdata(name, TTL, RData::A(A(ip)))
}

fn name(text: &str) -> Result<Name, String> {
    Name::from_ascii(text).map_err(|error| format!("dns: {text} is not a name: {error}"))
}
