//! What the demo plays on: a temporary directory with a lower tree and a mount point, and the
//! means to act as somebody and to show both sides.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::daemon::log;
use crate::error::StartError;

/// A temporary directory with `lower` and `mnt` in it, which goes away, with the mount, when this
/// value does.
#[derive(Debug)]
pub(super) struct Stage {
    home: PathBuf,
    program: PathBuf,
    mounted: bool,
    interrupted: Arc<AtomicBool>,
}

/// How a step went wrong.
pub(super) fn failed(what: impl Into<String>) -> StartError {
    StartError::System {
        what: "the demo has ended early".to_owned(),
        source: std::io::Error::other(what.into()),
    }
}

fn system(what: String) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

impl Stage {
    /// Makes the directories, where everybody can reach them.
    pub(super) fn set() -> Result<Self, StartError> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .map_err(system("cannot wait for signals".to_owned()))?;
        }
        let program =
            std::env::current_exe().map_err(system("cannot find this program".to_owned()))?;
        let candidates = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
        let parent = candidates.iter().find(|path| open_to_all(path)).unwrap_or(&candidates[0]);
        let home = parent.join(format!("idshift-demo-{}", std::process::id()));
        fs::create_dir(&home).map_err(system(format!("cannot make '{}'", home.display())))?;
        let stage = Self { home, program, mounted: false, interrupted };
        set_mode(&stage.home, 0o755)?;
        stage.directory(&stage.lower(), 0o755)?;
        stage.directory(&stage.mountpoint(), 0o755)?;
        Ok(stage)
    }

    pub(super) fn lower(&self) -> PathBuf {
        self.home.join("lower")
    }

    pub(super) fn mountpoint(&self) -> PathBuf {
        self.home.join("mnt")
    }

    fn directory(&self, path: &Path, mode: u32) -> Result<(), StartError> {
        fs::create_dir(path).map_err(system(format!("cannot make '{}'", path.display())))?;
        self.go_on()?;
        set_mode(path, mode)
    }

    /// Puts a directory (without `text`) or a file into the lower tree.
    pub(super) fn put(
        &self,
        name: &str,
        owner: u32,
        mode: u32,
        text: Option<&str>,
    ) -> Result<(), StartError> {
        let path = self.lower().join(name);
        match text {
            None => self.directory(&path, mode)?,
            Some(text) => fs::write(&path, text)
                .map_err(system(format!("cannot write '{}'", path.display())))?,
        }
        std::os::unix::fs::chown(&path, Some(owner), Some(owner))
            .map_err(system(format!("cannot give '{}' to {owner}", path.display())))?;
        set_mode(&path, mode)
    }

    /// Mounts with this program's own `mount` command, and says so.
    pub(super) fn mount(&mut self, map: &str) -> Result<(), StartError> {
        say!("   $ idshift mount -o map={map} lower mnt");
        let status = self
            .command(&["mount", "-o", &format!("map={map}")])
            .args([self.lower(), self.mountpoint()])
            // Its warning about set-user-ID programs is for trees that stay.
            .env(log::VARIABLE, "error")
            .status()
            .map_err(system("cannot run 'idshift mount'".to_owned()))?;
        self.mounted = status.success();
        if self.mounted { self.go_on() } else { Err(failed("'idshift mount' failed, see above")) }
    }

    pub(super) fn unmount(&mut self) -> Result<(), StartError> {
        say!("   $ idshift umount mnt");
        let status = self
            .command(&["umount"])
            .arg(self.mountpoint())
            .status()
            .map_err(system("cannot run 'idshift umount'".to_owned()))?;
        self.mounted = !status.success();
        if self.mounted { Err(failed("'idshift umount' failed, see above")) } else { Ok(()) }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a shell command in the stage's directory as user and group `id`, prints it with what
    /// it says, and returns whether it succeeded.
    pub(super) fn act(&self, id: u32, command: &str) -> Result<bool, StartError> {
        self.go_on()?;
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(&self.home).stdin(Stdio::null()).env("LC_ALL", "C");
        if id != rustix::process::geteuid().as_raw() {
            shell.uid(id).gid(id);
        }
        let output = shell.output().map_err(system(format!("cannot run 'sh' as user {id}")))?;
        say!("   {id:>6} $ {command}");
        for line in [output.stdout, output.stderr].concat().split(|byte| *byte == b'\n') {
            if !line.is_empty() {
                say!("            {}", String::from_utf8_lossy(line));
            }
        }
        Ok(output.status.success())
    }

    /// As [`Stage::act`], where the outcome is known.
    pub(super) fn expect(&self, id: u32, command: &str, succeeds: bool) -> Result<(), StartError> {
        if self.act(id, command)? == succeeds {
            return Ok(());
        }
        let should = if succeeds { "have succeeded" } else { "have been refused" };
        Err(failed(format!("'{command}' as user {id} should {should}")))
    }

    /// Prints owners and modes on both sides next to each other.
    pub(super) fn compare(&self, names: &[&str]) -> Result<(), StartError> {
        say!("   {:24} {:27} shown (mnt)", "", "stored (lower)");
        for name in names {
            let stored = described(&self.lower().join(name))?;
            let shown = described(&self.mountpoint().join(name))?;
            say!("   {name:24} {stored:27} {}", shown.trim_end());
        }
        self.go_on()
    }

    /// The owner of a file of the lower tree must be `owner`.
    pub(super) fn check_stored(&self, name: &str, owner: u32) -> Result<(), StartError> {
        let path = self.lower().join(name);
        let is = fs::symlink_metadata(&path)
            .map_err(system(format!("cannot look at '{}'", path.display())))?;
        say!("   stored: {}", described(&path)?.trim_end());
        if (is.uid(), is.gid()) == (owner, owner) {
            return Ok(());
        }
        Err(failed(format!("'{name}' is stored as {}:{}, not {owner}:{owner}", is.uid(), is.gid())))
    }

    /// An interrupted demo ends between two steps, so that it can clean up.
    fn go_on(&self) -> Result<(), StartError> {
        if self.interrupted.load(Ordering::Relaxed) { Err(failed("interrupted")) } else { Ok(()) }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.mounted {
            let done = self.command(&["umount", "-l"]).arg(self.mountpoint()).status();
            if !done.is_ok_and(|status| status.success()) {
                complain!("idshift: the mount at '{}' is left", self.mountpoint().display());
                return;
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.home) {
            complain!("idshift: cannot remove '{}': {error}", self.home.display());
        }
    }
}

/// Whether everybody can get to `path`, so that the demo's users reach the files in it.
fn open_to_all(path: &Path) -> bool {
    let searchable = |path: &Path| path.metadata().is_ok_and(|it| it.mode() & 0o001 != 0);
    path.ancestors().all(searchable)
        && rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

fn set_mode(path: &Path, mode: u32) -> Result<(), StartError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(system(format!("cannot set the mode of '{}'", path.display())))
}

/// `-rw-r--r-- 1000:1000`.
fn described(path: &Path) -> Result<String, StartError> {
    let it = fs::symlink_metadata(path)
        .map_err(system(format!("cannot look at '{}'", path.display())))?;
    Ok(format!("{} {:>6}:{:<6}", mode_text(it.mode()), it.uid(), it.gid()))
}

/// The type and the rights, as `ls -l` writes them.
fn mode_text(mode: u32) -> String {
    let kind = if mode & 0o170_000 == 0o040_000 { 'd' } else { '-' };
    let bits =
        (0..9).map(|bit| if mode & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] });
    std::iter::once(kind).chain(bits).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_ls_writes_them() {
        assert_eq!(mode_text(0o040_755), "drwxr-xr-x");
        assert_eq!(mode_text(0o100_640), "-rw-r-----");
    }
}
