//! One lookup: from a name to the targets that it stands for today.
//!
//! ```text
//! A, AAAA   ask ─▶ follow aliases ─▶ addresses
//! SRV       ask ─▶ services ─▶ addresses of each host: in the same answer, or known and fresh, or asked for
//! ```
//!
//! Hosts of services are looked up a few at a time and within one deadline; a host that nobody can tell of keeps the
//! addresses it had, so that one lost packet does not take a target out of a list of a thousand.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::{Name, Record, RecordType};
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tracing::warn;

use super::answer::{self, Host, Service};
use super::knowledge::Outcome;
use super::resolver::{Failure, FailureKind, Lack, Resolver};
use crate::config::{Discover, Records};
use crate::control::sources::Listed;

/// Times that a question is asked again because the answer was an alias only.
const REDIRECTIONS_MAX: usize = 4;
/// Hosts of services that are asked for at a time.
const HOSTS_AT_A_TIME: usize = 16;
/// For the hosts of one lookup together.
const HOSTS_DEADLINE: Duration = Duration::from_secs(10);
/// Targets of one name; more are left out.
pub(super) const TARGETS_MAX: usize = 4096;

/// What is known of the hosts of a name's services.
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<Name, KnownHost>);

#[derive(Debug, Clone)]
struct KnownHost {
    addresses: Vec<IpAddr>,
    fresh_until: Instant,
    /// Since when it is said to have no address.
    absent_since: Option<Instant>,
}

/// Looks a name up. `hosts` is what the last lookup of this name left.
pub(super) async fn look_up(resolver: &Rc<Resolver>, discover: &Discover, hosts: &mut Hosts) -> Outcome {
    let name = complete(&discover.dns)?;
    let (list, ttl) = match discover.records {
        Records::A { port } => addresses(resolver, discover, &name, RecordType::A, port).await?,
        Records::Aaaa { port } => addresses(resolver, discover, &name, RecordType::AAAA, port).await?,
        Records::Srv => services(resolver, discover, &name, hosts).await?,
    };
    let mut seen = HashSet::new();
    let mut list: Vec<_> = list.into_iter().filter(|listed| seen.insert(listed.address)).collect();
    if list.is_empty() {
        return Err(Lack::Empty);
    }
    if list.len() > TARGETS_MAX {
        warn!(name = &*discover.dns, found = list.len(), kept = TARGETS_MAX, "a name has too many targets");
        list.truncate(TARGETS_MAX);
    }
    list.sort_by_key(|listed| listed.address);
    Ok((list, ttl))
}

fn complete(dns: &str) -> Result<Name, Lack> {
    Name::from_ascii(format!("{dns}.")).map_err(|error| {
        let what = format!("{dns} cannot be asked for: {error}");
        Lack::Failed(Failure { kind: FailureKind::Error, what })
    })
}

async fn addresses(
    resolver: &Resolver,
    discover: &Discover,
    name: &Name,
    kind: RecordType,
    port: u16,
) -> Result<(Vec<Listed>, Duration), Lack> {
    let host = ask_host(resolver, name, kind).await?;
    Ok((host.addresses.into_iter().map(|ip| discover.listed(ip, port)).collect(), host.ttl))
}

/// Asks for the addresses of one kind, again when the answer ends in an alias.
async fn ask_host(resolver: &Resolver, name: &Name, kind: RecordType) -> Result<Host, Lack> {
    let (mut asked, mut ttl) = (name.clone(), Duration::MAX);
    for _ in 0..REDIRECTIONS_MAX {
        let host = answer::host(&resolver.ask(&asked, kind).await?.answers, &asked, kind);
        ttl = ttl.min(host.ttl);
        if !host.addresses.is_empty() || host.name == asked {
            return Ok(Host { ttl, ..host });
        }
        asked = host.name;
    }
    Err(Lack::Empty)
}

async fn services(
    resolver: &Rc<Resolver>,
    discover: &Discover,
    name: &Name,
    hosts: &mut Hosts,
) -> Result<(Vec<Listed>, Duration), Lack> {
    let (mut asked, mut ttl) = (name.clone(), Duration::MAX);
    for _ in 0..REDIRECTIONS_MAX {
        let message = resolver.ask(&asked, RecordType::SRV).await?;
        let (services, services_ttl, end) = answer::services(&message.answers, &asked);
        ttl = ttl.min(services_ttl);
        if services.is_empty() && end != asked {
            asked = end;
            continue;
        }
        let begun = Instant::now();
        let failure = hosts.follow(resolver, discover, &services, &message.additionals).await;
        let fresh = |service: &Service| hosts.0.get(&service.host).map(|host| host.fresh_until - begun);
        let ttl = services.iter().filter_map(fresh).fold(ttl, Duration::min);
        let list: Vec<_> = services
            .iter()
            .flat_map(|service| hosts.of(service).map(|ip| discover.listed_service(service, ip)))
            .take(TARGETS_MAX + 1)
            .collect();
        return match failure {
            Some(failure) if list.is_empty() => Err(Lack::Failed(failure)),
            _ => Ok((list, ttl)),
        };
    }
    Err(Lack::Empty)
}

