//! Namespaces around the whole run: whatever ends it, no mount and no process is left behind.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Result, Say};

const INSIDE: &str = "IDSHIFT_COMPARE_INSIDE";

/// Starts this program again in a mount and a process namespace of its own. When the first process
/// in there ends, however it ends, the kernel ends all the others, and with them their mounts.
pub(crate) fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("needs root: it makes idmapped mounts and drops the kernel's caches".into());
    }
    let program = std::env::current_exe().say("where this program is")?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(format!("unshare (util-linux): {error}"))
}

/// The first process of a namespace gets no signal that it has no handler for.
pub(crate) fn end_on_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]).say("signals")?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(130);
        }
    });
    Ok(())
}

/// A user namespace, held by a sleeping process.
pub(crate) struct UserNamespace {
    holder: Child,
}

impl UserNamespace {
    /// A namespace whose ids 0… are `first`… outside.
    pub(crate) fn new(first: u32) -> Result<Self> {
        let holder = Command::new("unshare")
            .args(["--user", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .say("unshare (util-linux)")?;
        let held = Self { holder };
        let ours = fs::read_link("/proc/self/ns/user").say("/proc/self/ns/user")?;
        let start = Instant::now();
        while fs::read_link(held.path()).say("the namespace")? == ours {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("unshare made no user namespace".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let proc = PathBuf::from("/proc").join(held.holder.id().to_string());
        for file in ["uid_map", "gid_map"] {
            fs::write(proc.join(file), format!("0 {first} 65536\n")).say(file)?;
        }
        File::open(held.path()).say("the namespace")?;
        Ok(held)
    }

    /// The file that stands for the namespace.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/user", self.holder.id()))
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}
