//! The fixture: a lower tree in a temporary directory, mounted through the binary, and always
//! unmounted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::files::{chown, put_dir, put_file};
use super::runner::{failing, machine, skip, skip_if_too_old};
use super::{kernel, raw};

/// What the usual map adds to an upper id to get the lower one.
pub(crate) const BASE: u32 = 20_000;
/// The usual map: lower 20000… are shown as 0…, so root and ordinary users are mapped.
pub(crate) const MAP: &str = "map=b:20000:0:20000";
/// An id that the usual map has on neither side.
pub(crate) const UNMAPPED: u32 = 45_000;

/// The lower id that the usual map shows as `upper`.
pub(crate) fn lo(upper: u32) -> u32 {
    upper + BASE
}

/// How long a mount of a test may live before its server is taken for hung; `IDSHIFT_TEST_LIMIT`
/// gives tests that are made larger more seconds.
fn limit() -> Duration {
    let seconds = std::env::var("IDSHIFT_TEST_LIMIT").map_or(600, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}
/// How long mounting and unmounting may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lower directory and its mount. Dropping it unmounts, and checks that the server ends.
pub(crate) struct Mount {
    pub(crate) lower: PathBuf,
    pub(crate) upper: PathBuf,
    server: Option<Child>,
    watchdog: Option<(Sender<()>, thread::JoinHandle<()>)>,
    dir: TempDir,
}

impl Mount {
    /// An empty lower directory that everyone may write to, under the usual map.
    pub(crate) fn new() -> Self {
        Self::with(MAP, |_| ())
    }

    /// The same with other options (which must hold the map) and a lower tree that the closure
    /// fills before it is mounted. The lower directory belongs to lower id [`BASE`].
    pub(crate) fn with(options: &str, fill: impl FnOnce(&Path)) -> Self {
        let dir = temp_dir();
        let lower = dir.path().join("lower");
        put_dir(&lower, 0o777, BASE, BASE);
        fill(&lower);
        Self::of(dir, lower, options)
    }

    /// The same with a server that may hold only so many descriptors.
    pub(crate) fn with_descriptors(limit: u64, options: &str, fill: impl FnOnce(&Path)) -> Self {
        let dir = temp_dir();
        let lower = dir.path().join("lower");
        put_dir(&lower, 0o777, BASE, BASE);
        fill(&lower);
        Self::start(dir, lower, options, Some(limit))
    }

    /// A mount of a lower directory that is there already; `dir` holds the mount point.
    pub(crate) fn of(dir: TempDir, lower: PathBuf, options: &str) -> Self {
        Self::start(dir, lower, options, None)
    }

    fn start(dir: TempDir, lower: PathBuf, options: &str, descriptors: Option<u64>) -> Self {
        let upper = dir.path().join("upper");
        if lower.is_file() {
            put_file(&upper, b"", 0o644, 0, 0);
        } else {
            put_dir(&upper, 0o755, 0, 0);
        }
        if machine().kernel_backend {
            kernel::mount(options, &lower, &upper);
            return Self { lower, upper, server: None, watchdog: None, dir };
        }
        let mut server = spawn_server(&dir, &lower, &upper, options, descriptors);
        wait_until_mounted(&mut server, &upper, dir.path());
        let (sender, receiver) = channel();
        let (pid, point) = (server.id(), upper.clone());
        let watchdog = thread::spawn(move || watch(pid, &point, &receiver));
        Self { lower, upper, server: Some(server), watchdog: Some((sender, watchdog)), dir }
    }

    /// A path in the lower tree.
    pub(crate) fn low(&self, path: impl AsRef<Path>) -> PathBuf {
        self.lower.join(path)
    }

    /// A path in the mount.
    pub(crate) fn up(&self, path: impl AsRef<Path>) -> PathBuf {
        self.upper.join(path)
    }

    /// A directory beside lower and mount, for whatever the test needs.
    pub(crate) fn beside(&self) -> &Path {
        self.dir.path()
    }

    /// The id of the process that was started, which keeps a server running; skips the test where
    /// there is none.
    pub(crate) fn main_pid(&self) -> u32 {
        match &self.server {
            Some(server) => server.id(),
            None => skip("needs a server, not the kernel's mount"),
        }
    }

    /// The id of the process that answers requests; skips the test where there is none.
    pub(crate) fn server_pid(&self) -> u32 {
        let main = self.main_pid();
        super::program::children_of(main).first().copied().unwrap_or(main)
    }

    /// Waits until the server has ended by itself.
    pub(crate) fn wait_for_server(&self) {
        let pid = self.server_pid();
        super::eventually("the server has ended", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }

    /// Unmounts as umount(8) does and returns how the server ended.
    pub(crate) fn unmount(mut self) -> Option<ExitStatus> {
        // The mount shows before its server has let go of what it has made it with.
        let start = Instant::now();
        let mut unmounted = unmount(&self.upper, UnmountFlags::empty());
        while unmounted == Err(Errno::BUSY) && start.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(5));
            unmounted = unmount(&self.upper, UnmountFlags::empty());
        }
        unmounted.unwrap();
        self.server.as_mut().map(|server| wait_for(server).expect("umount ends the server"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        free(&self.upper);
        let mut ended = true;
        if let Some(mut server) = self.server.take() {
            ended = wait_for(&mut server).is_some();
            if !ended {
                server.kill().ok();
                server.wait().ok();
            }
        }
        if let Some((sender, watchdog)) = self.watchdog.take() {
            drop(sender);
            watchdog.join().ok();
        }
        if failing() {
            eprintln!("--- the server's log ---\n{}---", self.log());
        } else if !thread::panicking() {
            assert!(ended, "the server did not end after the unmount\n{}", self.log());
        }
    }
}

/// A new temporary directory that every caller can reach.
pub(crate) fn temp_dir() -> TempDir {
    let machine = machine();
    if !machine.has_ids {
        skip("needs a range of subordinate ids (/etc/subuid and newuidmap)");
    }
    if machine.kernel_backend && !machine.real_root {
        skip("the kernel's idmapped mount needs real root");
    }
    let device = File::options().read(true).write(true).open("/dev/fuse");
    if let (false, Err(error)) = (machine.kernel_backend, device) {
        skip(format!("needs /dev/fuse: {error}"));
    }
    let dir = tempfile::Builder::new().prefix("t").tempdir_in(&machine.base).unwrap();
    super::files::set_mode(dir.path(), 0o755).unwrap();
    chown(dir.path(), Some(0), Some(0)).unwrap();
    dir
}

/// What is added so that all tests run over the transport that `IDSHIFT_TEST_TRANSPORT` names, where the
/// other options allow it.
fn transport_for(options: &str) -> String {
    const WITHOUT: [&str; 4] = ["transport=", "restart=on", "locks=lower", "threads="];
    match std::env::var("IDSHIFT_TEST_TRANSPORT") {
        Ok(word) if !WITHOUT.iter().any(|option| options.contains(option)) => {
            format!(",transport={word}")
        }
        _ => String::new(),
    }
}

/// The command line of a mount in the foreground, not started yet.
pub(crate) fn server_command(options: &str, lower: &Path, upper: &Path) -> Command {
    let mut command = Command::new(&machine().binary);
    let transport = transport_for(options);
    command
        .args(["mount", "-f", "-o", &format!("{options}{transport}")])
        .arg(lower)
        .arg(upper)
        .stdin(Stdio::null());
    command
}

fn spawn_server(
    dir: &TempDir,
    lower: &Path,
    upper: &Path,
    options: &str,
    descriptors: Option<u64>,
) -> Child {
    let mut log = File::create(dir.path().join("server.log")).unwrap();
    // Through a pipe, as under a service manager: what is written to a file goes by way of the helper.
    let (mut written, to) = std::io::pipe().unwrap();
    thread::spawn(move || std::io::copy(&mut written, &mut log).ok());
    let mut command = server_command(options, lower, upper);
    command.stdout(to.try_clone().unwrap()).stderr(to);
    raw::die_with_parent(&mut command);
    if let Some(limit) = descriptors {
        raw::limit_descriptors(&mut command, limit);
    }
    command.spawn().unwrap()
}

fn wait_until_mounted(server: &mut Child, upper: &Path, dir: &Path) {
    let start = Instant::now();
    while !is_mounted(upper) {
        let log = || fs::read_to_string(dir.join("server.log")).unwrap_or_default();
        if let Some(status) = server.try_wait().unwrap() {
            // What it said last may still be on its way through its keeper.
            let ended = Instant::now();
            while !log().contains("idshift: ") && ended.elapsed() < Duration::from_secs(2) {
                thread::sleep(Duration::from_millis(10));
            }
            skip_if_too_old(&log());
            panic!("the server ended with {status} instead of mounting:\n{}", log());
        }
        if start.elapsed() > PATIENCE {
            server.kill().unwrap();
            server.wait().unwrap();
            panic!("no mount after {PATIENCE:?}:\n{}", log());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(point: &Path) -> bool {
    mount_line(point).is_some()
}

/// The line of `/proc/self/mounts` for this mount point, cut into its fields.
pub(crate) fn mount_line(point: &Path) -> Option<Vec<String>> {
    let point = point.to_str()?;
    // What another test has mounted just now may have a name that is not UTF-8.
    String::from_utf8_lossy(&fs::read("/proc/self/mounts").ok()?)
        .lines()
        .map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .rfind(|fields| fields[1] == point)
}

/// Unmounts whatever is mounted there: patiently, then lazily.
pub(crate) fn free(point: &Path) {
    for _ in 0..50 {
        if !is_mounted(point) {
            return;
        }
        if unmount(point, UnmountFlags::empty()).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
    }
    unmount(point, UnmountFlags::DETACH).ok();
}

/// Waits for a process to end by itself; `None` when it does not.
pub(crate) fn wait_for(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
    None
}

/// Ends a hung mount, so that the calls that wait on it fail instead of waiting for ever.
fn watch(pid: u32, point: &Path, done: &Receiver<()>) {
    if done.recv_timeout(limit()) == Err(RecvTimeoutError::Timeout) {
        eprintln!("{}: hung for {:?}, its server {pid} is killed", point.display(), limit());
        raw::kill(pid, libc::SIGKILL).ok();
        abort_connection(point);
    }
}

/// Aborts the FUSE connection of a mount through fusectl, where that is mounted.
fn abort_connection(point: &Path) {
    let Ok(info) = fs::read("/proc/self/mountinfo") else { return };
    let info = String::from_utf8_lossy(&info);
    let minor = info.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(4) == point.to_str().as_ref())
            .then(|| fields[2].split_once(':').map(|(_, minor)| minor.to_owned()))?
    });
    if let Some(minor) = minor {
        fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1").ok();
    }
}
