//! A name server that tests script: it says what it is told to say, late if it must, and counts who asks what.
//!
//! Its answers are made by hickory-server, cut for UDP and whole over TCP and TLS as those of any server. What a name says may
//! change at any time, and a mood overrides it all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, UdpSocket};

/// See the module's documentation.
pub struct Dns {
    /// Where it answers, over UDP and TCP.
    pub address: SocketAddr,
    /// Where it answers over TLS, if it does.
    pub tls: Option<SocketAddr>,
    script: Arc<Script>,
    server: Option<Server<Scripted>>,
}

/// What it says.
#[derive(Debug, Clone)]
pub enum Said {
    /// These records, to be kept for so many seconds.
    Records(u32, Vec<RData>),
    /// There is the name, but no such record.
    Empty,
    /// There is no such name.
    NoName,
    /// An error.
    Code(ResponseCode),
    /// Nothing.
    Silence,
    /// The same, later.
    Late(Duration, Box<Self>),
}

/// A question that was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The name, without the dot at its end.
    pub name: String,
    /// What was asked for.
    pub kind: RecordType,
    /// How.
    pub protocol: Protocol,
    /// When.
    pub at: Instant,
}

#[derive(Default)]
struct Script {
    names: Mutex<HashMap<(String, RecordType), Said>>,
    additionals: Mutex<HashMap<String, Vec<Record>>>,
    mood: Mutex<Option<Said>>,
    asked: Mutex<Vec<Asked>>,
}

impl Dns {
    /// A server that knows no name yet.
    pub async fn start() -> Self {
        let mut dns = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            script: Arc::default(),
            server: None,
        };
        dns.resume().await;
        dns
    }

    /// A server that answers over TLS too, with a certificate for `name`; the file of the authority that signed it.
    pub async fn start_with_tls(name: &str, folder: &tempfile::TempDir) -> (Self, PathBuf) {
        let mut dns = Self::start().await;
        let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let file = folder.path().join("dns-ca.pem");
        std::fs::write(&file, certified.cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        dns.tls = Some(listener.local_addr().unwrap());
        let server = dns.server.as_mut().unwrap();
        server
            .register_tls_listener_with_tls_config(listener, Duration::from_secs(5), Arc::new(config))
            .unwrap();
        (dns, file)
    }

    /// Stops answering, as a server does that is switched off.
    pub async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.shutdown_gracefully().await.unwrap();
        }
    }

    /// Answers (again), at the same address.
    pub async fn resume(&mut self) {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(self.address).await.unwrap();
            let address = udp.local_addr().unwrap();
            // The port may be taken for TCP; then another one has both.
            match TcpListener::bind(address).await {
                Ok(tcp) => break (udp, tcp),
                Err(error) => assert_eq!(self.address.port(), 0, "{address} is taken: {error}"),
            }
        };
        self.address = udp.local_addr().unwrap();
        let mut server = Server::new(Scripted(self.script.clone()));
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(60), 64);
        self.server = Some(server);
    }

    /// What `name` says from now on when it is asked for records of this kind.
    pub fn say(&self, name: &str, kind: RecordType, said: Said) {
        self.script.names.lock().unwrap().insert((name.to_owned(), kind), said);
    }

    /// The IPv4 addresses of `name`.
    pub fn a(&self, name: &str, ttl: u32, ips: impl IntoIterator<Item = Ipv4Addr>) {
        let data = ips.into_iter().map(|ip| RData::A(A(ip))).collect();
        self.say(name, RecordType::A, Said::Records(ttl, data));
    }

    /// The services of `name`, each as priority, weight, port and host.
    pub fn srv<'a>(
        &self,
        name: &str,
        ttl: u32,
        services: impl IntoIterator<Item = (u16, u16, u16, &'a str)>,
    ) {
        let data = services.into_iter().map(|(priority, weight, port, host)| {
            RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(format!("{host}.")).unwrap()))
        });
        self.say(name, RecordType::SRV, Said::Records(ttl, data.collect()));
    }

    /// `name` is another name for `target`.
    pub fn cname(&self, name: &str, kind: RecordType, ttl: u32, target: &str) {
        let data = RData::CNAME(CNAME(Name::from_ascii(format!("{target}.")).unwrap()));
        self.say(name, kind, Said::Records(ttl, vec![data]));
    }

    /// Adds an address of `host` to every answer about `name`, beside what was asked for.
    pub fn beside(&self, name: &str, ttl: u32, host: &str, ip: IpAddr) {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        let record = Record::from_rdata(Name::from_ascii(format!("{host}.")).unwrap(), ttl, data);
        self.script.additionals.lock().unwrap().entry(name.to_owned()).or_default().push(record);
    }

    /// Says this to everything from now on; `None` ends it.
    pub fn mood(&self, said: Option<Said>) {
        *self.script.mood.lock().unwrap() = said;
    }

    /// Questions about `name` so far.
    pub fn asked(&self, name: &str) -> Vec<Asked> {
        let asked = self.script.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.name == name).cloned().collect()
    }

    /// Waits for another question about `name`, begun from now on.
    pub async fn is_asked(&self, name: &str) {
        let before = self.asked(name).len();
        super::eventually(&format!("a question about {name}"), async || self.asked(name).len() > before)
            .await;
    }
}

struct Scripted(Arc<Script>);

#[async_trait::async_trait]
impl RequestHandler for Scripted {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut reply: R,
    ) -> ResponseInfo {
        let info = request.request_info().unwrap();
        let name = info.query.name().to_string().trim_end_matches('.').to_owned();
        let kind = info.query.query_type();
        let asked = Asked { name: name.clone(), kind, protocol: info.protocol, at: Instant::now() };
        self.0.asked.lock().unwrap().push(asked);
        let mut said = self.0.said(&name, kind);
        if let Said::Late(delay, later) = said {
            tokio::time::sleep(delay).await;
            said = *later;
        }
        let owner = Name::from(info.query.name());
        let mut meta = Metadata::response_from_request(info.metadata);
        meta.authoritative = true;
        let mut answers = Vec::new();
        match said {
            Said::Records(ttl, data) => {
                answers.extend(data.into_iter().map(|data| Record::from_rdata(owner.clone(), ttl, data)));
            }
            Said::NoName => meta.response_code = ResponseCode::NXDomain,
            Said::Code(code) => meta.response_code = code,
            Said::Empty => {}
            Said::Silence | Said::Late(..) => {
                let header = Header { metadata: meta, counts: HeaderCounts::default() };
                return ResponseInfo::from(header);
            }
        }
        let soa = SOA::new(owner.clone(), owner.clone(), 1, 1, 1, 1, 1);
        let soa = Record::from_rdata(owner, 1, RData::SOA(soa));
        let authority: &[Record] =
            if answers.is_empty() && !matches!(meta.response_code, ResponseCode::ServFail) {
                std::slice::from_ref(&soa)
            } else {
                &[]
            };
        let additionals = self.0.additionals.lock().unwrap().get(&name).cloned().unwrap_or_default();
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let response = builder.build(meta, answers.iter(), authority.iter(), None, additionals.iter());
        reply.send_response(response).await.unwrap()
    }
}

impl Script {
    fn said(&self, name: &str, kind: RecordType) -> Said {
        if let Some(mood) = &*self.mood.lock().unwrap() {
            return mood.clone();
        }
        let names = self.names.lock().unwrap();
        match names.get(&(name.to_owned(), kind)) {
            Some(said) => said.clone(),
            None if names.keys().any(|(known, _)| known == name) => Said::Empty,
            None => Said::NoName,
        }
    }
}
