//! What the nodes of Selvedge say of the instances: asked by their admin API, once a second, all at the same time.
//!
//! Only read, never changed: an instance leaves by no longer being published, so what operators decide at a node is theirs alone.
//! A node that does not answer in time says nothing, and the others are believed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use selvedge::config::units::Secret;
use selvedge::config::{AdminAddress, Config};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::group::Seen;

/// Between two questions to the nodes.
const RHYTHM: Duration = Duration::from_secs(1);
/// For one answer.
const DEADLINE: Duration = Duration::from_millis(900);
/// Largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// A node that can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    address: AdminAddress,
    token: Option<Arc<Secret>>,
}

/// What one node says.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Requests that its pools have answered since it started.
    pub(crate) requests: u64,
    targets: BTreeMap<SocketAddr, Target>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    pools: Vec<Pool>,
}

#[derive(Debug, Deserialize)]
struct Pool {
    requests: u64,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    address: SocketAddr,
    health: String,
    safe_to_remove: bool,
}

impl Node {
    /// The node that runs with this configuration; `None` if it has no admin API.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let admin = config.admin.as_ref()?;
        Some(Self { address: admin.address.clone(), token: admin.token.clone() })
    }

    async fn report(&self) -> Option<Report> {
        let body = timeout(DEADLINE, self.ask("/v1/pools")).await.ok()?.ok()?;
        let answer: Answer = serde_json::from_slice(&body).ok()?;
        let mut report = Report::default();
        for pool in answer.pools {
            report.requests += pool.requests;
            report.targets.extend(pool.targets.into_iter().map(|target| (target.address, target)));
        }
        Some(report)
    }

    async fn ask(&self, path: &str) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        match &self.address {
            AdminAddress::Tcp(address) => self.get(TcpStream::connect(address).await?, path).await,
            AdminAddress::Unix(socket) => self.get(UnixStream::connect(socket).await?, path).await,
        }
    }

    async fn get(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
    ) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut request = http::Request::get(path).header(HOST, "localhost");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        // Dropped with the answer, and the connection with it.
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        connection.abort();
        Ok(body?.to_bytes())
    }
}

/// Asks all nodes again and again until nobody listens any more.
pub(crate) async fn watch(nodes: Vec<Node>, reports: mpsc::Sender<Vec<Option<Report>>>) {
    let mut rhythm = interval(RHYTHM);
    rhythm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rhythm.tick().await;
        let mut asking = tokio::task::JoinSet::new();
        for (place, node) in nodes.iter().enumerate() {
            let node = node.clone();
            asking.spawn(async move { (place, node.report().await) });
        }
        let mut answers: Vec<Option<Report>> = nodes.iter().map(|_| None).collect();
        while let Some(answer) = asking.join_next().await {
            if let Ok((place, report)) = answer {
                answers[place] = report;
            }
        }
        if reports.send(answers).await.is_err() {
            return;
        }
    }
}

/// What the nodes together say of the instance at this address.
pub(crate) fn seen(reports: &[Option<Report>], address: SocketAddr) -> Seen {
    let mut seen = Seen::default();
    for report in reports.iter().flatten() {
        seen.asked += 1;
        if let Some(target) = report.targets.get(&address) {
            seen.healthy += usize::from(target.health == "healthy");
            seen.unhealthy += usize::from(target.health == "unhealthy");
            seen.needed += usize::from(!target.safe_to_remove);
        }
    }
    seen
}

/// Requests since the reports before, over all nodes; `None` when none of them can tell. A node that has started anew
/// counts from zero.
pub(crate) fn requests_since(before: &mut Vec<Option<u64>>, reports: &[Option<Report>]) -> Option<u64> {
    before.resize(reports.len(), None);
    let mut sum = None;
    for (last, report) in before.iter_mut().zip(reports) {
        let Some(report) = report else { continue };
        if let Some(last) = *last {
            *sum.get_or_insert(0) += report.requests.checked_sub(last).unwrap_or(report.requests);
        }
        *last = Some(report.requests);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(requests: u64) -> Option<Report> {
        Some(Report { requests, targets: BTreeMap::new() })
    }

    #[test]
    fn requests_are_counted_over_all_nodes_that_can_tell() {
        let mut before = Vec::new();
        assert_eq!(requests_since(&mut before, &[report(100), None]), None, "nothing to compare with");
        assert_eq!(requests_since(&mut before, &[report(130), report(7)]), Some(30));
        assert_eq!(requests_since(&mut before, &[report(131), report(9)]), Some(3));
        assert_eq!(requests_since(&mut before, &[None, report(10)]), Some(1));
        assert_eq!(requests_since(&mut before, &[report(4), None]), Some(4), "it has started anew");
        assert_eq!(requests_since(&mut before, &[None, None]), None);
    }
}
