//! The `selvedge` program: everything is in the library, so that tests and the shop's example run the same code.

use std::process::ExitCode;

/// The data path allocates its read buffers per request, on which glibc spends more instructions than parsing does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    selvedge::cli::run(std::env::args_os())
}
