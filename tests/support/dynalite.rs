//! A DynamoDB of a test: dynalite, which keeps everything in memory, on a free port, killed when dropped.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Says its port; ends when its standard input does, as that of a test that was killed.
const PROGRAM: &str = "const server = require('dynalite')({ createTableMs: 50 });
    server.listen(0, '127.0.0.1', () => console.log(server.address().port));
    process.stdin.on('end', () => process.exit()).resume();";

/// See the module's documentation.
pub(crate) struct Dynalite {
    port: u16,
    child: Child,
    _input: Option<ChildStdin>,
    /// Kept so that it never writes into a closed pipe.
    _output: BufReader<ChildStdout>,
}

impl Dynalite {
    /// Starts one without tables, and waits until it listens.
    pub(crate) fn start() -> Self {
        // tests/run.sh puts it beside what cargo builds, in whose folder `PROFILE/deps` or `PROFILE/examples` this test is.
        let test = std::env::current_exe().unwrap();
        let folder = test.ancestors().nth(3).unwrap().join("node");
        assert!(folder.join("node_modules/dynalite").exists(), "dynalite is missing: run tests/run.sh once");
        let mut command = Command::new("node");
        command.args(["-e", PROGRAM]).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("node (Debian: nodejs): {error}"));
        let (mut output, mut line) = (BufReader::new(child.stdout.take().unwrap()), String::new());
        output.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("dynalite says {line:?} and no port"));
        Self { port, _input: child.stdin.take(), child, _output: output }
    }

    /// What `--carts` takes for a table that is made when it is missing.
    pub(crate) fn place(&self, table: &str) -> String {
        format!("dynamodb://{table}?region=local&create=true&endpoint=http://127.0.0.1:{}", self.port)
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Dynalite {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
