//! `cargo bench --bench peers`: the same work through Selvedge, nginx and HAProxy, side by side.
//!
//! Each proxy runs with one worker on one core; the load (wrk) and the origin share another. What counts is the
//! proxy's CPU time per completed request, compared inside a round and never across rounds, because a shared or
//! virtual machine is faster in one minute than in the next. `benches/README.md` explains every figure.
//!
//! It tunes nothing: a proxy's configuration is what `--show-configs` prints.

mod client;
mod handshakes;
mod haproxy;
mod load;
mod nginx;
mod origin;
mod process;
mod proxy;
mod report;
mod selvedge;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use load::Load;
use process::{Cores, Process};
use proxy::{Proxy, Running, Setup};
use report::{Idle, Report, Round};

/// What went wrong, as one line for the person who started the bench.
type Result<T> = std::result::Result<T, String>;

/// The same work through Selvedge, nginx and HAProxy: CPU time per request, latency, memory.
#[derive(Parser)]
#[command(name = "peers", bin_name = "cargo bench --bench peers --")]
struct Options {
    /// Rounds of each scenario; every round measures every proxy once, in rotated order.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load on one proxy in one round.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// 3 rounds of 1 second: a first look, not a figure to quote.
    #[arg(long)]
    quick: bool,
    /// Only this scenario; may be given several times. Default: all.
    #[arg(long, value_name = "NAME")]
    scenario: Vec<Scenario>,
    /// With sessions (every client carries its cookie), without, or both.
    #[arg(long, default_value = "both")]
    sessions: Sessions,
    /// Only this proxy (selvedge, nginx, haproxy, baseline); may be given several times. Default: all.
    #[arg(long, value_name = "NAME")]
    proxy: Vec<String>,
    /// A second Selvedge binary to compare with, such as the one built before a change.
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// nginx's program. Default: Debian's package.
    #[arg(long, value_name = "PATH", default_value = "nginx")]
    nginx: PathBuf,
    /// HAProxy's program. Default: Debian's package.
    #[arg(long, value_name = "PATH", default_value = "haproxy")]
    haproxy: PathBuf,
    /// Print the proxies' configurations and stop.
    #[arg(long)]
    show_configs: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the clients do.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// 1 KiB answers, 64 keep-alive connections.
    #[value(name = "get-1k")]
    Get1k,
    /// 1 KiB answers, a connection for each request, 64 at a time.
    #[value(name = "close")]
    Close,
    /// 64 KiB answers, 64 keep-alive connections.
    #[value(name = "get-64k")]
    Get64k,
    /// 1 MiB answers, 16 keep-alive connections.
    #[value(name = "get-1m")]
    Get1m,
    /// 4 KiB request bodies, 1 KiB answers, 64 keep-alive connections.
    #[value(name = "post-4k")]
    Post4k,
    /// 1 KiB answers over TLS, 64 keep-alive connections.
    #[value(name = "tls-get-1k")]
    TlsGet1k,
    /// 1 MiB answers over TLS, 16 keep-alive connections.
    #[value(name = "tls-get-1m")]
    TlsGet1m,
    /// A full TLS 1.3 handshake (P-256, X25519) for each 1 KiB answer, 16 at a time.
    #[value(name = "tls-full")]
    TlsFull,
    /// A resumed TLS 1.3 handshake for each 1 KiB answer, 16 at a time.
    #[value(name = "tls-resumed")]
    TlsResumed,
    /// 1 KiB answers over HTTP/2 and TLS, 8 connections with 32 streams each, all of one session.
    #[value(name = "tls-h2")]
    TlsH2,
    /// As `get-1k`, Selvedge with an access log beside Selvedge without. Not among all: ask for it, alone.
    #[value(name = "access-log")]
    AccessLog,
    /// 4000 connections, one request on each, all at once, then idle.
    #[value(name = "idle")]
    Idle,
}

/// Whether clients have sessions.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sessions {
    /// Every client carries a cookie of its own; nginx, which has no sticky sessions, runs without.
    On,
    /// No cookies anywhere.
    Off,
    /// First on, then off.
    Both,
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(origin::ARGUMENT)) {
        return finish(origin::run());
    }
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(handshakes::ARGUMENT)) {
        return finish(handshakes::run());
    }
    let options = Options::parse();
    if !options.bench && !options.show_configs {
        println!("peers: nothing to test here; it measures under `cargo bench --bench peers`");
        return ExitCode::SUCCESS;
    }
    finish(run(&options))
}

fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The whole run, in order.
fn run(options: &Options) -> Result<()> {
    let files = process::raise_open_files()?;
    let folder = tempfile::Builder::new()
        .prefix("selvedge-peers-")
        .tempdir()
        .map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let proxies = proxies(options)?;
    let modes: &[bool] = match options.sessions {
        Sessions::On => &[true],
        Sessions::Off => &[false],
        Sessions::Both => &[true, false],
    };
    let cores = Cores::choose();
    handshakes::write_certificate(folder.path())?;
    let bench =
        Bench { folder: folder.path(), cores, files, proxies, targets: origin::free_addresses()?, modes };
    if options.show_configs {
        return bench.show_configs();
    }
    let wrk = process::find_program(Path::new("wrk"));
    let scenarios: Vec<Scenario> = match (&wrk, options.scenario.as_slice()) {
        (None, _) => {
            println!(
                "wrk: not found, only idle connections are measured; install it with `apt-get install wrk`"
            );
            vec![Scenario::Idle]
        }
        (Some(_), []) => {
            Scenario::value_variants().iter().copied().filter(|one| *one != Scenario::AccessLog).collect()
        }
        (Some(_), some) => some.to_vec(),
    };
    println!("{}", bench.cores);
    for proxy in &bench.proxies {
        println!("{:<9} {}", proxy.name, proxy.version);
    }

    let _origin = bench.start_origin()?;
    let (rounds, seconds) = if options.quick { (3, 1) } else { (options.rounds, options.seconds) };
    let mut report = Report::default();
    for &sessions in bench.modes {
        if let Some(wrk) = &wrk {
            bench.measure_load(
                wrk,
                &scenarios,
                sessions,
                rounds,
                Duration::from_secs(seconds),
                &mut report,
            )?;
        }
        if scenarios.contains(&Scenario::Idle) {
            bench.measure_idle(sessions, &mut report)?;
        }
    }
    report.print_summary();
    report.verdict()
}

/// The proxies that can be measured here; those that can't are named, with what to install.
fn proxies(options: &Options) -> Result<Vec<Proxy>> {
    if options.scenario.contains(&Scenario::AccessLog) {
        if options.scenario.len() > 1 || !options.proxy.is_empty() || options.baseline.is_some() {
            return Err("access-log compares Selvedge with itself: give --scenario access-log alone, without --proxy and \
                        --baseline"
                .into());
        }
        let program = Path::new(selvedge::BINARY);
        return Ok(vec![
            selvedge::with_access_log("selvedge", program)?,
            selvedge::find("baseline", program)?,
        ]);
    }
    let candidates = [
        Some(selvedge::find("selvedge", Path::new(selvedge::BINARY))),
        options.baseline.as_ref().map(|path| selvedge::find("baseline", path)),
        Some(nginx::find(&options.nginx)),
        Some(haproxy::find(&options.haproxy)),
    ];
    let wanted = |name: &str| options.proxy.is_empty() || options.proxy.iter().any(|other| other == name);
    let mut found = Vec::new();
    for candidate in candidates.into_iter().flatten() {
        match candidate {
            Ok(proxy) if wanted(proxy.name) => found.push(proxy),
            Ok(_) => {}
            Err(missing) => println!("{missing}"),
        }
    }
    if found.is_empty() { Err("no proxy to measure".into()) } else { Ok(found) }
}

/// What stays the same over a run.
struct Bench<'a> {
    folder: &'a Path,
    cores: Cores,
    /// Files that one process may open.
    files: u64,
    proxies: Vec<Proxy>,
    targets: Vec<std::net::SocketAddr>,
    /// Sessions on, off, or first the one and then the other.
    modes: &'a [bool],
}

