//! The whole system on one machine: DNS, the instances in three zones, the proxy.
//!
//! Read [`run`] first: it is the order in which things are checked, started, kept alive and stopped. Everything that can be found
//! wrong is found before the first process is started; should one fail to start nevertheless, all are stopped again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use selvedge::config::{AdminAddress, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::asg::balancer::Node;
use crate::asg::fleet::{Alive, Fleet, Site};
use crate::asg::{self, command};
use crate::cache;
use crate::cart_stores::{self, Carts};
use crate::data::Data;
use crate::databases;
use crate::dns::{Member, write_members};
use crate::proxy_config;
use crate::socket;
use crate::store::Store;
use crate::supervise::{Event, Kept, Part, Ready, ending, keep, say};
use crate::trouble::Trouble;
use crate::trust::Certificates;

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
    #[command(flatten)]
    database: databases::Options,
    #[command(flatten)]
    cache: cache::Options,
    #[command(flatten)]
    carts: cart_stores::Options,
    /// Instances speak TLS, and only with the proxy: both show certificates, which are made in the data folder
    #[arg(long, conflicts_with = "config")]
    verify_balancer: bool,
    #[command(flatten)]
    group: asg::Sizes,
    /// Port on which every instance listens, each on an address of its own (127.0.ZONE.NUMBER)
    #[arg(long, default_value_t = 9001, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Checks, starts, keeps alive until a signal comes, stops.
pub(crate) async fn run(options: Options) -> Result<(), Trouble> {
    let mut signals = Signals::new()?;
    let data = Data::prepare(options.data.as_deref())?;
    let certificates = match options.verify_balancer {
        true => Some(Certificates::prepare(&data.folder).map_err(Trouble::new)?),
        false => None,
    };
    let config_file = match &options.config {
        Some(file) => file.clone(),
        None => {
            let drain = options.group.drain;
            let addresses = (options.listen, options.admin, options.dns);
            proxy_config::write(&data.folder, addresses, drain, certificates.as_ref())?
        }
    };
    let config = proxy_config::load(&config_file)?;
    check_addresses(&options, &config)?;
    let no_cache = cache::Options::default();
    let store = Store::open(&options.database, &no_cache, &data.folder, "").await.map_err(Trouble::new)?;
    let carts = Carts::open(&options.carts.place, &data.folder, store.form_secret()).map_err(Trouble::new)?;
    carts.prepare().await.map_err(Trouble::new)?;

    let plan = Plan { program: own_program()?, config_file, config, certificates };
    let system = tokio::select! {
        system = plan.start(&options, &data.folder) => system?,
        () = signals.any() => return Ok(()),
    };
    system.announce(&data);
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
    config_file: PathBuf,
    config: Config,
    certificates: Option<Certificates>,
}

/// What runs.
struct System {
    proxy: Kept,
    instances: Fleet,
    dns: Kept,
    config: Config,
    /// Lines of the announcement: name, zone, address, process id.
    table: Vec<[String; 4]>,
}

impl Plan {
    /// Starts everything. When one part fails, the others are killed by being dropped.
    async fn start(self, options: &Options, data: &Path) -> Result<System, Trouble> {
        let alive: Alive = Arc::new(watch::Sender::new(BTreeMap::new()));
        let (feed_sender, feed) = watch::channel("[]".to_owned());
        tokio::spawn(write_members(alive.subscribe(), feed_sender));

        let dns = self.dns(options, feed);
        let dns_running = dns.start().await.map_err(Trouble::new)?;
        // Before the proxy starts, so that its first question finds them.
        let site = self.site(options, data);
        let started = Fleet::start(&options.group, site, alive).await.map_err(Trouble::new)?;
        let proxy = self.proxy();
        let proxy_running = proxy.start().await.map_err(Trouble::new)?;

        let members = started.members.iter().map(|(member, pid)| {
            [member.name.clone(), member.zone.clone(), member.address.to_string(), pid.to_string()]
        });
        let mut table: Vec<_> = members.collect();
        let listener = self.config.listeners[0].address.to_string();
        table.push(["proxy".into(), String::new(), listener, proxy_running.pid.to_string()]);
        table.push(["dns".into(), String::new(), options.dns.to_string(), dns_running.pid.to_string()]);
        let instances = started.run(Node::of(&self.config).into_iter().collect());
        if let Err(warning) = socket::listen(&command::socket_in(data), instances.wishes.clone()) {
            eprintln!("myclothes: {warning}");
        }
        Ok(System {
            proxy: keep(proxy, proxy_running, |event| say_event("proxy", &event)),
            instances,
            dns: keep(dns, dns_running, |event| say_event("dns", &event)),
            config: self.config,
            table,
        })
    }

    fn site(&self, options: &Options, data: &Path) -> Site {
        let (program, data, port) = (self.program.clone(), data.to_owned(), options.port);
        let mut more = options.database.args();
        more.extend(options.cache.args());
        more.extend(["--carts".into(), options.carts.place.to_string().into()]);
        more.extend(self.certificates.iter().flat_map(Certificates::instance_options));
        Site {
            zones: ZONES.map(str::to_owned).into(),
            member: Box::new(move |zone, number| member(zone, number, port)),
            part: Box::new(move |member| instance(&program, member, &data, &more)),
        }
    }

    fn dns(&self, options: &Options, feed: watch::Receiver<String>) -> Part {
        let args = ["dns".into(), "--address".into(), options.dns.to_string().into()].into();
        self.part("dns", args, Ready::WritesLine, Some(feed))
    }

    fn proxy(&self) -> Part {
        let args = ["edge".into(), "run".into(), "--config".into(), self.config_file.clone().into()].into();
        self.part("proxy", args, Ready::Accepts(self.config.listeners[0].address), None)
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
    fn announce(&self, data: &Data) {
        let config = &self.config;
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
        self.instances.stop().await;
        self.dns.stop().await;
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

/// The instance with this number in the zone at this place of [`ZONES`].
fn member(zone: usize, number: u8, port: u16) -> Member {
    let name = ZONES[zone];
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, zone as u8 + 1, number), port));
    Member { name: format!("{name}-{number}"), zone: name.to_owned(), address }
}

fn instance(program: &Path, member: &Member, data: &Path, more: &[OsString]) -> Part {
    let address = member.address.to_string();
    let mut args: Vec<OsString> = vec!["instance".into(), "--supervised".into()];
    args.extend(["--name", &member.name, "--zone", &member.zone, "--address", &address].map(OsString::from));
    args.extend_from_slice(more);
    args.extend(["--data".into(), data.into()]);
    Part {
        name: member.name.clone(),
        program: program.to_owned(),
        args,
        ready: Ready::WritesLine,
        feed: None,
    }
}

/// Finds out that an address is taken before anything is started.
fn check_addresses(options: &Options, config: &Config) -> Result<(), Trouble> {
    let (listen, admin) = match options.config {
        Some(_) => ("its configuration", "its configuration"),
        None => ("--listen", "--admin"),
    };
    let mut wanted = vec![("dns", options.dns, "--dns")];
    wanted.extend(config.listeners.iter().map(|listener| ("the proxy", listener.address, listen)));
    if let Some(AdminAddress::Tcp(address)) = config.admin.as_ref().map(|admin| &admin.address) {
        wanted.push(("the admin API", *address, admin));
    }
    let numbers = 1..=options.group.most();
    let places = (0..ZONES.len()).flat_map(|zone| numbers.clone().map(move |number| (zone, number)));
    let instances: Vec<_> = places.map(|(zone, number)| member(zone, number, options.port)).collect();
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
