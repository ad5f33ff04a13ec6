//! `selvedge completions`: a script for a shell, made of the definitions of the commands.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Failure, print};

#[derive(Debug, Args)]
#[command(after_help = "Where shells look for them:\n  \
    bash  selvedge completions bash > ~/.local/share/bash-completion/completions/selvedge\n  \
    zsh   selvedge completions zsh > \"${fpath[1]}/_selvedge\"\n  \
    fish  selvedge completions fish > ~/.config/fish/completions/selvedge.fish")]
pub(super) struct Arguments {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "selvedge", &mut script);
    print(&String::from_utf8_lossy(&script))
}
