//! The `selvedge` program: everything is in the library, so that tests and the shop's example run the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    selvedge::cli::run(std::env::args_os())
}
