//! A mount of one subject, which goes away with its guard.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::failure::{Result, Say};
use crate::stage::{OFFSET, Stage, run};
use crate::subject::{Kind, Subject};

const PATIENCE: Duration = Duration::from_secs(20);

/// A subject that shows the lower tree.
pub(crate) struct Mounted {
    /// Where.
    pub(crate) point: PathBuf,
    server: Option<Child>,
}

impl Mounted {
    /// Mounts the subject and waits until it answers.
    pub(crate) fn new(stage: &Stage, subject: &Subject) -> Result<Self> {
        let point = stage.base().join("mnt");
        if !point.exists() {
            fs::create_dir(&point).say("the mount point")?;
        }
        let mut mounted = Self { point: point.clone(), server: None };
        match &subject.kind {
            Kind::Native => mount_bind(stage.lower(), &point).say("bind mount")?,
            Kind::Kernel { idshift } => run(Command::new(idshift)
                .args(["mount", "-o", &format!("map=b:0:{OFFSET}:65536,backend=kernel")])
                .arg(stage.lower())
                .arg(&point))?,
            _ => {
                let Some(mut command) = subject.server(stage, &point) else {
                    return Err("has no server".into());
                };
                let words = stage.base().join("server.log");
                let log = fs::File::create(&words).say("the server's log")?;
                command.stdin(Stdio::null()).stderr(log.try_clone().say("log")?).stdout(log);
                mounted.server = Some(command.spawn().say("starting the server")?);
                mounted.wait_until_there(&words)?;
            }
        }
        Ok(mounted)
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    fn wait_until_there(&mut self, words: &Path) -> Result<()> {
        let start = Instant::now();
        while !is_mounted(&self.point) {
            let ended = match &mut self.server {
                Some(server) => server.try_wait().say("the server")?,
                None => None,
            };
            if ended.is_some() || start.elapsed() > PATIENCE {
                let words = fs::read_to_string(words).unwrap_or_default();
                return Err(format!("it does not mount: {}", words.lines().next().unwrap_or("")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // The first answer may take longer than the mount.
        fs::metadata(self.point.join("tree")).say("the mount does not answer").map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..100 {
            if !is_mounted(&self.point) || unmount(&self.point, UnmountFlags::empty()).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if is_mounted(&self.point) {
            eprintln!("{} is busy and is detached", self.point.display());
            unmount(&self.point, UnmountFlags::DETACH).ok();
        }
        let Some(mut server) = self.server.take() else { return };
        let start = Instant::now();
        while !matches!(server.try_wait(), Ok(Some(_))) {
            if start.elapsed() > PATIENCE {
                eprintln!("the server does not end after the unmount and is killed");
                server.kill().ok();
                server.wait().ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn is_mounted(point: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == point))
}
