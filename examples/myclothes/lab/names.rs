//! How shoppers find the shop: its name, asked of the nodes, and the first of its addresses that accepts a connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hickory_server::proto::op::{Message, Query};
use hickory_server::proto::rr::{Name, RData, RecordType};
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::nodes::DOMAIN;
use super::plan::{DNS, HTTP, ZONES, edge};

/// For one address.
const CONNECT: Duration = Duration::from_secs(1);
/// For one name server.
const NAME: Duration = Duration::from_millis(500);
/// How long an answer of DNS is kept; the nodes say two seconds.
const TTL: Duration = Duration::from_secs(2);

/// What the shoppers' resolver knows: the addresses of the shop, for as long as they may be kept.
#[derive(Default)]
pub(super) struct Names(Mutex<Option<(Instant, Vec<Ipv4Addr>)>>);

impl Names {
    /// A connection to the first address of the shop that accepts one, in the order of the answer.
    pub(super) async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let mut why = "the name has no address".to_owned();
        for ip in self.addresses().await {
            match timeout(CONNECT, TcpStream::connect((ip, HTTP))).await {
                Ok(Ok(stream)) => {
                    // Small requests should not wait for an acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let (sender, connection) =
                        handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
                    tokio::spawn(connection);
                    return Ok(sender);
                }
                Ok(Err(error)) => why = format!("{ip}: {error}"),
                Err(_) => why = format!("{ip}: no connection within {CONNECT:?}"),
            }
        }
        Err(why)
    }

    /// Each asks anew when the answer is too old, and turns it round, so that all nodes get their share.
    async fn addresses(&self) -> Vec<Ipv4Addr> {
        let turned = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.as_mut().map(|(at, addresses)| {
                addresses.rotate_left(1);
                (at.elapsed() < TTL, addresses.clone())
            })
        };
        if let Some((true, addresses)) = turned {
            return addresses;
        }
        for zone in 0..ZONES.len() {
            if let Ok(Ok(addresses)) = timeout(NAME, lookup(edge(zone).at(DNS))).await
                && !addresses.is_empty()
            {
                let known = Some((Instant::now(), addresses.clone()));
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
                return addresses;
            }
        }
        // No name server answers: what was known is better than nothing.
        turned.map(|(_, addresses)| addresses).unwrap_or_default()
    }
}

/// What a name server says of the shop.
pub(super) async fn lookup(server: SocketAddr) -> std::io::Result<Vec<Ipv4Addr>> {
    let mut question = Message::query();
    let name = Name::from_ascii(format!("{DOMAIN}.")).map_err(std::io::Error::other)?;
    question.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec().map_err(std::io::Error::other)?).await?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).await?;
    let answer = Message::from_vec(&answer[..length]).map_err(std::io::Error::other)?;
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    });
    Ok(addresses.collect())
}
