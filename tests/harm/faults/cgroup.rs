//! A control group of its own, of either version.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::runner::needs_real_root;
use crate::common::skip;

/// It is removed in the end.
pub(crate) struct Cgroup {
    path: PathBuf,
    /// Of the second version, where one group has all controllers.
    unified: bool,
}

impl Cgroup {
    /// A group with this controller; skips the test where there is none to be had.
    pub(crate) fn make(controller: &str) -> Self {
        needs_real_root("a control group");
        let base = Path::new("/sys/fs/cgroup");
        let name = format!("idshift-test-{controller}-{}", std::process::id());
        let first = base.join(controller);
        let enabled = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
        let unified = !first.join("cgroup.procs").exists();
        if unified && !enabled.split_whitespace().any(|word| word == controller) {
            skip(format!("needs the control group controller {controller}"));
        }
        let path = if unified { base.join(name) } else { first.join(name) };
        if let Err(error) = fs::create_dir(&path) {
            skip(format!("needs to make control groups: {error}"));
        }
        Self { path, unified }
    }

    /// Moves a process into it.
    pub(crate) fn take(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Sets a limit, by the name that the second version has for it.
    pub(crate) fn limit(&self, name: &str, value: &str) {
        let name = match name {
            "memory.max" if !self.unified => "memory.limit_in_bytes",
            name => name,
        };
        fs::write(self.path.join(name), value).unwrap();
    }

    /// How many of its processes the kernel has killed for memory.
    pub(crate) fn killed(&self) -> u64 {
        let name = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.path.join(name)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.map_or(0, |count| count.trim().parse().unwrap())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It must be empty, and its processes end in their own time.
        for _ in 0..500 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
