//! The command line: arguments in, exit code out.
//!
//! One file for each command. A command returns what went wrong and prints nothing about it: only [`run`] here turns an
//! error into lines on standard error and an exit code, so that all commands fail alike.
//!
//! What the exit codes mean is in [`EXIT_CODES`], which `--help` and the manual page show.

mod admin_client;
mod check;
mod colours;
mod completions;
mod explain;
mod keys;
mod man;
mod outlook;
mod reload;
mod run;
mod schema;
mod seen;
mod status;
mod target;
mod top;
mod upgrade;
mod zone;

use std::ffi::OsString;
use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Overrides};

/// What a script can tell from the end of a command.
const EXIT_CODES: &str = "Exit codes:
  0   done
  1   could not be done: one line on standard error says why, and what to do
  2   the arguments are wrong
  3   check --diff only: the configuration is good, and sessions would move or end
  78  the configuration is wrong: every mistake is on standard error, with file, line and remedy

Environment:
  SELVEDGE_ZONE  availability zone of the node, unless --zone gives it
  NO_COLOR       no colours, whatever its value; there are none outside a terminal either";

/// A session-aware layer-7 load balancer
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// `selvedge --config FILE` is `selvedge run --config FILE`.
    #[command(flatten)]
    run: Option<ConfigArguments>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, until SIGTERM or SIGINT
    Run(ConfigArguments),
    /// Report everything that is wrong with a configuration, and start nothing
    Check(check::Arguments),
    /// Make a running node take on what its configuration says now
    Reload(reload::Arguments),
    /// Say where a request would go, and why; decode a session cookie
    Explain(explain::Arguments),
    /// Put the program as it is installed now in the place of the one that runs
    Upgrade(upgrade::Arguments),
    /// Show pools, zones and targets of a running node
    Status(status::Arguments),
    /// The same, live, in the whole terminal; targets and zones can be taken out and back
    Top(top::Arguments),
    /// Take a zone out for a time, or give it back
    #[command(subcommand)]
    Zone(zone::Command),
    /// Take a target out, or back into service
    #[command(subcommand)]
    Target(target::Command),
    /// Session keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Print the JSON Schema of the configuration, for editors
    Schema(schema::Arguments),
    /// Print what a shell needs to complete these commands
    Completions(completions::Arguments),
    /// Print the manual page, or write those of all commands into a folder
    Man(man::Arguments),
}

/// Which configuration, and what wins over it.
#[derive(Debug, Args)]
struct ConfigArguments {
    /// Configuration file, in TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Availability zone of this node; wins over SELVEDGE_ZONE, which wins over the file
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

/// Why a command did not do what it is for.
enum Failure {
    /// Exit code 78.
    Config(ConfigErrors),
    /// A running node refuses its configuration, for these reasons. Exit code 78.
    Refused(Vec<String>),
    /// Exit code 1.
    Other(String),
}

/// Runs the command that `args` (the first being the program's name) stand for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to tell when this cannot be printed. The code is 0 for --help and --version, else 2.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let result = match (arguments.command, arguments.run) {
        (Some(Command::Run(config)), _) | (None, Some(config)) => run::run(&config),
        (Some(Command::Check(arguments)), _) => return finish(check::run(&arguments)),
        (Some(Command::Reload(arguments)), _) => reload::run(&arguments),
        (Some(Command::Explain(arguments)), _) => explain::run(&arguments),
        (Some(Command::Upgrade(arguments)), _) => upgrade::run(&arguments),
        (Some(Command::Status(arguments)), _) => status::run(&arguments),
        (Some(Command::Top(arguments)), _) => top::run(&arguments),
        (Some(Command::Zone(command)), _) => zone::run(&command),
        (Some(Command::Target(command)), _) => target::run(&command),
        (Some(Command::Keys(command)), _) => keys::run(&command),
        (Some(Command::Schema(arguments)), _) => schema::run(&arguments),
        (Some(Command::Completions(arguments)), _) => completions::run(&arguments),
        (Some(Command::Man(arguments)), _) => man::run(&arguments),
        (None, None) => Err(Failure::Other("no command; see selvedge --help".to_owned())),
    };
    finish(result.map(|()| ExitCode::SUCCESS))
}

fn finish(result: Result<ExitCode, Failure>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.exit_code()
        }
    }
}

impl ConfigArguments {
    /// The configuration, checked.
    fn load(&self) -> Result<Config, Failure> {
        let from_environment = || std::env::var("SELVEDGE_ZONE").ok().filter(|zone| !zone.is_empty());
        let zone = self.zone.clone().or_else(from_environment);
        Config::load(&self.config, &Overrides { zone }).map_err(Failure::Config)
    }
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Refused(_) => ExitCode::from(78),
            Self::Other(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => errors.fmt(f),
            Self::Refused(lines) => f.write_str(&lines.join("\n")),
            Self::Other(message) => write!(f, "selvedge: {message}"),
        }
    }
}

/// Writes the result of a command to standard output. A reader that has left (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Other(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
