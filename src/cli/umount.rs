//! `idshift umount`: take a mount away, as root or as the user who made it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::StartError;
use crate::host::{holders, mountinfo, privilege};
use crate::mount::guard;
use crate::plain;

/// Take the mount at MOUNTPOINT away and end its server
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take it out of the tree now and clean up when it is no longer busy
    #[arg(short, long)]
    lazy: bool,
    /// The mount point
    #[arg(value_hint = clap::ValueHint::DirPath)]
    mountpoint: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    let mountpoint = ours(&args.mountpoint)?;
    let lazy = if args.lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    if !args.lazy {
        for part in parts(&mountpoint) {
            if let Err(Errno::BUSY) = unmount(&part, UnmountFlags::NOFOLLOW) {
                return Err(busy(&part));
            }
        }
    }
    match unmount(&mountpoint, UnmountFlags::NOFOLLOW | lazy) {
        Ok(()) => {
            // A server that was killed could not undo its guard. The unmount itself is done.
            if let Err(error) = guard::sweep(None) {
                complain!("idshift: {}", plain::lines(&error.to_string()));
            }
            Ok(0)
        }
        Err(Errno::PERM) => by_fusermount(&mountpoint, args.lazy),
        Err(Errno::BUSY) => Err(busy(&mountpoint)),
        Err(errno) => Err(wrong(&mountpoint, format!("cannot be unmounted: {errno}"))),
    }
}

/// How long a mount may be busy before it is said.
const PATIENCE: Duration = Duration::from_millis(300);

/// Unmounts it. 'idshift status' and 'ranges', also those of others, hold a mount for as long as they ask it.
fn unmount(mountpoint: &Path, flags: UnmountFlags) -> Result<(), Errno> {
    let end = Instant::now() + PATIENCE;
    loop {
        match rustix::mount::unmount(mountpoint, flags) {
            Err(Errno::BUSY) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
}

/// What idshift itself has mounted inside, the innermost first: parts of the same mount (`submounts`, and what a
/// mount below forbids). What else is there is somebody's own.
fn parts(mountpoint: &Path) -> Vec<PathBuf> {
    let mounts = mountinfo::read().unwrap_or_default();
    let Some(whole) = mounts.iter().rfind(|mount| mount.mountpoint == mountpoint) else {
        return Vec::new();
    };
    let is_part = |mount: &&mountinfo::Mount| {
        let Ok(path) = mount.mountpoint.strip_prefix(mountpoint) else { return false };
        let source = Path::new(&whole.source);
        let same = mount.source == whole.source || Path::new(&mount.source) == source.join(path);
        let served = mount.is_idshift() && same;
        let kernels = mount.is_idmapped() && whole.is_idmapped();
        !path.as_os_str().is_empty() && (served || kernels)
    };
    mounts.iter().rev().filter(is_part).map(|mount| mount.mountpoint.clone()).collect()
}

fn wrong(path: &Path, why: String) -> StartError {
    StartError::Path { role: "mount point", path: path.to_owned(), why }
}

/// The path of the mount at `path`, as the kernel lists it, if idshift can have made that mount.
fn ours(path: &Path) -> Result<PathBuf, StartError> {
    let resolved = mountinfo::resolve_mountpoint(path)
        .map_err(|error| wrong(path, format!("cannot be used: {error}")))?;
    let mount = mountinfo::at(&resolved).map_err(|source| StartError::System {
        what: "cannot read /proc/self/mountinfo".to_owned(),
        source,
    })?;
    match mount {
        Some(mount) if mount.is_idshift() || mount.is_idmapped() => Ok(resolved),
        Some(mount) => Err(wrong(
            path,
            format!(
                "is not an idshift mount but one of type {}, from '{}'; 'umount' takes it away",
                mount.fs_type,
                mount.source.display()
            ),
        )),
        None => Err(wrong(path, "nothing is mounted there".to_owned())),
    }
}

/// An ordinary user's mount was made by `fusermount3`, which also takes it away for him.
fn by_fusermount(mountpoint: &Path, lazy: bool) -> Result<u8, StartError> {
    let Some(program) = privilege::fusermount() else {
        return Err(wrong(
            mountpoint,
            "only root may unmount it, and 'fusermount3', which does it for the user who made the \
             mount, is not in PATH"
                .to_owned(),
        ));
    };
    let system =
        |source| StartError::System { what: format!("cannot run '{}'", program.display()), source };
    let output = Command::new(&program)
        .args(["-u", if lazy { "-z" } else { "-q" }, "--"])
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(system)?;
    if output.status.success() {
        return Ok(0);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") || said.is_empty() && !holders::of(mountpoint).is_empty() {
        return Err(busy(mountpoint));
    }
    let name = program.file_name().unwrap_or(OsStr::new("fusermount3"));
    let said = said.trim();
    let hint = if said.contains("/etc/mtab") {
        "; as root, 'ln -s /proc/self/mounts /etc/mtab' makes the file that it looks into"
    } else {
        ""
    };
    Err(wrong(mountpoint, format!("{} refuses to unmount it: {said}{hint}", name.display())))
}

fn busy(mountpoint: &Path) -> StartError {
    const SHOWN: usize = 5;
    let mut holders = holders::of(mountpoint);
    // This command itself does not stay.
    holders.retain(|holder| holder.pid != std::process::id());
    let mut lines = vec!["is busy".to_owned()];
    lines.extend(holders.iter().take(SHOWN).map(|holder| {
        let path = holder.path.display();
        format!("process {} ({}): {} {path}", holder.pid, holder.name, holder.what)
    }));
    if holders.len() > SHOWN {
        lines.push(format!("and {} more", holders.len() - SHOWN));
    }
    let others = holders::without_process(mountpoint);
    lines.extend(others.iter().take(SHOWN).cloned());
    if holders.is_empty() && others.is_empty() {
        lines
            .push("a process that this user may not look at, or another mount, uses it".to_owned());
    }
    lines.push("end what uses it, or let 'idshift umount -l' take it away when it ends".to_owned());
    wrong(mountpoint, lines.join("\n  "))
}
