//! Upgrades: another process answers at the same sockets, and no question is lost, whether it comes before, after or in the midst.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::net::UdpSocket;

use super::Answering;
use super::ask::{A, Ask, Connection, addresses, read};
use crate::support::{Origin, Refusing, eventually, within};

/// Questions that are on their way at the same time, for each client.
const PIPELINED: u16 = 8;

/// How many upgrades there are.
const UPGRADES: usize = 3;

/// Two nodes, the second of which fails its checks.
fn lines(alive: &Origin, dead: &Refusing) -> String {
    format!(
        "domain = \"lb.test\"\nrate_limit.responses = \"off\"\n\
         health = {{ path = \"/healthz\", interval = \"200ms\", timeout = \"200ms\" }}\n\
         [[dns.name_server]]\nname = \"ns.test\"\n\
         [[dns.node]]\nipv4 = \"192.0.2.1\"\ncheck = \"{}\"\n[[dns.node]]\nipv4 = \"192.0.2.2\"\ncheck = \"{}\"\n\
         [shutdown]\ndeadline = \"5s\"",
        alive.address, dead.address
    )
}

/// What all clients see.
#[derive(Default)]
struct Seen {
    answers: AtomicUsize,
    stop: AtomicBool,
}

impl Seen {
    /// Checks an answer: the dead node is never in it, whoever answers.
    fn take(&self, bytes: &[u8]) {
        assert_eq!(addresses(&read(bytes)), ["192.0.2.1"]);
        self.answers.fetch_add(1, SeqCst);
    }

    /// Asks over UDP until the end, nothing twice: a question that is lost is waited for in vain.
    async fn over_udp(self: Arc<Self>, dns: SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(dns).await.unwrap();
        let mut answer = [0; 4096];
        while !self.stop.load(SeqCst) {
            for id in 0..PIPELINED {
                socket.send(&Ask::new("lb.test", A).id(id).bytes()).await.unwrap();
            }
            let mut waiting: Vec<u16> = (0..PIPELINED).collect();
            while !waiting.is_empty() {
                let length = within("an answer to each question", socket.recv(&mut answer)).await.unwrap();
                let id = u16::from_be_bytes([answer[0], answer[1]]);
                waiting.retain(|other| *other != id);
                self.take(&answer[..length]);
            }
        }
    }

    /// The same over TCP, a connection for each question.
    async fn over_tcp(self: Arc<Self>, dns: SocketAddr) {
        while !self.stop.load(SeqCst) {
            let mut connection = Connection::open(dns).await;
            connection.send(&Ask::new("lb.test", A).bytes()).await;
            self.take(&connection.receive().await.expect("an answer on each connection"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_question_is_lost_while_another_process_takes_over() {
    let (alive, dead) = (Origin::start().await, Refusing::new());
    let Answering { mut edge, dns } = Answering::start(&lines(&alive, &dead)).await;
    eventually("the dead node to be left out", async || {
        edge.metric("selvedge_dns_node_good{node=\"192.0.2.2\"}").await == 0
    })
    .await;
    // One that has asked and is not asking now.
    let mut idle = Connection::open(dns).await;
    idle.send(&Ask::new("lb.test", A).bytes()).await;
    assert!(idle.receive().await.is_some());

    let seen = Arc::new(Seen::default());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..3 {
        clients.spawn(seen.clone().over_udp(dns));
    }
    clients.spawn(seen.clone().over_tcp(dns));
    for round in 1..=UPGRADES {
        let answered = seen.answers.load(SeqCst);
        eventually("answers before the upgrade", async || seen.answers.load(SeqCst) > answered + 100).await;
        edge.is_upgraded().await;
        edge.counts("selvedge_upgrades_total{result=\"done\"}", round as u64).await;
    }
    let answered = seen.answers.load(SeqCst);
    eventually("answers after the last upgrade", async || seen.answers.load(SeqCst) > answered + 100).await;
    seen.stop.store(true, SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(idle.receive().await.is_none(), "it is told to come again");
    assert_eq!(edge.exit().await.code(), Some(0));
}
