//! Everything that can be found wrong before anything is mounted.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::config::{CacheMode, GuardMode};
use crate::error::StartError;
use crate::host::mountinfo;
use crate::host::privilege::{self, Standing};
use crate::host::sources::Host;
use crate::mount::config::MountConfig;
use crate::mount::consent::Allowance;
use crate::mount::dirs::{Dir, Dirs};
use crate::mount::flags::{self, Helper};
use crate::mount::guard;
use crate::mount::intent;
use crate::mount::options::Options;
use crate::mount::policy_check;
use crate::plain;
use crate::shift::idmap::Maps;

const LOWER: &str = "lower directory";
const MOUNTPOINT: &str = "mount point";

/// The kernel's door to FUSE.
pub const DEVICE: &str = "/dev/fuse";

/// A mount as it was asked for.
#[derive(Debug, Clone)]
pub struct MountRequest {
    /// The stored directory.
    pub lower: PathBuf,
    /// Where to show it.
    pub mountpoint: PathBuf,
    /// How.
    pub options: Options,
    /// Stay in the foreground.
    pub foreground: bool,
}

/// Checks a request against its own sense and against this machine. Opens and changes nothing that
/// stays, but for a mount point that is to be made.
///
/// The mount point may be the lower directory itself, or a directory above it: the server holds
/// the lower directory open before it mounts, so that it is only hidden from others. It may be inside
/// the lower directory where the server has a mount of its own, which does not contain the new one.
///
/// Returns the directories with it, as they were checked: by their paths others might be found.
pub fn check(request: MountRequest) -> Result<(MountConfig, Dirs), StartError> {
    let MountRequest { lower, mountpoint, options, foreground } = request;
    let (lower, lower_is) = checked_lower(&lower)?;
    if !lower_is.is_dir() {
        refuse_of_one_file(&options)?;
    }
    let options = intent::settle(options, Some(&lower_is))?;
    let maps = maps(&options.maps)?;
    if let Some(mode) = options.make_mountpoint {
        make_mountpoint(&mountpoint, mode)?;
    }
    let mountpoint = checked_mountpoint(&mountpoint, lower.name(), lower_is.is_dir())?;
    not_inside(mountpoint.name(), &lower, &lower_is, &options)?;
    if !lower.is_here() && options.guard != GuardMode::None {
        return Err(StartError::Path {
            role: LOWER,
            path: lower.name().to_owned(),
            why: format!(
                "option 'guard={}': it is in another mount namespace, where nothing can be covered \
                 from here; mount in that one, or leave the option out",
                options.guard.name()
            ),
        });
    }
    options.check_conflicts()?;
    let standing = Standing::of_this_process();
    policy_check::check(options.policies, &maps, &lower_is, standing)?;
    if standing != Standing::Root {
        options.check_without_root()?;
    }
    let options = for_this_user(options, &maps, standing)?;
    let names = [&lower, &mountpoint].map(|dir| dir.name().to_owned());
    let [lower_name, mountpoint_name] = names;
    let config = MountConfig::new(lower_name, mountpoint_name, maps, options);
    Ok((MountConfig { foreground, ..config }, Dirs { lower, mountpoint }))
}

/// The options with what is true of every mount of this user.
fn for_this_user(
    mut options: Options,
    maps: &Maps,
    standing: Standing,
) -> Result<Options, StartError> {
    if standing.mounts_itself() {
        options.allow_other = true;
        return Ok(options);
    }
    Allowance::of_this_user()?.check(maps, &options.ownership).map_err(|error| {
        match &options.owned_by {
            Some(who) => StartError::Usage(format!(
                "option 'owned-by={who}' maps the owner of LOWER to {who}: {error}"
            )),
            None => error,
        }
    })?;
    if options.allow_other && !privilege::user_allow_other() {
        return Err(StartError::Usage(
            "option 'allow_other': /etc/fuse.conf does not let ordinary users give it; root can add \
             the line 'user_allow_other' there, or leave the option out to have the mount to yourself"
                .to_owned(),
        ));
    }
    for flag in flags::FLAGS {
        match flag.helper {
            Helper::Always => {
                if let Some(word) = options.clears(flag) {
                    tracing::warn!(
                        "option '{word}' has no effect: a mount made by an ordinary user always has \
                         '{}'",
                        flag.name
                    );
                }
                flags::apply(&mut options.flags, flag.name);
            }
            Helper::Refused if flag.is_set(options.flags) => {
                return Err(StartError::Usage(format!(
                    "option '{}': fusermount3, which mounts for ordinary users, cannot give it; leave \
                     it out, or let root mount",
                    flag.name
                )));
            }
            Helper::LeftOut if flag.is_set(options.flags) => {
                tracing::warn!("option '{}' is left out: fusermount3 cannot give it", flag.name);
            }
            Helper::Takes | Helper::Usual | Helper::Refused | Helper::LeftOut => {}
        }
    }
    Ok(options)
}

