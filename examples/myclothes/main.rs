//! MyClothes: a shop in three availability zones on one machine, behind Selvedge.
//!
//! `cargo run --release --example myclothes` starts the whole system; see README.md in this folder. The program starts its
//! parts as processes of their own by running itself with a subcommand, so the parts can also be started by hand.
//!
//! ```text
//! system.rs      the order: check, start, keep alive, stop        instance.rs   one instance: the HTTP server
//!   data.rs      the data folder                                    pages.rs    pages for people (templates/, style.css)
//!   proxy_config.rs  what the proxy is told                         api.rs      the JSON API
//!   asg/         the Auto Scaling group: how many instances, and which
//!   lab/         all of it in three zones that are three networks
//!   socket.rs    how `myclothes asg` and `myclothes lab` ask what runs
//!   supervise.rs one process, kept alive                            input.rs    what requests bring, checked
//!   parent.rs    how a process notices that its parent is gone      failure.rs  what goes wrong, and how it is said
//! trust.rs       certificates, where instances answer only balancers
//! dns.rs         DNS for the instances                            catalogue.rs carts.rs accounts.rs login.rs orders.rs
//! product.rs     changes the catalogue                            sessions.rs  the `sid` cookie
//! trouble.rs     why a command does not run                       store.rs     what is asked of the database
//!                                                                 cache/       the catalogue, kept in Redis too
//!                                                                 databases/   where accounts, orders and the catalogue live
//!                                                                 cart_stores/ where carts and logins live
//!                                                                 redis/       a client of Redis, for whoever keeps something there
//! ```

mod accounts;
mod api;
mod asg;
mod cache;
mod cart_stores;
mod carts;
mod catalogue;
mod data;
mod databases;
mod dns;
mod failure;
mod input;
mod instance;
mod lab;
mod login;
mod orders;
mod pages;
mod parent;
mod product;
mod proxy_config;
mod redis;
#[cfg(test)]
#[path = "../../tests/support/redis.rs"]
mod redis_servers;
mod sessions;
mod socket;
mod store;
mod supervise;
mod system;
mod trouble;
mod trust;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trouble::Trouble;

/// A clothes shop in three availability zones on one machine, behind Selvedge.
///
/// Without a command, starts everything: DNS for the instances, the instances, the proxy with its admin API. An
/// instance that dies is replaced. Ctrl-C stops everything.
#[derive(Debug, Parser)]
#[command(name = "myclothes", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    system: system::Options,
}

/// One part of the system, in this process.
#[derive(Debug, Subcommand)]
enum Part {
    /// One instance of the shop
    Instance(Box<instance::Options>),
    /// Ask the Auto Scaling group of a system that runs
    Asg(asg::command::Arguments),
    /// The case study in three zones that are three networks
    Lab(lab::Arguments),
    /// Change the catalogue
    Product(product::Arguments),
    /// DNS for the instances; reads who is alive from standard input, and stops when it ends
    Dns(dns::Options),
    /// The proxy: `selvedge` with these arguments; stops when standard input ends
    Edge {
        /// Arguments of `selvedge`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let Cli { part, system } = Cli::parse();
    let outcome = match part {
        None => block_on(system::run(system)),
        Some(Part::Instance(options)) => {
            block_on(async { instance::run(*options).await.map_err(Trouble::new) })
        }
        Some(Part::Asg(arguments)) => block_on(asg::command::run(arguments)),
        Some(Part::Lab(arguments)) => lab::run(arguments),
        Some(Part::Product(arguments)) => block_on(product::run(arguments)),
        Some(Part::Dns(options)) => block_on(async { dns::run(options).await.map_err(Trouble::new) }),
        Some(Part::Edge { args }) => return edge(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => trouble.report(),
    }
}

/// The proxy brings its own threads and handles its own signals; only its standard input is watched for it.
fn edge(args: Vec<OsString>) -> ExitCode {
    std::thread::spawn(|| {
        parent::wait_for_end();
        let this = rustix::process::getpid();
        if rustix::process::kill_process(this, rustix::process::Signal::TERM).is_err() {
            std::process::exit(1);
        }
    });
    selvedge::cli::run(std::iter::once(OsString::from("selvedge")).chain(args))
}

fn block_on<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|error| Trouble::new(format!("no threads can be started: {error}")))?;
    let outcome = runtime.block_on(work);
    // What is still running is a process to be killed or a request past its deadline; it is not waited for.
    runtime.shutdown_background();
    outcome
}
