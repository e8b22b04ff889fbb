//! A volume of GlusterFS with one brick, served by this machine to itself.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::kinds::{Lower, run};
use crate::common::mount::{free, temp_dir, wait_for};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{BASE, chown, put_dir, raw, set_mode, skip};
use tempfile::TempDir;

/// Where the daemon keeps its state; covered in this test's own mount namespace.
const STATE: [&str; 3] = ["/var/lib/glusterd", "/var/run/gluster", "/var/log/glusterfs"];
/// The daemon's port, which cannot be chosen.
const PORT: u16 = 24_007;

pub(crate) struct Volume {
    daemon: Child,
    host: String,
    _brick: TempDir,
}

impl Volume {
    /// Starts daemon and volume. A brick must not be named by a loopback address, so the name of
    /// the host has to lead to it.
    pub(crate) fn start() -> Self {
        needs_real_root("mounts a file system");
        needs_idshift();
        for program in ["glusterd", "gluster", "glusterfs"] {
            needs_program(program);
        }
        if std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok() {
            skip("needs a machine on which no glusterd runs yet");
        }
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        for path in STATE {
            std::fs::create_dir_all(path).unwrap();
            run(Command::new("mount").args(["-t", "tmpfs", "none", path])).unwrap();
        }
        let dir = temp_dir();
        let brick = dir.path().join("brick");
        put_dir(&brick, 0o755, 0, 0);
        let mut command = Command::new("glusterd");
        command.args(["-N", "-L", "ERROR"]).stdin(Stdio::null()).stdout(Stdio::null());
        raw::die_with_parent(&mut command);
        let volume = Self { daemon: command.spawn().unwrap(), host: name, _brick: dir };
        let answers = || gluster(&["volume", "list"]).is_ok();
        if !(0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            answers()
        }) {
            skip("needs a glusterd that answers");
        }
        let place = format!("{}:{}", volume.host, brick.display());
        let made = gluster(&["volume", "create", "tree", &place, "force"]);
        made.unwrap_or_else(|why| skip(format!("needs a name of this host: {why}")));
        gluster(&["volume", "start", "tree"]).unwrap();
        volume
    }

    /// The volume, mounted once more.
    pub(crate) fn mount(&self) -> Lower {
        let mut lower = Lower::new();
        let mut command = Command::new("glusterfs");
        command.args(["-N", "--acl", "--volfile-id=tree"]);
        command.arg(format!("--volfile-server={}", self.host)).arg(&lower.root);
        lower.serve(command);
        let lower = lower.wait();
        chown(&lower.root, Some(BASE), Some(BASE)).unwrap();
        set_mode(&lower.root, 0o777).unwrap();
        lower
    }
}

fn gluster(words: &[&str]) -> Result<(), String> {
    run(Command::new("timeout").args(["30", "gluster", "--mode=script"]).args(words))
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The processes of the brick are not the daemon's children.
        gluster(&["volume", "stop", "tree"]).ok();
        raw::kill(self.daemon.id(), libc::SIGTERM).ok();
        if wait_for(&mut self.daemon).is_none() {
            self.daemon.kill().ok();
            self.daemon.wait().ok();
        }
        for path in STATE {
            free(Path::new(path));
        }
    }
}
