//! Options that mount(8) has not told its helper of.
//!
//! It carries X-mount options out by itself and passes none of them on. A mount(8) before 2.39 carries
//! out neither `X-mount.idmap=` nor `X-mount.subdir=` where a helper mounts, and says nothing: without
//! a map, or with the whole tree in place of a part, more would be shown than was asked for. So the helper looks
//! at what mount(8) was told: its command line, and the line of the table that it mounts from.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::StartError;
use crate::host::mountinfo;

/// What such a mount(8) forgets.
const FORGOTTEN: [&str; 2] = ["X-mount.idmap", "X-mount.subdir"];
/// The first version that does what they say.
const SINCE: (u32, u32) = (2, 39);

/// Refuses a mount of which mount(8) has forgotten an option.
pub(super) fn check(mountpoint: &Path) -> Result<(), StartError> {
    let Some(caller) = caller() else { return Ok(()) };
    let table = fs::read_to_string(table(&caller)).unwrap_or_default();
    let Some(option) = asked(&caller, &table, mountpoint) else { return Ok(()) };
    let said = Command::new("mount").arg("--version").output().map(|out| out.stdout);
    let said = String::from_utf8(said.unwrap_or_default()).unwrap_or_default();
    match version(&said) {
        Some(version) if version < SINCE => Err(StartError::Usage(format!(
            "option '{option}': this mount(8) ({}.{}) does not carry it out (from {}.{} on it does); {}",
            version.0,
            version.1,
            SINCE.0,
            SINCE.1,
            match option.strip_prefix("X-mount.idmap=") {
                Some(map) => format!("write map={map}, whose numbers have the same order"),
                None => "give that directory itself as LOWER".to_owned(),
            }
        ))),
        _ => Ok(()),
    }
}

/// The command line of the mount(8) that has called; `None` if it is another program.
fn caller() -> Option<Vec<OsString>> {
    let dir = PathBuf::from("/proc").join(std::os::unix::process::parent_id().to_string());
    let name = fs::read(dir.join("comm")).ok()?;
    let line = fs::read(dir.join("cmdline")).ok().filter(|_| name == b"mount\n")?;
    Some(line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// Where it reads what `mount MOUNTPOINT` and `mount -a` mean.
fn table(caller: &[OsString]) -> PathBuf {
    let is_it = |word: &OsString| word == "-T" || word == "--fstab";
    let given = caller.iter().position(is_it).and_then(|at| caller.get(at + 1));
    given.map_or_else(|| PathBuf::from("/etc/fstab"), PathBuf::from)
}

/// The option that was asked for, on the command line or in the table.
fn asked(caller: &[OsString], table: &str, mountpoint: &Path) -> Option<String> {
    let line = caller.iter().filter_map(|word| find(word));
    let resolved =
        |path: &Path| mountinfo::resolve_mountpoint(path).unwrap_or_else(|_| path.to_owned());
    let at = resolved(mountpoint);
    let of_table = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().filter(|_| !line.trim_start().starts_with('#'));
        let (_, point, _, options) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let point = point.replace("\\040", " ");
        find(OsStr::new(options)).filter(|_| resolved(Path::new(&point)) == at)
    });
    line.chain(of_table).next()
}

fn find(word: &OsStr) -> Option<String> {
    let mut options = word.to_str()?.split(',');
    let is_forgotten = |option: &&str| {
        FORGOTTEN.iter().any(|name| option.strip_prefix(name).is_some_and(|o| o.starts_with('=')))
    };
    options.find(is_forgotten).map(str::to_owned)
}

/// `mount from util-linux 2.38.1 (libmount 2.38.1: …)`
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split("libmount ").nth(1)?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn options_are_found_where_they_were_given() {
        let table = "# a\n/a /mnt/a fuse.idshift map=identity,X-mount.subdir=x 0 0\n/b /mnt/b\\040c none ro,X-mount.idmap=u:0:1:2\n";
        let found = |line: &str, point: &str| asked(&words(line), table, Path::new(point));
        assert_eq!(found("mount -a", "/mnt/a").as_deref(), Some("X-mount.subdir=x"));
        assert_eq!(found("mount -a", "/mnt/b c").as_deref(), Some("X-mount.idmap=u:0:1:2"));
        assert_eq!(found("mount -a", "/mnt/c"), None);
        let line = "mount -o map=identity,X-mount.idmap=b:0:1:2 /x /mnt/c";
        assert_eq!(found(line, "/mnt/c").as_deref(), Some("X-mount.idmap=b:0:1:2"));
        assert_eq!(found("mount -o map=identity,X-mount.mkdir=0700", "/mnt/c"), None);
        assert_eq!(table_of("mount -a"), "/etc/fstab");
        assert_eq!(table_of("mount -T /x/tab -a"), "/x/tab");
    }

    fn table_of(line: &str) -> String {
        super::table(&words(line)).display().to_string()
    }

    #[test]
    fn versions() {
        let said =
            |number: &str| format!("mount from util-linux {number} (libmount {number}: btrfs)\n");
        assert_eq!(version(&said("2.38.1")), Some((2, 38)));
        assert_eq!(version(&said("2.41")), Some((2, 41)));
        assert_eq!(version("BusyBox v1.36"), None);
    }
}
