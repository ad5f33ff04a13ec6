//! The whole system on one machine: DNS, the instances in three zones, the proxy.
//!
//! Read [`run`] first: it is the order in which things are checked, started, kept alive and stopped. Everything that can be found
//! wrong is found before the first process is started; should one fail to start nevertheless, all are stopped again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use selvedge::config::{AdminAddress, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::data::Data;
use crate::dns::Member;
use crate::proxy_config;
use crate::store::Store;
use crate::supervise::{Event, Kept, Part, Ready, Running, keep};
use crate::trouble::Trouble;

/// Availability zones; the third number of the addresses of the first is 1, of the second 2, and so on.
const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];

/// Options of `myclothes` without a subcommand.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Folder for the shop's database, the session keys and the proxy's configuration [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the proxy takes requests
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the proxy's admin API and dashboard listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900")]
    admin: SocketAddr,
    /// The proxy's configuration, used as it is, in place of config/myclothes.toml with addresses filled in
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "admin"])]
    config: Option<PathBuf>,
    /// Where DNS for the instances answers
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5353")]
    dns: SocketAddr,
    /// Shop instances in each of the three zones
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    instances_per_zone: u8,
    /// Port on which every instance listens, each on an address of its own (127.0.ZONE.NUMBER)
    #[arg(long, default_value_t = 9001, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Checks, starts, keeps alive until a signal comes, stops.
pub(crate) async fn run(options: Options) -> Result<(), Trouble> {
    let mut signals = Signals::new()?;
    let data = Data::prepare(options.data.as_deref())?;
    let instances = instances(&options);
    let config_file = match &options.config {
        Some(file) => file.clone(),
        None => proxy_config::write(&data.folder, options.listen, options.admin, options.dns)?,
    };
    let config = proxy_config::load(&config_file)?;
    check_addresses(&options, &config, &instances)?;
    Store::open(&data.folder).map_err(|error| {
        Trouble::new(format!("the database in {} cannot be used: {error}", data.folder.display()))
    })?;

    let plan = Plan { program: own_program()?, instances, config_file, proxy: config.listeners[0].address };
    let system = tokio::select! {
        system = plan.start(&options, &data.folder) => system?,
        () = signals.any() => return Ok(()),
    };
    system.announce(&config, &data);
    signals.any().await;
    say("Stopping; Ctrl-C once more kills.");
    tokio::select! {
        () = system.stop() => {}
        () = signals.any() => {}
    }
    Ok(())
}

/// What is going to run.
struct Plan {
    program: PathBuf,
    instances: Vec<Member>,
    config_file: PathBuf,
    proxy: SocketAddr,
}

/// What runs.
struct System {
    proxy: Kept,
    instances: Vec<Kept>,
    dns: Kept,
    /// Lines of the announcement: name, zone, address, process id.
    table: Vec<[String; 4]>,
}

/// The instances that are alive, by name.
type Alive = Arc<watch::Sender<BTreeMap<String, Member>>>;

impl Plan {
    /// Starts everything. When one part fails, the others are killed by being dropped.
    async fn start(self, options: &Options, data: &Path) -> Result<System, Trouble> {
        let alive: Alive = Arc::new(watch::Sender::new(BTreeMap::new()));
        let (feed_sender, feed) = watch::channel("[]".to_owned());
        tokio::spawn(write_members(alive.subscribe(), feed_sender));

        let dns = self.dns(options, feed);
        let dns_running = dns.start().await.map_err(Trouble::new)?;
        let mut starting = tokio::task::JoinSet::new();
        for (place, member) in self.instances.iter().enumerate() {
            let part = self.instance(member, data);
            starting.spawn(async move { (place, part.start().await, part) });
        }
        let mut started: Vec<(usize, Part, Running)> = Vec::new();
        while let Some(outcome) = starting.join_next().await {
            let (place, running, part) = outcome.map_err(|panic| Trouble::new(panic.to_string()))?;
            started.push((place, part, running.map_err(Trouble::new)?));
            // Before the proxy starts, so that its first question finds them.
            let member = &self.instances[place];
            alive.send_modify(|alive| drop(alive.insert(member.name.clone(), member.clone())));
        }
        started.sort_by_key(|(place, ..)| *place);
        let proxy = self.proxy();
        let proxy_running = proxy.start().await.map_err(Trouble::new)?;

        let mut table = Vec::new();
        let mut instances = Vec::new();
        for (place, part, running) in started {
            let member = self.instances[place].clone();
            table.push([
                member.name.clone(),
                member.zone.clone(),
                member.address.to_string(),
                running.pid.to_string(),
            ]);
            instances.push(keep(part, running, instance_events(member, Arc::clone(&alive))));
        }
        table.push(["proxy".into(), String::new(), self.proxy.to_string(), proxy_running.pid.to_string()]);
        table.push(["dns".into(), String::new(), options.dns.to_string(), dns_running.pid.to_string()]);
        Ok(System {
            proxy: keep(proxy, proxy_running, |event| say_event("proxy", &event)),
            instances,
            dns: keep(dns, dns_running, |event| say_event("dns", &event)),
            table,
        })
    }

    fn dns(&self, options: &Options, feed: watch::Receiver<String>) -> Part {
        let args = ["dns".into(), "--address".into(), options.dns.to_string().into()].into();
        self.part("dns", args, Ready::WritesLine, Some(feed))
    }

    fn instance(&self, member: &Member, data: &Path) -> Part {
        let address = member.address.to_string();
        let mut args: Vec<OsString> = vec!["instance".into(), "--supervised".into()];
        args.extend(
            ["--name", &member.name, "--zone", &member.zone, "--address", &address].map(OsString::from),
        );
        args.extend(["--data".into(), data.into()]);
        self.part(&member.name, args, Ready::WritesLine, None)
    }

