//! Load: wrk with one thread (or `handshakes`, where each request needs one, or h2load for HTTP/2), and what it and the kernel
//! say of a proxy under it.
//!
//! The requests, one for each cookie, are formatted once before the load starts; the script only hands them out in
//! turn. Reading cookies from answers inside wrk would cost more than the proxies do. All proxies get the same
//! script, so that the load's own cost is alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{self, Process};
use crate::proxy::Running;
use crate::report::Round;
use crate::{Result, Scenario, handshakes};

/// One scenario against one proxy, ready to run.
pub(crate) struct Load {
    /// wrk, or this program.
    program: PathBuf,
    arguments: Vec<String>,
    core: Option<usize>,
    log: PathBuf,
    /// Where h2load writes each request's time.
    times: Option<PathBuf>,
}

/// What wrk counted.
pub(crate) struct Counts {
    requests: f64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
    errors: u64,
}

impl Load {
    /// Writes the script. No cookies: one request without any, again and again.
    pub(crate) fn new(
        wrk: &Path,
        scenario: Scenario,
        proxy: &Running,
        cookies: &[String],
        core: Option<usize>,
        folder: &Path,
    ) -> Result<Self> {
        let file = folder.join(format!("{}.lua", proxy.name));
        fs::write(&file, script(scenario, cookies))
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        let log = folder.join("load.log");
        if let Scenario::TlsFull | Scenario::TlsResumed = scenario {
            let program =
                std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
            let arguments = handshakes::arguments(proxy.tls, folder, scenario == Scenario::TlsResumed);
            return Ok(Self { program, arguments, core, log, times: None });
        }
        if scenario == Scenario::TlsH2 {
            return Self::over_http2(proxy, cookies, core, folder, log);
        }
        let connections = if matches!(scenario, Scenario::Get1m | Scenario::TlsGet1m) { 16 } else { 64 };
        let url = match scenario {
            Scenario::TlsGet1k | Scenario::TlsGet1m => format!("https://{}/", proxy.tls),
            _ => format!("http://{}/", proxy.address),
        };
        let arguments = vec![
            "--threads=1".into(),
            format!("--connections={connections}"),
            "--latency".into(),
            "--script".into(),
            file.display().to_string(),
            url,
        ];
        Ok(Self { program: wrk.into(), arguments, core, log, times: None })
    }

    /// h2load: it sends the same fields with every request, so all requests are of one session.
    fn over_http2(
        proxy: &Running,
        cookies: &[String],
        core: Option<usize>,
        folder: &Path,
        log: PathBuf,
    ) -> Result<Self> {
        let missing = || "tls-h2: h2load not found; `apt-get install nghttp2-client`".to_owned();
        let program = process::find_program(Path::new("h2load")).ok_or_else(missing)?;
        let times = folder.join("h2load.times");
        let mut arguments: Vec<String> =
            ["--threads=1", "--clients=8", "--max-concurrent-streams=32"].map(str::to_owned).into();
        arguments.push(format!("--log-file={}", times.display()));
        if let Some(cookie) = cookies.first() {
            arguments.push(format!("--header=cookie: {cookie}"));
        }
        arguments.push(format!("https://{}/1k", proxy.tls));
        Ok(Self { program, arguments, core, log, times: Some(times) })
    }

    /// Runs it for `length`.
    pub(crate) fn run(&self, length: Duration) -> Result<Counts> {
        if let Some(times) = &self.times {
            // It is added to otherwise.
            let _ = fs::remove_file(times);
        }
        let mut arguments = self.arguments.clone();
        arguments.push(format!("--duration={}s", length.as_secs()));
        let load = Process::spawn("load", &self.program, &arguments, self.core, self.log.clone())?;
        let output = load.output(length + Duration::from_secs(30))?;
        if let Some(times) = &self.times {
            return Counts::of_h2load(times, length);
        }
        Counts::parse(&output).ok_or_else(|| format!("the load's answer is not understood:\n{output}"))
    }

