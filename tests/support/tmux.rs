//! A terminal of its own for a program: tmux, which nobody looks at, on a socket of its own.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::eventually;

/// See the module's documentation; ends with its value, and with it what runs in it.
pub struct Tmux {
    folder: tempfile::TempDir,
    /// The shell, which leads the group of what it runs.
    shell: String,
}

impl Tmux {
    /// Runs a shell's command in a terminal of this size; it says `ended`, its exit code and a dot when that is over.
    pub fn run(command: &str, width: u16, height: u16) -> Self {
        let mut this = Self { folder: tempfile::tempdir().unwrap(), shell: String::new() };
        let size = [width.to_string(), height.to_string()];
        let line = format!("{command}; echo ended $?.; exec sleep 1000");
        let shell = format!("exec sh -c {}", quoted(&line));
        let output =
            this.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &size[0], "-y", &size[1], &shell]);
        assert!(output.status.success(), "tmux: {output:?}; see tests/run.sh");
        this.shell = this.says("pane_pid");
        this
    }

    /// Presses keys, as tmux names them.
    pub fn press(&self, keys: &[&str]) {
        let output = self.tmux(&[&["send-keys"], keys].concat());
        assert!(output.status.success(), "{output:?}");
    }

    /// Makes the terminal so large.
    pub fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p"]).stdout).unwrap()
    }

    /// The same with its colours, as escapes.
    pub fn colours(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p", "-e"]).stdout).unwrap()
    }

    /// Something that tmux knows of it, such as `alternate_on`.
    pub fn says(&self, what: &str) -> String {
        let output = self.tmux(&["display-message", "-p", &format!("#{{{what}}}")]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until this is on the screen.
    pub async fn shows(&self, text: &str) {
        let mut last = String::new();
        let seen = async {
            eventually(text, async || {
                last = self.screen();
                last.contains(text)
            })
            .await;
        };
        if tokio::time::timeout(super::PATIENCE - std::time::Duration::from_secs(1), seen).await.is_err() {
            panic!("{text:?} is not on\n{last}");
        }
    }

    /// Waits until this is no longer on the screen.
    pub async fn lacks(&self, text: &str) {
        eventually(&format!("{text:?} to go"), async || !self.screen().contains(text)).await;
    }

    /// Takes the terminal away from what runs in it.
    pub fn vanish(&self) {
        self.tmux(&["kill-server"]);
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let socket: PathBuf = self.folder.path().join("socket");
        let mut command = Command::new("tmux");
        command.arg("-S").arg(socket).args(arguments);
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8").output().expect("tmux is there: see tests/run.sh")
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.vanish();
        // Whoever did not take the hint; mostly nobody is left.
        if self.shell.parse::<u32>().is_ok_and(|pid| pid > 1) {
            let group = format!("-{}", self.shell);
            let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).output();
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
