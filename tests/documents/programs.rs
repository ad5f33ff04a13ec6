//! The programs that these tests run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program under test, run to its end.
pub(crate) fn selvedge(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).args(arguments).output().unwrap()
}

/// The shop, run to its end.
pub(crate) fn myclothes(arguments: &[&str]) -> Output {
    // Cargo names no variable for an example, but builds it into a folder next to this one.
    let program = Path::new(env!("CARGO_BIN_EXE_selvedge")).with_file_name("examples/myclothes");
    assert!(program.exists(), "{} is not built: run `cargo build --example myclothes`", program.display());
    Command::new(program).args(arguments).output().unwrap()
}

/// What it wrote to standard output; it must have succeeded.
pub(crate) fn printed(arguments: &[&str]) -> String {
    let output = selvedge(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a script of this folder with the Python of `tests/run.sh`, which has the packages it needs; what it wrote.
pub(crate) fn python(script: &str, arguments: &[&str]) -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let python = target.join("python/bin/python3");
    assert!(python.exists(), "{} is missing: run tests/run.sh once, which makes it", python.display());
    let output = Command::new(python).arg(folder("tests/documents").join(script)).args(arguments).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder of the project.
pub(crate) fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
