//! `selvedge schema`: what editors want to know of the configuration. Reads no configuration and asks no node.

use clap::Args;

use super::{Failure, print};
use crate::config;

#[derive(Debug, Args)]
#[command(after_help = "For an editor that knows JSON Schema (Taplo, Even Better TOML, Tombi):\n  \
    selvedge schema > selvedge.schema.json\n\
    and as the first line of the configuration:\n  \
    #:schema ./selvedge.schema.json")]
pub(super) struct Arguments {
    /// Print the reference for people instead, in Markdown
    #[arg(long)]
    markdown: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.markdown { print(&config::page()) } else { print(&format!("{:#}\n", config::schema())) }
}