/// The maps of the given specs. There is no default: showing ids as they are must be asked for.
pub fn maps(specs: &[String]) -> Result<Maps, StartError> {
    if specs.is_empty() {
        return Err(StartError::Usage(
            "no id map is given: say which stored ids are shown as which, for example \
             '-o map=b:0:100000:65536' (stored 0, 1, 2, … are shown as 100000, 100001, …), or \
             '-o map=identity' to show them as they are, or '-o owned-by=1000' to show everything as \
             user 1000's"
                .to_owned(),
        ));
    }
    Maps::from_specs(specs, &Host)
        .map_err(|error| StartError::Usage(format!("option 'map': {error}")))
}

fn checked_lower(path: &Path) -> Result<(Dir, Metadata), StartError> {
    let wrong = |why: String| StartError::Path { role: LOWER, path: path.to_owned(), why };
    let lower = guard::find(path).map_err(|error| wrong(unreachable(&error, LOWER)))?;
    // Opened, not only looked at: the mode alone does not say whether this process may read.
    let metadata = lower.metadata().map_err(|error| wrong(unreachable(&error, LOWER)))?;
    let kind = metadata.file_type();
    let opened = if kind.is_dir() {
        std::fs::read_dir(lower.path()).map(drop)
    } else if kind.is_file() {
        File::open(lower.path()).map(drop)
    } else {
        return Err(wrong("is neither a directory nor a file".to_owned()));
    };
    opened.map_err(|error| wrong(unreachable(&error, LOWER)))?;
    Ok((lower, metadata))
}

/// Refuses what is about a directory, where LOWER is one file.
fn refuse_of_one_file(options: &Options) -> Result<(), StartError> {
    let about_directories = [
        (options.guard != GuardMode::None, "guard="),
        (options.submounts, "submounts"),
        (options.make_mountpoint.is_some(), "X-mount.mkdir"),
        (options.cache == CacheMode::Coherent, "cache=coherent"),
    ];
    match about_directories.iter().find(|(is_given, _)| *is_given) {
        None => Ok(()),
        Some((_, name)) => Err(StartError::Usage(format!(
            "option '{name}' is about directories, and LOWER is a single file; leave it out, or show the \
             directory that holds the file"
        ))),
    }
}

/// Makes a mount point, and directories above it, that are not there.
fn make_mountpoint(path: &Path, bits: u32) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(bits).create(path);
    made.map_err(|error| StartError::Path {
        role: MOUNTPOINT,
        path: path.to_owned(),
        why: format!("cannot be made (X-mount.mkdir): {error}"),
    })
}

