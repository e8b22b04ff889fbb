//! Who asks for which guard, and which mounts make it up: a directory of small files that only
//! root can see, `/run/idshift/guard`.
//!
//! `lock` is held while anything changes. `NAMESPACE-HASH/` stands for one lower path in one mount
//! namespace: `lower` is the path, `identity` which directory it was, `layers` the mounts ([`Layers`]), each `claim-…` a mount that
//! asks for a guard. A claim is locked (flock(2)) by its server's helper, which ends with the server. The
//! server cannot let go of it; and should the helper be killed alone, the claim stays as long as the
//! process that made it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::Pid;

use crate::config::GuardMode;
use crate::error::StartError;
use crate::plain;
use crate::sys::process;

const DIR: &str = "/run/idshift/guard";

/// The register, locked.
pub(super) struct Register {
    dir: PathBuf,
    namespace: u64,
    _lock: File,
}

/// One lower path.
#[derive(Debug)]
pub(super) struct GuardedDir {
    pub(super) lower: PathBuf,
    dir: PathBuf,
}

/// A mount that asks for a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) pid: u32,
    pub(super) mode: GuardMode,
}

/// The mounts that make up a guard, by the kernel's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// The bind mount, and with it the copies of the mounts below the lower directory.
    pub(super) bind: Vec<Bound>,
    /// The empty directory.
    pub(super) cover: Option<u64>,
}

/// One mount of the bind mount's tree, its root first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) id: u64,
    /// It was noexec before any guard.
    pub(super) was_noexec: bool,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let what = format!("cannot {what} '{}', where guards are kept", path.display());
    move |source| StartError::System { what, source }
}

impl Register {
    /// Whether anybody has ever asked for a guard here.
    pub(super) fn is_there() -> bool {
        Path::new(DIR).exists()
    }

    /// Opens and locks it. `None` if there is none and none is to be made, or for a user who may
    /// not see it.
    pub(super) fn open(create: bool) -> Result<Option<Self>, StartError> {
        let dir = PathBuf::from(DIR);
        if create {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(&dir).map_err(failed("make", &dir))?;
        }
        let path = dir.join("lock");
        let lock = match File::options().read(true).write(true).create(create).open(&path) {
            Ok(lock) => lock,
            Err(error) if !create && is_not_ours(&error) => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| failed("lock", &path)(errno.into()))?;
        let namespace = mount_namespace().map_err(failed("find the mount namespace of", &dir))?;
        Ok(Some(Self { dir, namespace, _lock: lock }))
    }

    /// The entry of a lower path (absolute, without symbolic links), which need not exist yet.
    pub(super) fn place(&self, lower: &Path) -> GuardedDir {
        let name = format!("{}-{:016x}", self.namespace, hash(lower.as_os_str().as_bytes()));
        GuardedDir { lower: lower.to_owned(), dir: self.dir.join(name) }
    }

    /// The entries of this mount namespace.
    pub(super) fn places(&self) -> Vec<GuardedDir> {
        let ours = format!("{}-", self.namespace);
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().as_bytes().starts_with(ours.as_bytes()))
            .filter_map(|entry| {
                let lower = fs::read(entry.path().join("lower")).ok()?;
                Some(GuardedDir { lower: OsString::from_vec(lower).into(), dir: entry.path() })
            })
            .collect()
    }
}

impl GuardedDir {
    /// Enters a claim of this process, locked.
    pub(super) fn claim(
        &self,
        mode: GuardMode,
        mountpoint: &Path,
    ) -> Result<(PathBuf, File), StartError> {
        fs::create_dir_all(&self.dir).map_err(failed("make", &self.dir))?;
        let lower = self.dir.join("lower");
        fs::write(&lower, self.lower.as_os_str().as_bytes()).map_err(failed("write", &lower))?;
        let at = hash(mountpoint.as_os_str().as_bytes());
        let path = self.dir.join(format!("claim-{}-{at:016x}", std::process::id()));
        let file = File::create(&path).map_err(failed("make", &path))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed("lock", &path)(errno.into()))?;
        let began = process::began(rustix::process::getpid()).unwrap_or_default();
        let text = format!("{}\n{began}\n", mode.name());
        fs::write(&path, text).map_err(failed("write", &path))?;
        Ok((path, file))
    }

    /// The device and inode of the directory that was first guarded under this path, if it is
    /// written down.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(self.dir.join("identity")).ok()?;
        let (device, inode) = text.trim().split_once(' ')?;
        Some((device.parse().ok()?, inode.parse().ok()?))
    }

    /// Writes that down.
    pub(super) fn identify(&self, (device, inode): (u64, u64)) -> Result<(), String> {
        let path = self.dir.join("identity");
        fs::create_dir_all(&self.dir)
            .and_then(|()| fs::write(&path, format!("{device} {inode}\n")))
            .map_err(|error| format!("cannot write '{}': {error}", path.display()))
    }

    /// The claims of servers that run. Those of others are removed.
    pub(super) fn live(&self) -> Vec<Claim> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        entries.filter_map(|entry| live_claim(&entry.ok()?.path())).collect()
    }

    /// The mounts that were recorded. Whether they are still there is another question.
    pub(super) fn layers(&self) -> Layers {
        fs::read_to_string(self.dir.join("layers"))
            .map_or_else(|_| Layers::default(), |text| Layers::parse(&text))
    }

    /// Records the mounts; written before they are put in place, so that a crash leaves no mount
    /// that nobody knows. Nothing is left of a place without mounts and claims.
    pub(super) fn record(&self, layers: &Layers) -> Result<(), String> {
        let path = self.dir.join("layers");
        let error = |error| format!("cannot write '{}': {error}", path.display());
        if *layers == Layers::default() {
            fs::remove_file(&path).or_else(missing_is_fine).map_err(error)?;
            if self.live().is_empty() {
                fs::remove_dir_all(&self.dir).or_else(missing_is_fine).map_err(error)?;
            }
            return Ok(());
        }
        let new = self.dir.join("layers.new");
        fs::create_dir_all(&self.dir).map_err(error)?;
        fs::write(&new, layers.to_string()).and_then(|()| fs::rename(&new, &path)).map_err(error)
    }
}

