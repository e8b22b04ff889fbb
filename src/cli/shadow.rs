//! `idshift shadow`: set-ID bits and file capabilities of a lower tree, moved between where
//! `suid=shadow` keeps them and the files themselves.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::progress::Progress;
use crate::error::{CallExt, FsError, StartError};
use crate::host::privilege::Standing;
use crate::lower::stat::LowerStat;
use crate::lower::{proc_path, shadow};
use crate::plain;
use crate::shift::set_id::{SET_ID, Shadow};

/// Move set-ID bits and capabilities between files and the attributes of suid=shadow
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    direction: Direction,
}

#[derive(Debug, clap::Subcommand)]
enum Direction {
    /// Give files the set-ID bits and capabilities that suid=shadow has kept for them
    Export(Tree),
    /// Take files' set-ID bits and capabilities away, and keep them for suid=shadow
    Import(Tree),
}

#[derive(Debug, clap::Args)]
struct Tree {
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// The directory as it is stored; what is mounted below it is left out
    lower: PathBuf,
}

/// Runs the command: one line for each file that changes, then how many they were.
pub fn run(args: &Args) -> Result<u8, StartError> {
    let (tree, export) = match &args.direction {
        Direction::Export(tree) => (tree, true),
        Direction::Import(tree) => (tree, false),
    };
    let wrong =
        |why: String| StartError::Path { role: "lower directory", path: tree.lower.clone(), why };
    if Standing::of_this_process() != Standing::Root {
        return Err(StartError::Usage(
            "shadow: set-ID bits are kept in trusted.* attributes, which only root of the machine \
             can read and set"
                .to_owned(),
        ));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, &tree.lower, flags, Mode::empty())
        .map_err(|errno| wrong(format!("cannot be opened: {errno}")))?;
    shadow::supported(root.as_fd()).map_err(|errno| {
        wrong(format!("its file system has no trusted.* attributes to keep bits in ({errno})"))
    })?;
    let device = LowerStat::of(&root).map_err(|error| wrong(error.to_string()))?.identity().dev;
    let mut walk = Walk {
        export,
        dry_run: tree.dry_run,
        device,
        moved: 0,
        failed: 0,
        seen: 0,
        progress: Progress::on_stderr(),
    };
    walk.directory(&root, &tree.lower);
    walk.progress.clear();
    let word = match (export, tree.dry_run) {
        (true, false) => "exported",
        (true, true) => "would be exported",
        (false, false) => "imported",
        (false, true) => "would be imported",
    };
    let files = if walk.moved == 1 { "file" } else { "files" };
    say!("{} {files} {word}", walk.moved);
    Ok(if walk.failed == 0 { 0 } else { 2 })
}

/// One walk over a tree.
struct Walk {
    export: bool,
    dry_run: bool,
    device: u64,
    moved: usize,
    failed: usize,
    seen: usize,
    progress: Progress,
}

impl Walk {
    /// Everything below; `path` is for messages only. Directories wait by name and not as open
    /// descriptors, and are opened again without following symbolic links.
    fn directory(&mut self, root: &OwnedFd, path: &Path) {
        let mut waiting = vec![PathBuf::new()];
        while let Some(below) = waiting.pop() {
            let here = path.join(&below);
            let entries = open_below(root, &below).and_then(|dir| self.entries(dir.as_fd(), &here));
            match entries {
                Ok(directories) => waiting.extend(directories.iter().map(|name| below.join(name))),
                Err(error) => self.complain(&here, error),
            }
        }
    }

    /// The files of one directory; returns the names of its directories.
    fn entries(&mut self, dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<PathBuf>, FsError> {
        let mut directories = Vec::new();
        for entry in Dir::read_from(dir).call("getdents")? {
            let entry = entry.call("getdents")?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            self.seen += 1;
            let (seen, moved) = (self.seen, self.moved);
            self.progress.tell(|| format!("{seen} files seen, {moved} moved: {}", path.display()));
            match self.entry(dir, name, path) {
                Ok(true) => directories.push(name.into()),
                // Gone since it was listed.
                Ok(false) | Err(FsError::Os { errno: Errno::NOENT, .. }) => {}
                Err(error) => self.complain(&path.join(name), error),
            }
        }
        Ok(directories)
    }

    /// One entry; whether it is a directory of this file system.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<bool, FsError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).call("openat")?;
        let stat = LowerStat::of(&fd)?;
        if stat.identity().dev != self.device {
            return Ok(false);
        }
        if stat.kind() == FileType::RegularFile {
            let said = if self.export {
                export(fd.as_fd(), &stat, self.dry_run)?
            } else {
                import(fd.as_fd(), &stat, self.dry_run)?
            };
            if let Some(said) = said {
                self.progress.clear();
                say!("{}: {said}", plain::path(&path.join(name)));
                self.moved += 1;
            }
        }
        Ok(stat.kind() == FileType::Directory)
    }

    fn complain(&mut self, path: &Path, error: FsError) {
        self.progress.clear();
        complain!("idshift: '{}': {error}", plain::path(path));
        self.failed += 1;
    }
}

fn open_below(root: &OwnedFd, below: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(root, ".", flags, Mode::empty()).call("openat")?;
    for name in below {
        dir = rustix::fs::openat(&dir, name, flags, Mode::empty()).call("openat")?;
    }
    Ok(dir)
}

/// Makes the kept privileges of a file real; what was done, `None` for nothing. The attribute
/// goes last: at no time is a privilege in neither place.
fn export(fd: BorrowedFd<'_>, stat: &LowerStat, dry: bool) -> Result<Option<String>, FsError> {
    let Some(stored) = shadow::read(fd)? else { return Ok(None) };
    if stored.written != shadow::written(stat) {
        if !dry {
            shadow::store(fd, &Shadow::default())?;
        }
        return Ok(Some("written since its bits were kept: they count no more".to_owned()));
    }
    if !dry {
        if stored.bits != 0 {
            chmod(fd, stat.mode | stored.bits)?;
        }
        if !stored.capability.is_empty() {
            shadow::set_capability(fd, &stored.capability)?;
        }
        shadow::store(fd, &Shadow::default())?;
    }
    let mode = stat.mode & 0o7777;
    Ok(Some(words(mode, mode | stored.bits, !stored.capability.is_empty())))
}

/// Keeps the real privileges of a file in the attribute; what was done, `None` for nothing.
fn import(fd: BorrowedFd<'_>, stat: &LowerStat, dry: bool) -> Result<Option<String>, FsError> {
    let Some(all) = shadow::with_real(fd, stat)? else { return Ok(None) };
    let capability = shadow::capability(fd)?.is_some();
    if !dry {
        shadow::store(fd, &all)?;
        if stat.mode & SET_ID != 0 {
            chmod(fd, stat.mode & !SET_ID)?;
        }
        shadow::remove_capability(fd)?;
    }
    let mode = stat.mode & 0o7777;
    Ok(Some(words(mode, mode & !SET_ID, capability)))
}

/// "mode 4755 to 0755 and file capabilities".
fn words(before: u32, after: u32, capability: bool) -> String {
    let mode = (before != after).then(|| format!("mode {before:04o} to {after:04o}"));
    let capability = capability.then(|| "file capabilities".to_owned());
    mode.into_iter().chain(capability).collect::<Vec<_>>().join(" and ")
}

fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), FsError> {
    rustix::fs::chmod(proc_path(fd), Mode::from_bits_truncate(mode)).call("chmod")
}
