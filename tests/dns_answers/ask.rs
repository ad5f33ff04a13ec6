//! Questions as bytes, and answers as something that can be compared.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_server::proto::op::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::support::within;

/// A repetition after this long: a datagram may be lost on a busy machine.
const REPEAT: Duration = Duration::from_secs(2);

/// Types of records.
pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const SOA: u16 = 6;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;

/// A query in the making: what is odd about it is set by a test.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) id: u16,
    /// The header's third and fourth byte; a query that would like recursion at first.
    pub(crate) flags: u16,
    /// Counts as the header claims them; the true ones at first.
    pub(crate) counts: [u16; 4],
    /// Everything behind the header.
    pub(crate) body: Vec<u8>,
}

impl Ask {
    /// A plain question.
    pub(crate) fn new(name: &str, rtype: u16) -> Self {
        Self::of_class(name, rtype, 1)
    }

    pub(crate) fn of_class(name: &str, rtype: u16, class: u16) -> Self {
        let body = [wire(name), rtype.to_be_bytes().to_vec(), class.to_be_bytes().to_vec()].concat();
        Self { id: 0x1234, flags: 0x0100, counts: [1, 0, 0, 0], body }
    }

    pub(crate) fn id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    pub(crate) fn flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }

    pub(crate) fn opcode(self, opcode: u16) -> Self {
        Self { flags: self.flags | opcode << 11, ..self }
    }

    pub(crate) fn counts(self, counts: [u16; 4]) -> Self {
        Self { counts, ..self }
    }

    /// These bytes instead of the question.
    pub(crate) fn body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self }
    }

    /// These bytes behind everything else, counted nowhere.
    pub(crate) fn tail(mut self, bytes: &[u8]) -> Self {
        self.body.extend(bytes);
        self
    }

    /// With EDNS.
    pub(crate) fn edns(self) -> Self {
        self.opt(1232, [0; 4], &[])
    }

    /// With an OPT record: its class, its time to live, its data.
    pub(crate) fn opt(mut self, payload: u16, ttl: [u8; 4], data: &[u8]) -> Self {
        self.body.extend(opt(payload, ttl, data));
        self.counts[3] += 1;
        self
    }

    /// With EDNS that tells the client's network.
    pub(crate) fn subnet(self, family: u16, prefix: u8, address: &[u8]) -> Self {
        self.opt(1232, [0; 4], &subnet(family, prefix, 0, address))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.id.to_be_bytes(), self.flags.to_be_bytes()].concat();
        bytes.extend(self.counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes.extend(&self.body);
        bytes
    }
}

/// A name as a message has it.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

/// An OPT record.
pub(crate) fn opt(payload: u16, ttl: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [&[0, 0, 41][..], &payload.to_be_bytes(), &ttl, &length, data].concat()
}

/// The option that tells the client's network.
pub(crate) fn subnet(family: u16, prefix: u8, scope: u8, address: &[u8]) -> Vec<u8> {
    let body = [&family.to_be_bytes()[..], &[prefix, scope], address].concat();
    [&[0, 8][..], &(body.len() as u16).to_be_bytes(), &body].concat()
}

/// Asks over UDP, again until there is an answer.
pub(crate) async fn udp(server: SocketAddr, ask: &Ask) -> Message {
    let query = ask.bytes();
    let bytes = within("an answer over UDP", async {
        loop {
            if let Some(answer) = try_udp(server, &query, REPEAT).await {
                return answer;
            }
        }
    })
    .await;
    read(&bytes)
}

/// Sends one datagram and waits for one.
pub(crate) async fn try_udp(server: SocketAddr, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut answer = vec![0; 65_535];
    let length = timeout(patience, socket.recv(&mut answer)).await.ok()?.ok()?;
    answer.truncate(length);
    Some(answer)
}

/// Asks over TCP.
pub(crate) async fn tcp(server: SocketAddr, ask: &Ask) -> Message {
    let mut connection = Connection::open(server).await;
    connection.send(&ask.bytes()).await;
    read(&connection.receive().await.expect("an answer over TCP"))
}

/// A connection over TCP.
pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    pub(crate) async fn open(server: SocketAddr) -> Self {
        Self(within("a connection", TcpStream::connect(server)).await.unwrap())
    }

    /// Sends a message behind its length.
    pub(crate) async fn send(&mut self, message: &[u8]) {
        let framed = [&(message.len() as u16).to_be_bytes()[..], message].concat();
        self.0.write_all(&framed).await.unwrap();
    }

    /// The next message; `None` when the connection ends instead.
    pub(crate) async fn receive(&mut self) -> Option<Vec<u8>> {
        within("a message or the end", async {
            let length = self.0.read_u16().await.ok()?;
            let mut message = vec![0; usize::from(length)];
            self.0.read_exact(&mut message).await.ok()?;
            Some(message)
        })
        .await
    }
}

/// A message that must be well-formed.
pub(crate) fn read(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"))
}

/// Addresses of an answer, in its order.
pub(crate) fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect()
}

/// Everything that a client can see of an answer but the order of records and how names are compressed.
pub(crate) fn form(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "silence".to_owned() };
    let message = read(bytes);
    let section = |records: &[hickory_server::proto::rr::Record]| {
        let mut lines: Vec<String> = records.iter().map(ToString::to_string).collect();
        lines.sort();
        lines.join("\n    ")
    };
    let edns = message.edns.as_ref().map(|edns| {
        let mut options: Vec<String> =
            edns.options().as_ref().iter().map(|(code, option)| format!("{code:?} {option:?}")).collect();
        options.sort();
        let (version, size, flags) = (edns.version(), edns.max_payload(), u16::from(*edns.flags()));
        format!("version {version} size {size} flags {flags:#x} options {options:?}")
    });
    format!(
        "id {} flags {:#x} opcode {} rcode {}\n  question {:?}\n  answer\n    {}\n  authority\n    {}\n  additional\n    \
         {}\n  edns {edns:?}",
        message.id,
        u16::from_be_bytes([bytes[2], bytes[3]]) & 0x87f0,
        u8::from(message.op_code),
        u16::from(message.response_code),
        message.queries,
        section(&message.answers),
        section(&message.authorities),
        section(&message.additionals),
    )
}