impl Bench<'_> {
    fn show_configs(&self) -> Result<()> {
        for proxy in &self.proxies {
            for &sessions in self.modes {
                let setup = self.setup(proxy, sessions)?;
                let state = if sessions { "on" } else { "off" };
                println!("# {}, sessions {state}\n{}", proxy.name, (proxy.config)(&setup));
            }
        }
        Ok(())
    }

    fn setup(&self, proxy: &Proxy, sessions: bool) -> Result<Setup> {
        let state = if sessions { "on" } else { "off" };
        let folder = self.folder.join(format!("{}-sessions-{state}", proxy.name));
        Setup::new(folder, self.folder, self.targets.clone(), sessions, self.files)
    }

    fn start_origin(&self) -> Result<Process> {
        let program =
            std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let mut arguments = vec![origin::ARGUMENT.to_owned()];
        arguments.extend(self.targets.iter().map(ToString::to_string));
        let log = self.folder.join("origin.log");
        let mut origin = Process::spawn("origin", &program, &arguments, self.cores.load, log)?;
        for &target in &self.targets {
            client::wait_until_it_answers(target, &mut origin)?;
        }
        Ok(origin)
    }

    fn start_proxy(&self, proxy: &Proxy, sessions: bool) -> Result<Running> {
        let running = proxy.start(&self.setup(proxy, sessions)?, self.cores.proxy)?;
        client::check_answers(running.address).map_err(|error| format!("{}: {error}", proxy.name))?;
        Ok(running)
    }

    /// All proxies run at once, but only one of them has load at any time.
    fn measure_load(
        &self,
        wrk: &Path,
        scenarios: &[Scenario],
        sessions: bool,
        rounds: u32,
        length: Duration,
        report: &mut Report,
    ) -> Result<()> {
        let scenarios: Vec<Scenario> =
            scenarios.iter().copied().filter(|&one| one != Scenario::Idle).collect();
        if scenarios.is_empty() {
            return Ok(());
        }
        let mut running = Vec::new();
        for proxy in &self.proxies {
            let one = self.start_proxy(proxy, sessions)?;
            let cookies = client::cookies(one.address, sessions && proxy.sticky)
                .map_err(|error| format!("{}: {error}", proxy.name))?;
            running.push((one, cookies));
        }
        for &scenario in &scenarios {
            let mut loads = Vec::new();
            for (proxy, cookies) in &running {
                let load = Load::new(wrk, scenario, proxy, cookies, self.cores.load, self.folder)?;
                load.run(Duration::from_secs(1))?;
                loads.push(load);
            }
            let mut table = Vec::new();
            // A disturbed round is repeated, as long as there is hope that the machine calms down.
            for turn in 0..rounds as usize * ATTEMPTS {
                table.push(self.measure_round(&running, &loads, turn, length)?);
                if table.iter().filter(|row| disturbance(row) <= QUIET).count() == rounds as usize {
                    break;
                }
            }
            let taken = table.len();
            table.sort_by(|a, b| disturbance(a).total_cmp(&disturbance(b)));
            table.truncate(rounds as usize);
            let names: Vec<_> = running.iter().map(|(proxy, _)| proxy.name).collect();
            report.add_load(
                scenario,
                sessions,
                &format!("{rounds} of {taken} rounds of {} s", length.as_secs()),
                &names,
                &table,
            );
        }
        Ok(())
    }

    /// Load on one proxy after the other; who comes first changes from turn to turn. The figures are in the proxies' order.
    fn measure_round(
        &self,
        running: &[(Running, Vec<String>)],
        loads: &[Load],
        turn: usize,
        length: Duration,
    ) -> Result<Vec<Round>> {
        let count = loads.len();
        let mut row = Vec::with_capacity(count);
        for place in 0..count {
            let index = (place + turn) % count;
            row.push((index, loads[index].measure(&running[index].0.process, self.cores.proxy, length)?));
        }
        row.sort_by_key(|(index, _)| *index);
        Ok(row.into_iter().map(|(_, round)| round).collect())
    }

    /// One proxy at a time, each in a fresh process.
    fn measure_idle(&self, sessions: bool, report: &mut Report) -> Result<()> {
        let mut results = Vec::new();
        for proxy in &self.proxies {
            let running = self.start_proxy(proxy, sessions)?;
            let connections = client::idle_connections(self.files);
            let before = client::settled_rss(&running.process)?;
            let held = client::open_idle(running.address, connections)
                .map_err(|error| format!("{}: {error}", proxy.name))?;
            let after = client::settled_rss(&running.process)?;
            drop(held);
            results.push((proxy.name, Idle { connections, before, after }));
        }
        report.add_idle(sessions, results);
        Ok(())
    }
}

/// Rounds that are taken at most for each one that is asked for, in the hope of undisturbed ones.
const ATTEMPTS: usize = 3;

/// Share of the proxy's core that others may use in an undisturbed round: interrupts and the kernel's own threads.
const QUIET: f64 = 0.06;

/// The most that others used of the proxies' core in one round; nothing if a request failed, so that the round counts.
fn disturbance(row: &[Round]) -> f64 {
    let failed = row.iter().any(|round| round.errors > 0);
    if failed { 0.0 } else { row.iter().filter_map(|round| round.others).fold(0.0, f64::max) }
}
