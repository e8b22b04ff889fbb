//! One side of the comparison: a lower directory and what shows it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use idshift::mount::config::MountConfig;
use idshift::mount::options::Options;
use idshift::shift::idmap::Maps;
use rustix::mount::UnmountFlags;

use crate::maps::{MapSpec, OTHER};
use crate::older;

/// What shows the lower directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The kernel's idmapped mount: the oracle.
    Kernel,
    /// A plain bind mount, to show that the comparison can fail.
    Bind,
    /// Nothing: what the oracle says was recorded before.
    Recorded,
    /// This program's server.
    Idshift,
}

/// A lower directory, mounted.
pub struct Side {
    pub shown: Shown,
    pub lower: PathBuf,
    pub upper: PathBuf,
    /// Idshift's mount, where it is not what is used but what the kernel idmaps once more.
    between: Option<PathBuf>,
    options: &'static str,
    server: Option<Child>,
    second: Option<Box<Side>>,
}

impl Side {
    /// `options` are idshift's, besides the map.
    pub fn mount(
        shown: Shown,
        map: &MapSpec,
        options: &'static str,
        lower: PathBuf,
        upper: PathBuf,
    ) -> Result<Self, String> {
        for path in [&lower, &upper] {
            std::fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let mut side =
            Self { shown, options, lower, upper, between: None, server: None, second: None };
        match shown {
            Shown::Kernel => {
                idshift::mount::kernel_backend::mount(&side.config(map.maps()))
                    .map_err(|e| e.to_string())?;
            }
            Shown::Bind => rustix::mount::mount_bind(&side.lower, &side.upper)
                .map_err(|errno| format!("bind mount: {errno}"))?,
            Shown::Recorded => unreachable!("has no side"),
            Shown::Idshift => match map.stacked(options) {
                None => side.serve(map.options())?,
                Some((inner, outer)) => side.serve_idmapped(inner, outer)?,
            },
        }
        Ok(side)
    }

    fn config(&self, maps: Maps) -> MountConfig {
        let lower = self.between.as_ref().unwrap_or(&self.lower);
        MountConfig::new(lower.clone(), self.upper.clone(), maps, Options::default())
    }

    /// Serves one map, and has the kernel put another on top.
    fn serve_idmapped(&mut self, inner: Vec<String>, outer: Maps) -> Result<(), String> {
        let mut between = self.upper.clone().into_os_string();
        between.push("-between");
        let between = PathBuf::from(between);
        std::fs::create_dir_all(&between).map_err(|e| format!("{}: {e}", between.display()))?;
        self.between = Some(between);
        self.serve(inner)?;
        idshift::mount::kernel_backend::mount(&self.config(outer)).map_err(|e| e.to_string())
    }

    /// Where idshift's own mount is.
    fn served(&self) -> &Path {
        self.between.as_ref().unwrap_or(&self.upper)
    }

    fn serve(&mut self, mut options: Vec<String>) -> Result<(), String> {
        let log = self.upper.with_extension("log");
        let log = std::fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let more = self.options.split(',');
        options.extend(
            more.filter(|one| !one.is_empty() && !one.starts_with("stack=")).map(str::to_owned),
        );
        let built = env!("CARGO_BIN_EXE_idshift").into();
        let mut program = std::env::var_os("IDSHIFT_ORACLE_SERVER").map_or(built, PathBuf::from);
        if let (Some(kernel), Some(place)) = (older::asked_for(), self.upper.parent()) {
            program = older::wrap(&program, &kernel, place);
        }
        let mut command = Command::new(program);
        command
            .args(["mount", "-f", "-o", &options.join(",")])
            .args([self.lower.as_path(), self.served()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log);
        // SAFETY: prctl is a bare system call without pointers, safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // A crashed test must not leave a server behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0);
                Ok(())
            });
        }
        self.server = Some(spawn(command).map_err(|e| format!("idshift: {e}"))?);
        self.wait_for_mount()
    }

    fn wait_for_mount(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if is_fuse(self.served()) {
                return Ok(());
            }
            let ended = self.server.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(format!("idshift mount ended: {status}\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("idshift mount does not answer\n{}", self.log()))
    }

    /// A second mount of the lower tree, with another map, made when first asked for.
    pub fn other(&mut self) -> PathBuf {
        if self.second.is_none() {
            let mut place = self.upper.clone().into_os_string();
            place.push("-other");
            let side =
                Self::mount(self.shown, &OTHER, self.options, self.lower.clone(), place.into());
            self.second = Some(Box::new(side.expect("a second mount")));
        }
        self.second.as_ref().map(|side| side.upper.clone()).expect("made above")
    }

    /// What the server has logged, for a failure's report.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.upper.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.upper, UnmountFlags::DETACH);
        if let Some(between) = &self.between {
            let _gone = rustix::mount::unmount(between, UnmountFlags::DETACH);
        }
        let Some(mut server) = self.server.take() else { return };
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(server.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _killed = server.kill();
        let _reaped = server.wait();
    }
}

/// Starts a process from a thread that lives as long as the test: `PR_SET_PDEATHSIG` counts the
/// end of the thread that started it, and a trial's thread ends before the worlds do.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _heard = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = channel();
    let orders = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    orders.send((command, reply)).expect("the thread lives");
    answer.recv().expect("it answers")
}

fn is_fuse(path: &Path) -> bool {
    const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == FUSE_SUPER_MAGIC)
}