impl Hosts {
    /// The addresses of a service's host.
    fn of(&self, service: &Service) -> impl Iterator<Item = IpAddr> {
        self.0.get(&service.host).into_iter().flat_map(|host| host.addresses.iter().copied())
    }

    /// Learns the addresses of the hosts of `services` and forgets all others. A failure is that of one of them.
    async fn follow(
        &mut self,
        resolver: &Rc<Resolver>,
        rules: &Discover,
        services: &[Service],
        additionals: &[Record],
    ) -> Option<Failure> {
        let wanted: HashSet<&Name> = services.iter().map(|service| &service.host).collect();
        self.0.retain(|name, _| wanted.contains(name));
        let mut told = by_name(additionals);
        let now = Instant::now();
        let mut unknown = Vec::new();
        for name in wanted {
            match told.remove(name) {
                Some(host) => self.learn(name.clone(), Ok(host), rules, now),
                None if self.0.get(name).is_some_and(|host| now < host.fresh_until) => {}
                None => unknown.push(name.clone()),
            }
        }
        self.ask(resolver, rules, unknown).await
    }

    async fn ask(&mut self, resolver: &Rc<Resolver>, rules: &Discover, names: Vec<Name>) -> Option<Failure> {
        let deadline = tokio::time::Instant::now() + HOSTS_DEADLINE;
        let mut names = names.into_iter();
        let mut failure = None;
        let mut asking = JoinSet::new();
        loop {
            while asking.len() < HOSTS_AT_A_TIME
                && let Some(name) = names.next()
            {
                let resolver = resolver.clone();
                asking.spawn_local(async move { (ask_any(&resolver, &name).await, name) });
            }
            match timeout_at(deadline, asking.join_next()).await {
                Ok(Some(Ok((outcome, name)))) => {
                    if let Err(Lack::Failed(failed)) = &outcome {
                        failure = Some(failed.clone());
                    }
                    self.learn(name, outcome, rules, Instant::now());
                }
                Ok(Some(Err(_))) => {}
                Ok(None) => return failure,
                Err(_) => {
                    let what = format!("the hosts of all services are not known within {HOSTS_DEADLINE:?}");
                    return Some(Failure { kind: FailureKind::Timeout, what });
                }
            }
        }
    }

    /// Takes what was said of a host; what was known remains if nobody can say, and for a while if it is said to have none.
    fn learn(&mut self, name: Name, said: Result<Host, Lack>, rules: &Discover, now: Instant) {
        match said {
            Ok(Host { addresses, ttl, .. }) if !addresses.is_empty() => {
                let fresh_until = now + ttl.clamp(rules.min_ttl, rules.max_ttl);
                self.0.insert(name, KnownHost { addresses, fresh_until, absent_since: None });
            }
            Err(Lack::Failed(_)) => {}
            Ok(_) | Err(Lack::NoName | Lack::Empty) => {
                if let Some(host) = self.0.get_mut(&name)
                    && *host.absent_since.get_or_insert(now) + rules.hold <= now
                {
                    self.0.remove(&name);
                }
            }
        }
    }
}

/// Asks for IPv4 addresses, and for IPv6 addresses if there are none.
async fn ask_any(resolver: &Resolver, name: &Name) -> Result<Host, Lack> {
    match ask_host(resolver, name, RecordType::A).await {
        Ok(host) if host.addresses.is_empty() => ask_host(resolver, name, RecordType::AAAA).await,
        Err(Lack::Empty) => ask_host(resolver, name, RecordType::AAAA).await,
        said => said,
    }
}

/// The hosts whose addresses came along with an answer.
fn by_name(additionals: &[Record]) -> HashMap<Name, Host> {
    let mut hosts = HashMap::new();
    for record in additionals.iter().filter(|record| record.record_type().is_ip_addr()) {
        let told = answer::host(std::slice::from_ref(record), &record.name, record.record_type());
        let host: &mut Host = match hosts.entry(record.name.to_lowercase()) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(told);
                continue;
            }
            std::collections::hash_map::Entry::Occupied(occupied) => occupied.into_mut(),
        };
        host.ttl = host.ttl.min(told.ttl);
        host.addresses.extend(told.addresses);
    }
    hosts
}