/// Removes a claim.
pub(super) fn withdraw(claim: &Path) {
    if let Err(error) = fs::remove_file(claim) {
        tracing::error!("'{}': {error}", plain::path(claim));
    }
}

fn live_claim(path: &Path) -> Option<Claim> {
    let name = path.file_name()?.to_str()?.strip_prefix("claim-")?;
    let pid: u32 = name.split('-').next()?.parse().ok()?;
    let file = File::open(path).ok()?;
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let mode = GuardMode::from_name(lines.next()?.trim())?;
    let began = lines.next().and_then(|line| line.parse().ok());
    let made_by = || {
        let process = Pid::from_raw(i32::try_from(pid).ok()?)?;
        began.filter(|_| process::began(process) == began)
    };
    let is_free = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
    if made_by().is_none() && (is_free() || began.is_some() && waited_for(is_free)) {
        withdraw(path);
        return None;
    }
    Some(Claim { pid, mode })
}

/// A helper ends a moment after a server that was killed.
fn waited_for(mut is_free: impl FnMut() -> bool) -> bool {
    const STEP: Duration = Duration::from_millis(5);
    (0..100).any(|_| {
        thread::sleep(STEP);
        is_free()
    })
}

impl Layers {
    fn parse(text: &str) -> Self {
        let mut layers = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let kind = words.next();
            let Some(id) = words.next().and_then(|id| id.parse().ok()) else { continue };
            match kind {
                Some("bind") => {
                    layers.bind.push(Bound { id, was_noexec: words.next() == Some("noexec") });
                }
                Some("cover") => layers.cover = Some(id),
                _ => {}
            }
        }
        layers
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for bound in &self.bind {
            writeln!(f, "bind {} {}", bound.id, if bound.was_noexec { "noexec" } else { "exec" })?;
        }
        self.cover.map_or(Ok(()), |id| writeln!(f, "cover {id}"))
    }
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn is_not_ours(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// The kernel's number of this process's mount namespace.
fn mount_namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata("/proc/self/ns/mnt")?.ino())
}

/// A name for a path that may be longer than a name can be (FNV-1a; the path itself is in the
/// entry).
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, GuardedDir) {
        let dir = tempfile::tempdir().unwrap();
        let place = GuardedDir { lower: "/srv/x".into(), dir: dir.path().join("1-2") };
        (dir, place)
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let (_dir, place) = place();
        let bound = |id, was_noexec| Bound { id, was_noexec };
        let layers = Layers { bind: vec![bound(7, false), bound(9, true)], cover: Some(12) };
        place.record(&layers).unwrap();
        assert_eq!(place.layers(), layers);
        place.record(&Layers::default()).unwrap();
        assert!(!place.dir.exists());
        assert_eq!(place.layers(), Layers::default());
    }

    #[test]
    fn a_claim_lives_as_long_as_its_lock() {
        let (_dir, place) = place();
        let (path, alive) = place.claim(GuardMode::Hide, "/mnt".as_ref()).unwrap();
        let claim = Claim { pid: std::process::id(), mode: GuardMode::Hide };
        assert_eq!(place.live(), [claim]);
        drop(alive);
        assert_eq!(place.live(), [claim], "whoever made it lives");
        fs::write(&path, "hide\n1\n").unwrap();
        assert_eq!(place.live(), [], "another process with its number");
        assert!(!path.exists());
    }

    #[test]
    fn a_broken_record_counts_for_what_is_whole_in_it() {
        assert_eq!(
            Layers::parse("bind\ncover x\nbind 5\n\u{fe}"),
            Layers { bind: vec![Bound { id: 5, was_noexec: false }], cover: None }
        );
    }
}