    fn proxy(&self) -> Part {
        let args = ["edge".into(), "run".into(), "--config".into(), self.config_file.clone().into()].into();
        self.part("proxy", args, Ready::Accepts(self.proxy), None)
    }

    fn part(
        &self,
        name: &str,
        args: Vec<OsString>,
        ready: Ready,
        feed: Option<watch::Receiver<String>>,
    ) -> Part {
        Part { name: name.to_owned(), program: self.program.clone(), args, ready, feed }
    }
}

impl System {
    fn announce(&self, config: &Config, data: &Data) {
        say("\nMyClothes is open.\n");
        for listener in &config.listeners {
            say(format_args!("  {:<11}http://{}/", "shop", listener.address));
        }
        match config.admin.as_ref().map(|admin| &admin.address) {
            Some(AdminAddress::Tcp(address)) => say(format_args!("  {:<11}http://{address}/", "dashboard")),
            Some(AdminAddress::Unix(path)) => say(format_args!("  {:<11}unix:{}", "admin", path.display())),
            None => {}
        }
        let fate = if data.temporary.is_some() { " (removed at the end)" } else { "" };
        say(format_args!("  {:<11}{}{fate}\n", "data", data.folder.display()));
        say(format_args!("  {:<11}{:<6}{:<18}process", "", "zone", "address"));
        for [name, zone, address, pid] in &self.table {
            say(format_args!("  {name:<11}{zone:<6}{address:<18}{pid}"));
        }
        say("\nKill any of them, it comes back. Ctrl-C stops everything.\n");
    }

    /// From the outside in: the proxy finishes its requests while the instances still serve.
    async fn stop(self) {
        self.proxy.stop().await;
        let mut stopping: tokio::task::JoinSet<()> = self.instances.into_iter().map(Kept::stop).collect();
        while stopping.join_next().await.is_some() {}
        self.dns.stop().await;
    }
}

/// Keeps the list of the living and tells the person who watches.
fn instance_events(member: Member, alive: Alive) -> impl FnMut(Event) + Send + 'static {
    move |event| {
        alive.send_modify(|alive| match event {
            Event::Died(_) | Event::StartFailed(_) => drop(alive.remove(&member.name)),
            Event::Replaced { .. } => drop(alive.insert(member.name.clone(), member.clone())),
        });
        say_event(&member.name, &event);
    }
}

fn say_event(name: &str, event: &Event) {
    match event {
        Event::Died(status) => say(format_args!("{name} ended: {}", ending(*status))),
        Event::Replaced { pid, after } => {
            say(format_args!("{name} is back after {} ms as process {pid}", after.as_millis()));
        }
        Event::StartFailed(reason) => say(format_args!("{reason}; it will be tried again")),
    }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("it exited with status {code}"),
        (None, None) => status.to_string(),
    }
}

/// Turns the list of the living into the lines that the DNS process reads.
async fn write_members(mut alive: watch::Receiver<BTreeMap<String, Member>>, feed: watch::Sender<String>) {
    while alive.changed().await.is_ok() {
        let members: Vec<Member> = alive.borrow_and_update().values().cloned().collect();
        match serde_json::to_string(&members) {
            Ok(line) => drop(feed.send_replace(line)),
            Err(error) => unreachable!("names and addresses are JSON: {error}"),
        }
    }
}

fn instances(options: &Options) -> Vec<Member> {
    let places = (1..)
        .zip(ZONES)
        .flat_map(|(net, zone)| (1..=options.instances_per_zone).map(move |n| (net, zone, n)));
    places
        .map(|(net, zone, number)| Member {
            name: format!("{zone}-{number}"),
            zone: zone.to_owned(),
            address: SocketAddr::from((Ipv4Addr::new(127, 0, net, number), options.port)),
        })
        .collect()
}

/// Finds out that an address is taken before anything is started.
fn check_addresses(options: &Options, config: &Config, instances: &[Member]) -> Result<(), Trouble> {
    let (listen, admin) = match options.config {
        Some(_) => ("its configuration", "its configuration"),
        None => ("--listen", "--admin"),
    };
    let mut wanted = vec![("dns", options.dns, "--dns")];
    wanted.extend(config.listeners.iter().map(|listener| ("the proxy", listener.address, listen)));
    if let Some(AdminAddress::Tcp(address)) = config.admin.as_ref().map(|admin| &admin.address) {
        wanted.push(("the admin API", *address, admin));
    }
    wanted.extend(instances.iter().map(|member| (&*member.name, member.address, "--port")));
    let taken = |what, address, error: std::io::Error, option| {
        Trouble::new(format!("{what} cannot listen on {address}: {error}; choose another with {option}"))
    };
    let _udp = UdpSocket::bind(options.dns).map_err(|error| taken("dns", options.dns, error, "--dns"))?;
    // All are held until the last is tried, so that two parts with one address are found too.
    let mut held = Vec::new();
    for (what, address, option) in wanted {
        if address.port() == 0 {
            return Err(Trouble::new(format!("{what} needs a port other than 0; choose one with {option}")));
        }
        held.push(TcpListener::bind(address).map_err(|error| taken(what, address, error, option))?);
    }
    Ok(())
}

fn own_program() -> Result<PathBuf, Trouble> {
    std::env::current_exe().map_err(|error| Trouble::new(format!("this program cannot find itself: {error}")))
}

/// The signals that mean "stop": Ctrl-C, SIGTERM, the end of the terminal.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn new() -> Result<Self, Trouble> {
        let listen = |kind| {
            signal(kind).map_err(|error| Trouble::new(format!("signals cannot be listened to: {error}")))
        };
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Completes when one of them comes.
    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// A line for the person who watches; nobody may be watching any more.
fn say(line: impl Display) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