fn checked_mountpoint(path: &Path, lower: &Path, is_dir: bool) -> Result<Dir, StartError> {
    let wrong = |why: String| StartError::Path { role: MOUNTPOINT, path: path.to_owned(), why };
    let unreachable = |error: &io::Error| match Errno::from_io_error(error) {
        Some(Errno::NOENT) if !is_dir => {
            "does not exist; LOWER is a file: make one to mount it on, with touch".to_owned()
        }
        _ => unreachable(error, MOUNTPOINT),
    };
    let mountpoint = Dir::open(path).map_err(|error| wrong(unreachable(&error)))?;
    let metadata = mountpoint.metadata().map_err(|error| wrong(unreachable(&error)))?;
    if is_dir && !metadata.is_dir() {
        return Err(wrong("is not a directory; a directory can only be mounted on one".to_owned()));
    }
    if !is_dir && !metadata.is_file() {
        return Err(wrong(
            "is not a file, and LOWER is one: a file can only be mounted on a file".to_owned(),
        ));
    }
    if !mountpoint.is_here() {
        return Err(wrong(
            "is in another mount namespace, or was removed; mount in that one ('nsenter -m', or \
             option -N of mount(8))"
                .to_owned(),
        ));
    }
    let there = mountinfo::topped(&mountpoint, mountpoint.name()).map_err(|source| {
        StartError::System { what: "cannot read /proc/self/mountinfo".to_owned(), source }
    })?;
    match there {
        Some(mount) if mount.is_idshift() => Err(wrong(format!(
            "is busy: '{}' is already shown there by idshift; 'idshift umount {}' takes it away",
            plain::path(Path::new(&mount.source)),
            plain::path(path)
        ))),
        Some(mount) if mount.is_idmapped() && mountpoint.name() != lower => Err(wrong(format!(
            "is busy: a kernel idmapped mount is already there; 'idshift umount {}' takes it away",
            plain::path(path)
        ))),
        _ => Ok(mountpoint),
    }
}

/// Whether this directory is shown at this mount point already.
pub fn is_there_already(lower: &Path, mountpoint: &Path, options: &Options) -> bool {
    let Ok(resolved) = mountinfo::resolve_mountpoint(mountpoint) else { return false };
    let Ok(Some(mount)) = mountinfo::at(&resolved) else { return false };
    let source = match &options.fsname {
        Some(name) => name.into(),
        None => lower.canonicalize().unwrap_or_else(|_| lower.to_owned()).into_os_string(),
    };
    mount.is_idshift() && mount.source == source
}

/// Refuses a mount point that the server would reach from the lower directory, by whatever path it is
/// given (a bind mount): directories are compared, and not only names.
///
/// A server with a mount of its own, cloned before the new one is there, never meets that. Without
/// `submounts` none goes where another file system lies between the two.
fn not_inside(
    mountpoint: &Path,
    lower_dir: &Dir,
    lower_is: &Metadata,
    options: &Options,
) -> Result<(), StartError> {
    let lower = lower_dir.name();
    let is_lower = |above: &Path| {
        above == lower
            || above
                .metadata()
                .is_ok_and(|it| (it.dev(), it.ino()) == (lower_is.dev(), lower_is.ino()))
    };
    let Some(inside) = mountpoint.ancestors().skip(1).position(is_lower) else { return Ok(()) };
    if mountpoint == lower {
        return Ok(());
    }
    let elsewhere = |between: &Path| between.metadata().is_ok_and(|it| it.dev() != lower_is.dev());
    let apart = mountpoint.ancestors().take(inside + 1).any(elsewhere);
    let alone = !options.submounts && options.guard == GuardMode::None;
    if alone && (apart || crate::lower::has_private_mount(&lower_dir.path())) {
        return Ok(());
    }
    let without = match options {
        _ if alone => "",
        Options { submounts: true, .. } => ", or leave 'submounts' out",
        _ => ", or leave 'guard=' out",
    };
    Err(StartError::Path {
        role: MOUNTPOINT,
        path: mountpoint.to_owned(),
        why: format!(
            "is inside the lower directory '{}', so the mount would contain itself; choose a \
             mount point outside of it{without}",
            plain::path(lower)
        ),
    })
}

/// Whether the two directories of a command look as if they were given in the wrong order: what is
/// shown has nothing in it, and what it is put over has something.
pub fn looks_swapped(lower: &Path, mountpoint: &Path) -> bool {
    let is_empty = |path: &Path| std::fs::read_dir(path).ok().map(|mut dir| dir.next().is_none());
    lower != mountpoint && is_empty(lower) == Some(true) && is_empty(mountpoint) == Some(false)
}

