//! The mounts of a container: made before it, taken away after it, and found again if a runtime was killed in between.
//!
//! They lie in `/run/idshift/runtime/ID/N` (for a user namespace in `$XDG_RUNTIME_DIR`), beside a file `runtime` that says which
//! runtime knows the container. The directory of a container is open to the container's root alone: what a mount shows is
//! as private as its source was.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::config::Asked;
use super::request::Container;
use crate::containers::Problem;
use crate::containers::shifted::{escaped, run_mount, runtime_dir, take_away};
use crate::host::{cgroups, privilege};
use crate::plain;

/// The directory of one container's mounts.
#[derive(Debug)]
pub struct ContainerDir {
    path: PathBuf,
}

/// A container whose mounts are still there.
#[derive(Debug)]
pub struct Left {
    /// Its mounts.
    pub place: ContainerDir,
    /// Its id.
    pub id: String,
    /// How its runtime is asked about it: the program, and the arguments before the command.
    pub runtime: Vec<OsString>,
}

/// Where the mounts of all containers lie.
fn base() -> Result<PathBuf, Problem> {
    Ok(runtime_dir()?.join("runtime"))
}

/// An id that is the name of a directory, and of nothing else.
fn is_a_name(id: &str) -> bool {
    !id.is_empty() && id != "." && id != ".." && !id.contains('/') && id.len() <= 255
}

impl ContainerDir {
    /// The place of a container, whether it is there or not. `None` for an id that no container can have.
    pub fn of(id: &str) -> Result<Option<Self>, Problem> {
        if !is_a_name(id) {
            return Ok(None);
        }
        Ok(Some(Self { path: base()?.join(id) }))
    }

    /// All that are there.
    pub fn all() -> Result<Vec<Left>, Problem> {
        let base = base()?;
        let entries = match fs::read_dir(&base) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &base, &error)),
        };
        let mut left = Vec::new();
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let place = Self { path: entry.path() };
            left.push(Left { runtime: place.runtime(), place, id });
        }
        Ok(left)
    }

    /// Makes the directory. This runtime uses an id again only when the former container has gone; one
    /// that keeps its state elsewhere has containers, and ids, of its own.
    pub fn make(&self, container: &Container, runtime: &[&OsStr]) -> Result<(), Problem> {
        self.remove(runtime)?;
        if self.path.exists() {
            return Err(Problem::new(format!(
                "'{}' has the mounts of another runtime's container of this id; give this one another id",
                plain::path(&self.path)
            )));
        }
        let base = self.path.parent().unwrap_or(Path::new("/"));
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o711);
        builder.create(base).map_err(|error| failed("make", base, &error))?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&self.path)
            .map_err(|error| failed("make", &self.path, &error))?;
        let words = runtime.iter().flat_map(|word| word.as_bytes().iter().copied().chain([0]));
        let file = self.path.join("runtime");
        fs::write(&file, words.collect::<Vec<u8>>()).map_err(|e| failed("write", &file, &e))?;
        // The runtime may look the source up as the container's root.
        let root = |id: Option<u32>| id.unwrap_or(0);
        let uid = root(
            idmap::LowerUid::new(0)
                .and_then(|id| container.maps.up_uid(id))
                .map(idmap::id::Id::raw),
        );
        let gid = root(
            idmap::LowerGid::new(0)
                .and_then(|id| container.maps.up_gid(id))
                .map(idmap::id::Id::raw),
        );
        std::os::unix::fs::chown(&self.path, Some(uid), Some(gid))
            .map_err(|error| failed("give away", &self.path, &error))
    }

    /// Mounts the source of what was asked with its map, and returns what the runtime is to bind.
    pub fn mount(
        &self,
        number: usize,
        asked: &Asked,
        container: &Container,
    ) -> Result<PathBuf, Problem> {
        let Asked { destination, source, request, .. } = asked;
        let of_mount = |why: String| {
            Problem::new(format!(
                "mount '{}' of '{}': {why}",
                plain::line(destination),
                plain::path(source)
            ))
        };
        let found = fs::metadata(source).map_err(|error| of_mount(error.to_string()))?;
        let specs = request
            .specs(container, (found.uid(), found.gid()))
            .map_err(|e| of_mount(e.to_string()))?;
        let at = self.path.join(number.to_string());
        let made = if found.is_dir() {
            fs::DirBuilder::new().mode(0o755).create(&at)
        } else {
            fs::File::create_new(&at).map(drop)
        };
        made.map_err(|e| failed("make", &at, &e))?;
        let maps: Vec<String> = specs.iter().map(|spec| format!("map={}", escaped(spec))).collect();
        let maps = maps.join(",");
        // A server of root's is replaced if it is killed. Who may not mount on the host cannot have that.
        let restart = if privilege::in_initial_namespace() { ",restart=on" } else { "" };
        run_mount(&format!("{maps},backend=auto{restart}"), source, &at).map_err(of_mount)?;
        Ok(at)
    }

    /// Takes the mounts and the directory of this runtime's container away; they need not be there.
    pub fn remove(&self, runtime: &[&OsStr]) -> Result<(), Problem> {
        // The same program may be found by another PATH.
        let name = |program: &OsStr| Path::new(program).file_name().map(OsStr::to_owned);
        let is_ours = match self.runtime().split_first() {
            None => true,
            Some((program, state)) => {
                runtime.first().and_then(|ours| name(ours)) == name(program)
                    && runtime.iter().skip(1).eq(state.iter())
            }
        };
        if is_ours { self.take_away() } else { Ok(()) }
    }

    /// The runtime that has recorded itself here: the program, and the arguments before the command.
    fn runtime(&self) -> Vec<OsString> {
        let text = fs::read(self.path.join("runtime")).unwrap_or_default();
        let words = text.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        words.map(|word| OsString::from_vec(word.to_vec())).collect()
    }

    /// Takes whatever is there away.
    pub fn take_away(&self) -> Result<(), Problem> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("read", &self.path, &error)),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_name() == "runtime" {
                continue;
            }
            take_away(&path).map_err(|errno| failed("unmount", &path, &errno.into()))?;
            let removed = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
            removed.map_err(|error| failed("remove", &path, &error))?;
        }
        cgroups::tidy();
        let file = self.path.join("runtime");
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove", &file, &error));
            }
            _ => {}
        }
        fs::remove_dir(&self.path).map_err(|error| failed("remove", &self.path, &error))
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(format!("cannot {what} '{}': {error}", plain::path(path)))
}
