//! `selvedge man`: manual pages, made of the definitions of the commands.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use super::{Failure, print};

#[derive(Debug, Args)]
#[command(after_help = "To read it, and to install all of them:\n  \
    selvedge man | man -l -\n  \
    selvedge man /usr/local/share/man/man1")]
pub(super) struct Arguments {
    /// Folder for the pages of all commands, which must be there [default: the first page, to standard output]
    folder: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let command = super::Arguments::command().disable_help_subcommand(true);
    match &arguments.folder {
        Some(folder) => clap_mangen::generate_to(command, folder).map_err(|error| {
            let what = format!("cannot write into {}: {error}", folder.display());
            Failure::Other(what + "; give a folder that is there and can be written")
        }),
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(command).render(&mut page);
            rendered.map_err(|error| Failure::Other(format!("cannot make the page: {error}")))?;
            print(&String::from_utf8_lossy(&page))
        }
    }
}