/// What to tell somebody whose path cannot be used.
fn unreachable(error: &io::Error, role: &str) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) if role == MOUNTPOINT => {
            "does not exist; make it first, with mkdir".to_owned()
        }
        Some(Errno::NOENT) => "does not exist".to_owned(),
        Some(Errno::ACCESS | Errno::PERM) => {
            "this user may not read it, or not search a directory above it".to_owned()
        }
        Some(Errno::LOOP) => "too many symbolic links lead to it".to_owned(),
        _ if mountinfo::is_dead(error) => {
            "a mount whose server has died is still there; take it away with 'idshift umount'"
                .to_owned()
        }
        _ => format!("cannot be used: {error}"),
    }
}

/// Whether this process can get at FUSE, itself or through `fusermount3`.
pub fn fuse_is_here(standing: Standing) -> Result<(), StartError> {
    why_no_fuse(standing).map_or(Ok(()), |why| Err(StartError::Mount(format!("{DEVICE} {why}"))))
}

/// Why this process cannot get at FUSE, and what to do; `None` if it can.
pub fn why_no_fuse(standing: Standing) -> Option<String> {
    let why = match Path::new(DEVICE).metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "does not exist; load the kernel's module with 'modprobe fuse', or start the container \
             with '--device /dev/fuse'"
        }
        Ok(metadata) if !metadata.file_type().is_char_device() => {
            "is not a character device; 'mknod /dev/fuse c 10 229' makes it"
        }
        _ if !standing.mounts_itself() && privilege::fusermount().is_none() => {
            "is of use to an ordinary user only with the program 'fusermount3', and none is in \
             PATH; install the package fuse3, or mount as root"
        }
        _ => match File::options().read(true).write(true).open(DEVICE) {
            Ok(_) => return None,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NODEV | Errno::NXIO) => {
                    "leads nowhere: the kernel has no FUSE; load its module with 'modprobe fuse'"
                }
                Some(Errno::ACCESS | Errno::PERM) => {
                    "may not be opened; as root of the machine, 'chmod 666 /dev/fuse' lets \
                     everybody (that is its usual mode), and a container needs '--device /dev/fuse'"
                }
                _ => return Some(format!("cannot be opened: {error}")),
            },
        },
    };
    Some(why.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn message(lower: &Path, mountpoint: &Path) -> String {
        let maps = vec!["b:0:1000:1".to_owned()];
        // Without, a mount point inside may do.
        let options = Options { maps, submounts: lower.is_dir(), ..Options::default() };
        let request = MountRequest {
            lower: lower.to_owned(),
            mountpoint: mountpoint.to_owned(),
            options,
            foreground: false,
        };
        let error = check(request).unwrap_err();
        assert_eq!(error.exit_code(), 32);
        error.to_string()
    }

    #[test]
    fn paths_that_cannot_be_used_are_named_with_their_role() {
        let tree = tempfile::tempdir().unwrap();
        let lower = tree.path().join("lower");
        let inside = lower.join("a/b");
        std::fs::create_dir_all(&inside).unwrap();
        let file = tree.path().join("file");
        std::fs::write(&file, "").unwrap();
        let missing = tree.path().join("missing");

        for (lower, mountpoint, parts) in [
            (&missing, &lower, ["lower directory", "does not exist"]),
            (&file, &lower, ["mount point", "not a file"]),
            (&lower, &missing, ["mount point", "mkdir"]),
            (&lower, &file, ["mount point", "not a directory"]),
            (&lower, &inside, ["mount point", "contain itself"]),
        ] {
            let message = message(lower, mountpoint);
            for part in parts {
                assert!(message.contains(part), "{message}");
            }
        }
    }

    #[test]
    fn a_mount_point_inside_is_found_through_a_symbolic_link() {
        let tree = tempfile::tempdir().unwrap();
        let lower = tree.path().join("lower");
        std::fs::create_dir_all(lower.join("in")).unwrap();
        let link = tree.path().join("link");
        std::os::unix::fs::symlink(lower.join("in"), &link).unwrap();
        assert!(message(&lower, &link).contains("contain itself"));
    }

    #[test]
    fn without_a_map_an_example_is_given() {
        let error = maps(&[]).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("map=identity"));
        let error = maps(&["b:0".to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with("option 'map'"), "{error}");
    }
}