    /// Runs it for `length` and charges the CPU time that `proxy` used meanwhile to the requests it answered.
    pub(crate) fn measure(
        &self,
        proxy: &Process,
        proxy_core: Option<usize>,
        length: Duration,
    ) -> Result<Round> {
        let core_busy = || proxy_core.and_then(process::core_busy);
        let (cpu_before, core_before) = (proxy.cpu()?, core_busy());
        let counts = self.run(length)?;
        let (cpu_after, core_after) = (proxy.cpu()?, core_busy());
        let (user, sys) = (cpu_after.user - cpu_before.user, cpu_after.sys - cpu_before.sys);
        if counts.requests < 1.0 {
            return Err("no request was answered".into());
        }
        Ok(Round {
            rate: counts.requests / counts.seconds,
            user_us: user * 1e6 / counts.requests,
            sys_us: sys * 1e6 / counts.requests,
            p50_us: counts.p50_us,
            p99_us: counts.p99_us,
            busy: (user + sys) / counts.seconds,
            others: core_before
                .zip(core_after)
                .map(|(before, after)| (after - before - user - sys).max(0.0) / counts.seconds),
            errors: counts.errors,
        })
    }
}

impl Counts {
    /// The line that the script's `done` prints.
    fn parse(output: &str) -> Option<Self> {
        let line = output.lines().find_map(|line| line.strip_prefix("counts "))?;
        let numbers: Vec<f64> =
            line.split(' ').map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        let [requests, microseconds, p50_us, p99_us, errors] = numbers[..] else { return None };
        Some(Self { requests, seconds: microseconds / 1e6, p50_us, p99_us, errors: errors as u64 })
    }

    /// h2load's file: a line for each request with its start, status and time in microseconds.
    fn of_h2load(file: &Path, length: Duration) -> Result<Self> {
        let text = fs::read_to_string(file).map_err(|error| format!("h2load left no times: {error}"))?;
        let rows = text.lines().filter_map(|line| {
            let mut columns = line.split('\t').skip(1);
            Some((columns.next()?.parse::<u16>().ok()?, columns.next()?.parse::<u64>().ok()?))
        });
        let (good, bad): (Vec<_>, Vec<_>) = rows.partition(|(status, _)| *status == 200);
        let mut times: Vec<u64> = good.into_iter().map(|(_, time)| time).collect();
        times.sort_unstable();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(0) as f64;
        let requests = times.len() as f64;
        Ok(Self {
            requests,
            seconds: length.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            errors: bad.len() as u64,
        })
    }
}

/// wrk's script for a scenario.
fn script(scenario: Scenario, cookies: &[String]) -> String {
    let (method, path, body) = match scenario {
        Scenario::Get64k => ("GET", "/64k", "nil"),
        Scenario::Get1m | Scenario::TlsGet1m => ("GET", "/1m", "nil"),
        Scenario::Post4k => ("POST", "/post", "string.rep('x', 4096)"),
        _ => ("GET", "/1k", "nil"),
    };
    let connection = if scenario == Scenario::Close { "'close'" } else { "nil" };
    let cookies = match cookies {
        [] => "false".to_owned(),
        some => some.iter().map(|cookie| format!("{cookie:?}")).collect::<Vec<_>>().join(", "),
    };
    format!(
        "local cookies = {{ {cookies} }}
local prepared, turn = {{}}, 0

function init()
   for i, cookie in ipairs(cookies) do
      local headers = {{ ['Host'] = wrk.headers['Host'], ['Cookie'] = cookie or nil, ['Connection'] = {connection} }}
      prepared[i] = wrk.format('{method}', '{path}', headers, {body})
   end
end

function request()
   turn = turn % #prepared + 1
   return prepared[turn]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format('counts %d %d %d %d %d\\n', summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99),
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"
    )
}
