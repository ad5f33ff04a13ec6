//! A process of a test's and all that it starts: they end with the test, however that ends.

use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process_group};

/// The first process. Dropping it ends the whole group: also those that have taken its place after its own end.
pub struct Group(Child);

impl Group {
    /// Starts it, at the head of a group of its own.
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap())
    }

    /// Ends all of it.
    pub fn end(&mut self) {
        // Before it is waited for: until then its number is its own. Of one that has ended, the number stays that of the group
        // for as long as anybody is in it.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

impl Deref for Group {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Group {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}
