//! Questions to name servers: one at a time, in order, each for a limited time.
//!
//! ```text
//! ask: the server that answered last → the next one → … → once more from the beginning → give up
//! ```
//!
//! An answer that there is nothing is an answer; SERVFAIL, REFUSED and silence are reasons to ask the next server. Each
//! server is asked over UDP, then over TCP if the answer is too long, or over TLS. Nothing is cached here: when a name is
//! asked again is decided in `knowledge`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig, system_conf};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::config::{self, NameServer};

/// Questions under way on one connection to a name server.
const QUESTIONS_MAX: usize = 1024;

/// Who is asked about names.
pub struct Resolver {
    settings: RefCell<Arc<config::Resolver>>,
    servers: RefCell<Vec<Rc<Server>>>,
    /// Index of the server that answered last.
    first: Cell<usize>,
}

struct Server {
    name: String,
    handle: NameServerPool<TokioRuntimeProvider>,
}

/// Why there are no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// There is no such name.
    NoName,
    /// The name has no such records.
    Empty,
    /// Nobody could say.
    Failed(Failure),
}

/// A question that nobody answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In what way.
    pub kind: FailureKind,
    /// In words, with the server.
    pub what: String,
}

/// In what way a lookup failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The server could not find out.
    ServFail,
    /// The server does not want to answer.
    Refused,
    /// Silence.
    Timeout,
    /// Anything else.
    Error,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str("there is no such name"),
            Self::Empty => f.write_str("there are no such records"),
            Self::Failed(failure) => f.write_str(&failure.what),
        }
    }
}

impl Resolver {
    /// A resolver that asks the name servers of `settings`, or those of the system.
    pub fn new(settings: Arc<config::Resolver>) -> Self {
        let resolver = Self {
            settings: RefCell::new(settings.clone()),
            servers: RefCell::default(),
            first: Cell::new(0),
        };
        resolver.take_on(settings);
        resolver
    }

    /// Asks according to other settings from the next question on.
    pub fn adopt(&self, settings: &Arc<config::Resolver>) {
        if **settings != *self.settings() {
            self.take_on(settings.clone());
        }
    }

    fn take_on(&self, settings: Arc<config::Resolver>) {
        let servers = servers(&settings, &settings.nameservers);
        self.first.set(0);
        self.servers.replace(servers);
        self.settings.replace(settings);
    }

    fn settings(&self) -> Arc<config::Resolver> {
        self.settings.borrow().clone()
    }

    /// Everything that a name server says about records of this type.
    pub async fn ask(&self, name: &Name, records: RecordType) -> Result<Message, Lack> {
        let settings = self.settings();
        if self.servers.borrow().is_empty() {
            self.servers.replace(system_servers(&settings)?);
        }
        let servers = self.servers.borrow().clone();
        let mut failure = None;
        for turn in 0..servers.len() * settings.attempts as usize {
            let index = (self.first.get() + turn) % servers.len();
            match servers[index].ask(&settings, name, records).await {
                Err(Lack::Failed(failed)) => failure = Some(failed),
                answered => {
                    self.first.set(index);
                    return answered;
                }
            }
        }
        if settings.nameservers.is_empty() {
            // They may have changed since; the next question will find out.
            self.servers.borrow_mut().clear();
        }
        let nobody = || Failure { kind: FailureKind::Error, what: "there is no name server".to_owned() };
        Err(Lack::Failed(failure.unwrap_or_else(nobody)))
    }
}

impl Server {
    async fn ask(
        &self,
        settings: &config::Resolver,
        name: &Name,
        records: RecordType,
    ) -> Result<Message, Lack> {
        let question = Query::query(name.clone(), records);
        let answer = self.handle.lookup(question, DnsRequestOptions::default()).first_answer();
        // The handle has a limit for each way it tries; this one is for all of them.
        let limit = settings.timeout * 2 + Duration::from_millis(100);
        let error = match timeout(limit, answer).await {
            Ok(Ok(response)) => match DnsError::from_response(response) {
                Ok(response) => return Ok(response.into_message()),
                Err(error) => NetError::from(error),
            },
            Ok(Err(error)) => error,
            Err(_) => NetError::Timeout,
        };
        Err(self.lack(settings, error))
    }

