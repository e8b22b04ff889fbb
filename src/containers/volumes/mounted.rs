//! The volumes that containers use: each mounted once, at `NAME/mnt`, and beside it a directory `users` with an empty file for
//! each container. All of it is gone when the machine starts anew.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::store::Volume;
use crate::containers::Problem;
use crate::containers::shifted::{check_mount, run_mount, take_away};
use crate::host::mountinfo;
use crate::plain;

/// The directory of the mounts.
#[derive(Debug)]
pub struct Mounted {
    dir: PathBuf,
}

impl Mounted {
    /// In this directory, which is made when it is needed.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where a volume is mounted, if it is.
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("mnt")
    }

    /// The mount point of a volume that is in use.
    pub fn in_use(&self, name: &str) -> Option<PathBuf> {
        let at = self.mountpoint(name);
        is_served(&at).then_some(at)
    }

    /// Whether a volume can be mounted, so that a mistake shows when it is created.
    pub fn check(&self, volume: &Volume) -> Result<(), Problem> {
        make(&self.dir)?;
        check_mount(&volume.option_string(), &volume.lower, &self.dir).map_err(Problem::new)
    }

    /// How many containers use a volume.
    pub fn users(&self, name: &str) -> usize {
        fs::read_dir(self.dir.join(name).join("users")).map_or(0, Iterator::count)
    }

    /// Mounts a volume for this container, if it is not mounted yet.
    pub fn add(&self, name: &str, volume: &Volume, id: &str) -> Result<PathBuf, Problem> {
        let at = self.mountpoint(name);
        let users = self.dir.join(name).join("users");
        if !is_served(&at) {
            // A server that has been killed leaves a dead mount.
            take_away(&at).ok();
            make(&at)?;
            run_mount(&volume.option_string(), &volume.lower, &at).map_err(|why| {
                // Nobody uses it: nothing is left of the attempt.
                self.forget(name).ok();
                Problem::new(why)
            })?;
        }
        make(&users)?;
        let user = users.join(file_name(id)?);
        fs::write(&user, "").map_err(|error| failed("write", &user, &error))?;
        Ok(at)
    }

    /// A container does not use a volume any more; without any other, it is unmounted.
    pub fn remove(&self, name: &str, id: &str) -> Result<(), Problem> {
        let user = self.dir.join(name).join("users").join(file_name(id)?);
        match fs::remove_file(&user) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove", &user, &error));
            }
            _ => {}
        }
        if self.users(name) == 0 { self.forget(name) } else { Ok(()) }
    }

    /// Unmounts a volume that nobody uses.
    pub fn forget(&self, name: &str) -> Result<(), Problem> {
        let at = self.mountpoint(name);
        match take_away(&at) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(failed("unmount", &at, &errno.into())),
        }
        let dir = self.dir.join(name);
        for path in [&at, &dir.join("users"), &dir] {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failed("remove", path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether something is mounted there, and answers.
fn is_served(at: &Path) -> bool {
    fs::metadata(at).is_ok() && mountinfo::at(at).is_ok_and(|mount| mount.is_some())
}

/// Docker and Podman give ids of hexadecimal digits.
fn file_name(id: &str) -> Result<&str, Problem> {
    if id.is_empty() || id.len() > 255 || id.starts_with('.') || id.contains(['/', '\0']) {
        return Err(Problem::new(format!("'{}' is not the id of a container", plain::line(id))));
    }
    Ok(id)
}

fn make(dir: &Path) -> Result<(), Problem> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| failed("make", dir, &error))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(format!("cannot {what} '{}': {error}", plain::path(path)))
}
