//! The `selvedge` program: everything is in the library, so that tests and the shop's example run the same code.

use std::process::ExitCode;

/// Chosen by measurement over glibc's and jemalloc: see the commit that added it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    selvedge::cli::run(std::env::args_os())
}
