//! Datagrams in, datagrams out. Nothing waits but for the next one: an answer that the system cannot take at once is
//! dropped and counted, as the network might have done.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::answerer::Answerer;
use super::counters::Transport;

/// Bytes of a query; what is longer arrives cut, and is broken then.
const QUERY_MAX: usize = 4096;

/// Pause after a failed receive, such as for want of memory.
const PAUSE: Duration = Duration::from_millis(20);

/// Answers what comes in on `socket`, until dropped.
pub(super) async fn run(socket: Rc<UdpSocket>, answerer: Rc<Answerer>) {
    let mut query = vec![0; QUERY_MAX];
    let mut answer = Vec::with_capacity(QUERY_MAX);
    loop {
        let (length, from) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a datagram could not be received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        answer.clear();
        let is_real = from.port() != 0;
        if is_real && answerer.answer(&query[..length], from.ip(), Transport::Udp, &mut answer) {
            send(&socket, &answer, from, &answerer);
        }
    }
}

fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr, answerer: &Answerer) {
    if let Err(error) = socket.try_send_to(answer, to) {
        answerer.counters.unsent.bump();
        tracing::debug!(%to, %error, "an answer could not be sent");
    }
}
