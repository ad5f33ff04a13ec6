//! `cargo bench --bench dns`: how many questions a second one core answers, and what an answer costs.
//!
//! The server runs on one core and is asked by this process from another, over loopback: as fast as it answers (a window
//! of queries in flight), and at a steady 20 000 a second. Knot DNS, if it is installed, answers the same domain beside
//! it: a virtual machine's speed changes from minute to minute, so a figure alone says little.

#[path = "peers/process.rs"]
#[allow(dead_code, reason = "a module of another bench, of which this one needs a part")]
mod process;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use process::{Cores, Process};

/// What went wrong, as one line for the person who started the bench.
type Result<T> = std::result::Result<T, String>;

/// Queries in flight when the server is asked as fast as it answers.
const WINDOW: usize = 128;

/// Queries in a second when the load is steady.
const STEADY: f64 = 20_000.0;

/// After this long without an answer the queries in flight are given up.
const PATIENCE: Duration = Duration::from_millis(200);

const DOMAIN: &str = "lb.shop.test";

/// Questions answered in a second by one core, and CPU time for each.
#[derive(Parser)]
#[command(name = "dns", bin_name = "cargo bench --bench dns --")]
struct Options {
    /// Seconds of load for each figure.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Rounds; each measures everything once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A server, started.
struct Server {
    name: &'static str,
    process: Process,
    address: SocketAddr,
}

/// What is asked again and again.
struct Case {
    name: &'static str,
    query: Vec<u8>,
    /// Records that every answer must hold.
    answers: u16,
    /// A policy that only Selvedge has.
    ours_alone: bool,
    /// Queries in a second; `None` for as many as are answered.
    rate: Option<f64>,
}

/// What one load came to.
struct Figures {
    answered: u64,
    lost: u64,
    seconds: f64,
    cpu_seconds: f64,
    /// Times from query to answer, sorted.
    waits: Vec<Duration>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dns: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let cores = Cores::choose();
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let mut servers = vec![selvedge(folder.path(), &cores)?];
    match process::find_program(Path::new("knotd")) {
        Some(program) => servers.push(knot(&program, folder.path(), &cores)?),
        None => println!("knotd is not installed: Selvedge alone (apt-get install knot)"),
    }
    if let (Some(server), Some(load)) = (cores.proxy, cores.load) {
        pin_here(load)?;
        println!("server on core {server}, load on core {load}; {} s for each figure", options.seconds);
    }
    println!(
        "{:<26} {:<9} {:>10} {:>9} {:>7} {:>8} {:>8} {:>6}",
        "", "", "answers/s", "CPU µs", "busy", "p50 µs", "p99 µs", "lost"
    );
    for _ in 0..options.rounds {
        for case in cases() {
            for server in servers.iter().filter(|server| server.name == "selvedge" || !case.ours_alone) {
                let figures = load(server, &case, Duration::from_secs(options.seconds))?;
                print(&case, server, &figures);
            }
        }
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let plain = |name: &str, rtype| query(name, rtype, &[]);
    let empty = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let subnet = [&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2][..]].concat();
    let case = |name, query, answers| Case { name, query, answers, ours_alone: false, rate: None };
    vec![
        case("8 addresses of 8", query(DOMAIN, 1, &empty), 8),
        case("no such name", plain(&format!("no.{DOMAIN}"), 1), 0),
        Case { ours_alone: true, ..case("1 by weight", plain(&format!("one.{DOMAIN}"), 1), 1) },
        Case {
            ours_alone: true,
            ..case("nearest zone by subnet", query(&format!("near.{DOMAIN}"), 1, &subnet), 4)
        },
        Case { rate: Some(STEADY), ..case("8 of 8, 20 000/s steady", query(DOMAIN, 1, &empty), 8) },
    ]
}

/// A query without an identifier; `opt` is the record for EDNS, if any.
fn query(name: &str, rtype: u16, opt: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend([rtype.to_be_bytes(), [0, 1]].concat());
    bytes.extend(opt);
    bytes
}

/// Puts `case` to `server` for as long as `span`.
fn load(server: &Server, case: &Case, span: Duration) -> Result<Figures> {
    let failed = |error: std::io::Error| format!("asking {}: {error}", server.name);
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
    socket.connect(server.address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let before = server.process.cpu()?;
    let begun = Instant::now();
    // When the query with this identifier was sent; `None` when it is not in flight.
    let mut sent: Vec<Option<Instant>> = vec![None; 1 << 16];
    let (mut next, mut in_flight, mut last, mut lost) = (0u16, 0usize, begun, 0u64);
    let mut waits = Vec::new();
    let mut query = case.query.clone();
    let mut answer = [0; 2048];
    while begun.elapsed() < span {
        let due = case.rate.map_or(u64::MAX, |rate| (begun.elapsed().as_secs_f64() * rate) as u64);
        while in_flight < WINDOW && waits.len() as u64 + lost + (in_flight as u64) < due {
            query[..2].copy_from_slice(&next.to_be_bytes());
            if socket.send(&query).is_err() {
                break;
            }
            sent[usize::from(next)] = Some(Instant::now());
            (next, in_flight) = (next.wrapping_add(1), in_flight + 1);
        }
        while let Ok(length) = socket.recv(&mut answer) {
            check(&answer[..length], case)?;
            last = Instant::now();
            let id = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
            if let Some(then) = sent[id].take() {
                waits.push(last - then);
                in_flight -= 1;
            }
        }
        if in_flight > 0 && last.elapsed() > PATIENCE {
            sent.fill(None);
            (lost, in_flight, last) = (lost + in_flight as u64, 0, Instant::now());
        } else if in_flight == 0 {
            last = Instant::now();
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = server.process.cpu()?;
    waits.sort();
    Ok(Figures {
        answered: waits.len() as u64,
        lost,
        seconds,
        cpu_seconds: after.user + after.sys - before.user - before.sys,
        waits,
    })
}

fn check(answer: &[u8], case: &Case) -> Result<()> {
    let good = answer.len() > 12
        && answer[2] & 0x80 != 0
        && u16::from_be_bytes([answer[6], answer[7]]) == case.answers;
    if good { Ok(()) } else { Err(format!("{}: a wrong answer: {answer:?}", case.name)) }
}

fn print(case: &Case, server: &Server, figures: &Figures) {
    let Figures { answered, lost, seconds, cpu_seconds, waits } = figures;
    let quantile = |q: f64| {
        let index = ((waits.len() as f64 * q) as usize).min(waits.len().saturating_sub(1));
        waits.get(index).map_or(0, Duration::as_micros)
    };
    println!(
        "{:<26} {:<9} {:>10.0} {:>9.2} {:>6.0}% {:>8} {:>8} {:>6}",
        case.name,
        server.name,
        *answered as f64 / seconds,
        cpu_seconds * 1e6 / (*answered).max(1) as f64,
        cpu_seconds / seconds * 100.0,
        quantile(0.5),
        quantile(0.99),
        lost
    );
}

fn selvedge(folder: &Path, cores: &Cores) -> Result<Server> {
    let nodes: String = (1..=8)
        .map(|number| {
            let zone = if number % 2 == 0 { "az-a" } else { "az-b" };
            format!("[[dns.node]]\nipv4 = \"192.0.2.{number}\"\nzone = \"{zone}\"\nweight = {number}\n")
        })
        .collect();
    let address = free_address()?;
    let text = format!(
        "workers = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [dns]\naddresses = [\"{address}\"]\ndomain = \"{DOMAIN}\"\nrate_limit.responses = \"off\"\n\
         health.enabled = false\n[[dns.name_server]]\nname = \"ns.shop.test\"\n\
         [[dns.name]]\nname = \"{DOMAIN}\"\n\
         [[dns.name]]\nname = \"one.{DOMAIN}\"\npolicy = \"weighted\"\n\
         [[dns.name]]\nname = \"near.{DOMAIN}\"\npolicy = \"nearest\"\n\
         [[dns.nearest]]\nzone = \"az-a\"\nsubnets = [\"10.1.0.0/16\"]\n{nodes}"
    );
    let file = write(folder, "selvedge.toml", &text)?;
    let program = Path::new(env!("CARGO_BIN_EXE_selvedge"));
    let log = folder.join("selvedge.log");
    let process = Process::spawn("selvedge", program, &["run", "--config", &file], cores.proxy, log)?;
    started(Server { name: "selvedge", process, address })
}

fn knot(program: &Path, folder: &Path, cores: &Cores) -> Result<Server> {
    let addresses: String = (1..=8).map(|number| format!("@ 10 A 192.0.2.{number}\n")).collect();
    let zone = format!(
        "$ORIGIN {DOMAIN}.\n@ 3600 SOA ns.shop.test. hostmaster 1 7200 900 1209600 60\n@ 3600 NS ns.shop.test.\n{addresses}"
    );
    write(folder, "zone", &zone)?;
    let (address, path) = (free_address()?, folder.display());
    let text = format!(
        "server:\n  listen: {}@{}\n  rundir: {path}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {path}\n\
         zone:\n  - domain: {DOMAIN}\n    file: {path}/zone\n    zonefile-sync: -1\n    journal-content: none\n",
        address.ip(),
        address.port()
    );
    let file = write(folder, "knot.conf", &text)?;
    let process = Process::spawn("knot", program, &["-c", &file], cores.proxy, folder.join("knot.log"))?;
    started(Server { name: "knot", process, address })
}

/// Waits until the server answers.
fn started(mut server: Server) -> Result<Server> {
    let failed = |error: std::io::Error| format!("asking {}: {error}", server.name);
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
    socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(failed)?;
    let deadline = Instant::now() + Duration::from_secs(15);
    let query = query(DOMAIN, 1, &[]);
    while Instant::now() < deadline {
        server.process.check_alive()?;
        let mut answer = [0; 512];
        let sent = socket.send_to(&query, server.address);
        if sent.is_ok() && socket.recv(&mut answer).is_ok_and(|length| length > 12) && answer[3] & 15 == 0 {
            return Ok(server);
        }
    }
    Err(format!("{} does not answer", server.name))
}

fn free_address() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    socket.map_err(|error| format!("no free port: {error}"))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<String> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(path.display().to_string())
}

/// Keeps this process on `core`, by taskset as its children are.
fn pin_here(core: usize) -> Result<()> {
    let (core, own) = (core.to_string(), std::process::id().to_string());
    let output = std::process::Command::new("taskset").args(["-cp", &core, &own]).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("taskset: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("taskset (of util-linux): {error}")),
    }
}
