//! `selvedge keys`: session keys. It makes lines for a key file, and never touches the file itself.

use clap::Subcommand;

use super::{Failure, print};
use crate::config;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print a fresh line for the session key file
    #[command(after_help = "The first line of the file seals, all lines open:\n  \
        selvedge keys new > session.keys          the first key\n  \
        (selvedge keys new; cat session.keys)     a new key on top, for all nodes")]
    New,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::New => print(&format!("{}\n", config::keys::fresh_line())),
    }
}
