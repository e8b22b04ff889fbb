//! The lower file systems: how each is made, and taken away again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::mount::{free, is_mounted, server_command, temp_dir, wait_for};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{BASE, put_dir, raw, skip};
use tempfile::TempDir;

/// Longer than any of the file systems takes to come up here.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file system to be shifted. Its root belongs to lower id [`BASE`], where it keeps owners.
pub(crate) struct Lower {
    /// Where it is mounted.
    pub(crate) root: PathBuf,
    /// The tree that it shows, for file systems that show one.
    pub(crate) behind: PathBuf,
    pub(crate) dir: TempDir,
    servers: Vec<Child>,
    device: Option<String>,
}

impl Lower {
    pub(crate) fn new() -> Self {
        needs_real_root("mounts a file system");
        needs_idshift();
        let dir = temp_dir();
        let (root, behind) = (dir.path().join("root"), dir.path().join("behind"));
        put_dir(&root, 0o755, 0, 0);
        put_dir(&behind, 0o777, BASE, BASE);
        Self { root, behind, dir, servers: Vec::new(), device: None }
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a server that stays in the foreground; it ends with this value.
    pub(crate) fn serve(&mut self, mut command: Command) {
        let log = File::create(self.beside("lower.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        raw::die_with_parent(&mut command);
        self.servers.push(command.spawn().unwrap());
    }

    /// Waits until the server that was started last has mounted the root.
    pub(crate) fn wait(self) -> Self {
        let start = Instant::now();
        while !is_mounted(&self.root) {
            if start.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.beside("lower.log")).unwrap_or_default();
                panic!("{} is not mounted: {log}", self.root.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }
}

impl Drop for Lower {
    fn drop(&mut self) {
        free(&self.root);
        for server in &mut self.servers {
            // One that is unmounted ends by itself, and lets go of its device.
            raw::kill(server.id(), libc::SIGTERM).ok();
            wait_for(server);
            server.kill().ok();
            server.wait().ok();
        }
        if let Some(device) = &self.device {
            Command::new("losetup").args(["-d", device]).status().ok();
        }
    }
}

/// Runs a command; the error is what it says.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = [out.stdout, out.stderr].concat();
    Err(format!("{program}: {}", String::from_utf8_lossy(&said).trim().replace('\n', " / ")))
}

/// An overlay of the kernel with an empty lower and an upper layer.
pub(crate) fn overlayfs() -> Lower {
    let lower = Lower::new();
    for name in ["layer", "work"] {
        put_dir(&lower.beside(name), 0o777, BASE, BASE);
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.behind.display(),
        lower.beside("layer").display(),
        lower.beside("work").display()
    );
    let done = run(Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &layers])
        .arg(&lower.root));
    done.unwrap_or_else(|why| skip(why));
    lower
}

/// What another idshift shows: the two maps follow each other.
pub(crate) fn another_idshift() -> Lower {
    let mut lower = Lower::new();
    crate::common::chown(&lower.behind, Some(50_000), Some(50_000)).unwrap();
    let command = server_command("map=b:50000:20000:20000,map=b:0:0:1", &lower.behind, &lower.root);
    lower.serve(command);
    lower.wait()
}

/// bindfs, which passes on what it is asked.
pub(crate) fn bindfs() -> Lower {
    let mut lower = Lower::new();
    needs_program("bindfs");
    let mut command = Command::new("bindfs");
    command.args(["-f", "--xattr-rw"]).arg(&lower.behind).arg(&lower.root);
    lower.serve(command);
    lower.wait()
}

/// An image of the tree that the closure fills, mounted read-only.
pub(crate) fn image(kind: &str, fill: impl FnOnce(&Path)) -> Lower {
    let lower = Lower::new();
    fill(&lower.behind);
    let image = lower.beside("image");
    let program = if kind == "squashfs" { "mksquashfs" } else { "mkfs.erofs" };
    needs_program(program);
    let mut make = Command::new(program);
    if kind == "squashfs" {
        make.arg(&lower.behind).arg(&image).args(["-quiet", "-no-progress"]);
    } else {
        make.arg(&image).arg(&lower.behind);
    }
    run(&mut make).unwrap();
    let done =
        run(Command::new("mount").args(["-t", kind, "-o", "ro,loop"]).arg(&image).arg(&lower.root));
    done.unwrap_or_else(|why| skip(format!("needs {kind} in the kernel: {why}")));
    lower
}

/// A file system without owners: by the kernel, or else by its FUSE driver.
pub(crate) fn without_owners(kind: &str) -> Lower {
    let mut lower = Lower::new();
    let image = lower.beside("image");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    needs_program(&format!("mkfs.{kind}"));
    run(Command::new(format!("mkfs.{kind}")).arg(&image)).unwrap();
    let options = format!("loop,uid={BASE},gid={BASE},umask=0");
    let by_kernel = Command::new("mount")
        .args(["-i", "-t", kind, "-o", &options])
        .arg(&image)
        .arg(&lower.root)
        .output();
    if by_kernel.is_ok_and(|out| out.status.success()) {
        println!("lowers: {kind} by the kernel");
        return lower;
    }
    if kind != "exfat" {
        skip(format!("needs {kind} in the kernel"));
    }
    needs_program("mount.exfat-fuse");
    let mut command = Command::new("mount.exfat-fuse");
    let device = losetup(&image);
    command
        .args(["-d", "-o", &format!("rw,uid={BASE},gid={BASE},umask=0,allow_other")])
        .arg(&device)
        .arg(&lower.root);
    lower.device = Some(device);
    lower.serve(command);
    println!("lowers: exfat by its FUSE driver");
    lower.wait()
}

/// A loop device for an image.
fn losetup(image: &Path) -> String {
    let out = Command::new("losetup").args(["-f", "--show"]).arg(image).output().unwrap();
    if !out.status.success() {
        skip(format!("needs loop devices: {}", String::from_utf8_lossy(&out.stderr).trim()));
    }
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// An sshd on a port of its own, with its own keys, and sshfs as root through it.
pub(crate) fn sshfs() -> Lower {
    for program in ["sshfs", "sshd", "ssh-keygen"] {
        needs_program(program);
    }
    let mut lower = Lower::new();
    for key in ["host", "user"] {
        let path = lower.beside(key);
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path))
            .unwrap();
    }
    fs::create_dir_all("/run/sshd").unwrap();
    let port = free_port();
    let dir = lower.dir.path().display().to_string();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nPidFile none\nUsePAM no\n\
         AuthorizedKeysFile {dir}/user.pub\nStrictModes no\nPermitRootLogin yes\n\
         Subsystem sftp internal-sftp\n"
    );
    fs::write(lower.beside("sshd_config"), config).unwrap();
    lower.start_sshd();
    let mut command = Command::new("sshfs");
    command
        .args(["-f", "-p", &port.to_string(), "-F", "/dev/null"])
        .args(["-o", "allow_other,default_permissions,idmap=none,reconnect"])
        .args(["-o", "ServerAliveInterval=1,ServerAliveCountMax=2,ConnectTimeout=2"])
        .args(["-o", "StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"])
        .arg(format!("-oIdentityFile={dir}/user"))
        .arg(format!("root@127.0.0.1:{}", lower.behind.display()))
        .arg(&lower.root);
    wait_for_port(port);
    lower.serve(command);
    lower.wait()
}

impl Lower {
    /// Starts the sshd of [`sshfs`].
    pub(crate) fn start_sshd(&mut self) {
        let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|p| Path::new(p).exists());
        let mut command = Command::new(sshd.unwrap());
        command.args(["-D", "-e", "-f"]).arg(self.beside("sshd_config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        raw::die_with_parent(&mut command);
        self.servers.insert(0, command.spawn().unwrap());
    }

    /// Stops it, and what it has started for each connection.
    pub(crate) fn stop_sshd(&mut self) {
        let mut sshd = self.servers.remove(0);
        let children = format!("/proc/{0}/task/{0}/children", sshd.id());
        let sessions = fs::read_to_string(children).unwrap();
        sshd.kill().unwrap();
        sshd.wait().unwrap();
        for pid in sessions.split_whitespace() {
            raw::kill(pid.parse().unwrap(), libc::SIGKILL).ok();
        }
    }

    /// Ends sshfs as a crash would.
    pub(crate) fn end_sshfs(&mut self) {
        let mut sshfs = self.servers.pop().unwrap();
        sshfs.kill().unwrap();
        sshfs.wait().unwrap();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn wait_for_port(port: u16) {
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if start.elapsed() > PATIENCE {
            skip("needs an sshd that starts");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
