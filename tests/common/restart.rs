//! Mounts whose server is replaced while they are used (`restart=on`).

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use super::mount::{BASE, MAP, Mount, wait_for};
use super::program::children_of;
use super::runner::{needs_idshift, needs_kernel, needs_program, needs_real_root};
use super::{chown, eventually, raw};

/// Kills the server, and waits until the next one is there.
pub(crate) fn kill(mount: &Mount) {
    let before = mount.server_pid();
    assert_ne!(before, mount.main_pid(), "a process of its own");
    raw::kill(before, libc::SIGKILL).unwrap();
    eventually("a new server goes on", || {
        let children = children_of(mount.main_pid());
        children.first().is_some_and(|&now| now != before)
    });
}

/// Only since Linux 6.9 does the kernel send requests again that a killed server had begun.
pub(crate) fn needs_resending() {
    needs_idshift();
    needs_kernel((6, 9), "FUSE_NOTIFY_RESEND");
}

pub(crate) fn mounted(options: &str) -> Mount {
    needs_real_root("restart=on");
    needs_resending();
    let mount = Mount::with(&format!("{MAP},{options}restart=on,log=info"), |_| ());
    // The mount shows before there is a process that serves it.
    eventually("the server is there", || mount.server_pid() != mount.main_pid());
    mount
}

/// Each file's path, type, mode, owner and contents.
fn everything(root: &Path, dir: &Path, all: &mut Vec<(PathBuf, u32, u32, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let contents = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let name = path.strip_prefix(root).unwrap().to_owned();
        all.push((name, meta.mode(), meta.uid(), contents));
        if meta.is_dir() {
            everything(root, &path, all);
        }
    }
}

/// tar(1), which unpacks 5,050 files and links in a mount.
pub(crate) struct Tar {
    child: Child,
    source: PathBuf,
    log: PathBuf,
}

impl Tar {
    pub(crate) fn start(mount: &Mount) -> Self {
        needs_program("tar");
        let source = mount.beside().join("source");
        for directory in 0..50 {
            let path = source.join(format!("tree/d{directory}"));
            fs::create_dir_all(&path).unwrap();
            for file in 0..100 {
                let path = path.join(format!("file-{file}"));
                fs::write(&path, format!("{directory} {file}\n").repeat(file)).unwrap();
                if file % 3 == 0 {
                    chown(&path, Some(1), Some(2)).unwrap();
                }
            }
            symlink("file-1", path.join("link")).unwrap();
        }
        let archive = mount.beside().join("archive");
        let run = |arguments: &[&str], directory: &Path| {
            let mut command = Command::new("tar");
            command.args(arguments).arg(&archive).arg("-C").arg(directory);
            command
        };
        assert!(run(&["cf"], &source).arg("tree").status().unwrap().success());
        let log = mount.beside().join("tar.log");
        let child =
            run(&["xpf"], &mount.up("")).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, source, log }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end, and compares: what was packed, what the mount shows, what is stored.
    pub(crate) fn finish(mut self, mount: &Mount) {
        let start = Instant::now();
        while self.is_running() && start.elapsed() < Duration::from_secs(120) {
            thread::sleep(Duration::from_millis(20));
        }
        let status = wait_for(&mut self.child).expect("tar ends");
        assert!(status.success(), "{}", fs::read_to_string(&self.log).unwrap());
        let (mut wanted, mut got, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        everything(&self.source.join("tree"), &self.source.join("tree"), &mut wanted);
        everything(&mount.up("tree"), &mount.up("tree"), &mut got);
        everything(&mount.low("tree"), &mount.low("tree"), &mut stored);
        for all in [&mut wanted, &mut got, &mut stored] {
            all.sort();
        }
        assert!(wanted.len() > 5000 && wanted == got, "the tree is another one");
        for (_, _, owner, _) in &mut stored {
            *owner -= BASE;
        }
        assert!(wanted == stored, "what is stored is something else");
    }
}