    fn lack(&self, settings: &config::Resolver, error: NetError) -> Lack {
        let (kind, what) = match error {
            // Without SOA, name servers are a hint to ask elsewhere: this server has nothing to say about the name.
            NetError::Dns(DnsError::NoRecordsFound(NoRecords { ns: Some(_), soa: None, .. })) => {
                (FailureKind::Error, "is not in charge of the name, and does not ask others".to_owned())
            }
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => return Lack::NoName,
                _ => return Lack::Empty,
            },
            NetError::Dns(DnsError::ResponseCode(code)) => match code {
                ResponseCode::ServFail => (FailureKind::ServFail, "answers SERVFAIL".to_owned()),
                ResponseCode::Refused => (FailureKind::Refused, "answers REFUSED".to_owned()),
                other => (FailureKind::Error, format!("answers {other:?}")),
            },
            NetError::Timeout => {
                (FailureKind::Timeout, format!("does not answer within {:?}", settings.timeout))
            }
            // All that is left of a refused connection and of a failed handshake.
            NetError::NoConnections => {
                let what = "takes no connection, or its certificate is not one to trust for this name";
                (FailureKind::Error, what.to_owned())
            }
            NetError::Truncated => (FailureKind::Error, "cuts its answer short, over TCP too".to_owned()),
            other => (FailureKind::Error, format!("cannot be asked: {other}")),
        };
        Lack::Failed(Failure { kind, what: format!("{} {what}", self.name) })
    }
}

/// The name servers of the system, as they are now.
fn system_servers(settings: &config::Resolver) -> Result<Vec<Rc<Server>>, Lack> {
    let (system, _) = system_conf::read_system_conf().map_err(|error| {
        let what = format!("/etc/resolv.conf cannot be used: {error}");
        Lack::Failed(Failure { kind: FailureKind::Error, what })
    })?;
    let plain = |server: &NameServerConfig| NameServer { address: (server.ip, 53).into(), tls: None };
    let nameservers: Vec<_> = system.name_servers().iter().map(plain).collect();
    Ok(servers(settings, &nameservers))
}

fn servers(settings: &config::Resolver, nameservers: &[NameServer]) -> Vec<Rc<Server>> {
    let roots = match nameservers.iter().any(|server| server.tls.is_some()) {
        true => roots(settings.authorities.as_deref()),
        false => RootCertStore::empty(),
    };
    let mut options = ResolverOpts::default();
    options.timeout = settings.timeout;
    options.max_active_requests = QUESTIONS_MAX;
    options.attempts = 1;
    let context = Arc::new(PoolContext::new(options, TlsConfig { config: client_config(roots) }));
    let server = |nameserver: &NameServer| {
        let config = NameServerConfig::new(nameserver.address.ip(), true, connections(nameserver));
        let provider = TokioRuntimeProvider::default();
        let handle = NameServerPool::from_config([config], context.clone(), provider);
        Rc::new(Server { name: nameserver.to_string(), handle })
    };
    nameservers.iter().map(server).collect()
}

/// The ways in which a name server is asked, the first one first.
fn connections(server: &NameServer) -> Vec<ConnectionConfig> {
    let protocols = match &server.tls {
        Some(name) => vec![ProtocolConfig::Tls { server_name: name.clone() }],
        None => vec![ProtocolConfig::Udp, ProtocolConfig::Tcp],
    };
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.address.port();
        connection
    };
    protocols.into_iter().map(connection).collect()
}

fn client_config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    match versions {
        Ok(builder) => builder.with_root_certificates(roots).with_no_client_auth(),
        Err(error) => unreachable!("the provider has the default versions of TLS: {error}"),
    }
}

/// Authorities that may sign certificates of name servers; those of the system unless `own` ones are given.
fn roots(own: Option<&[rustls::pki_types::CertificateDer<'static>]>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (taken, _) = match own {
        Some(own) => roots.add_parsable_certificates(own.iter().cloned()),
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    };
    if taken == 0 {
        tracing::warn!(
            "no authority is known that could sign the certificate of a name server; write resolver.ca_file"
        );
    }
    roots
}
