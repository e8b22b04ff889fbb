//! What map specs refer to outside of themselves: files, user namespaces, accounts and their
//! ranges of ids. This library reads none of them; whoever uses it hands over a [`Sources`].

use std::io;
use std::path::{Path, PathBuf};

use crate::error::RawExtent;

/// A user namespace, as a `userns:` spec names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// The one of this process.
    Pid(u32),
    /// The one behind this file: `/proc/PID/ns/user`, or whatever that is bind-mounted on.
    Path(PathBuf),
}

/// The maps of a user namespace: `lower` is the id inside, `upper` the id that the reader has for
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceMaps {
    /// Of `/proc/PID/uid_map`.
    pub uids: Vec<RawExtent>,
    /// Of `/proc/PID/gid_map`.
    pub gids: Vec<RawExtent>,
}

/// A range of ids that `/etc/subuid` or `/etc/subgid` grants to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id, as the host counts.
    pub first: u32,
    /// How many; may be 0, as a file may say that.
    pub count: u32,
}

/// The ids of a user: those of the account, and the granted ranges in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnIds {
    /// The account's uid.
    pub uid: u32,
    /// The account's primary group.
    pub gid: u32,
    /// What `/etc/subuid` grants (subuid(5)).
    pub uids: Vec<Range>,
    /// What `/etc/subgid` grants.
    pub gids: Vec<Range>,
}

/// Looks up what map specs name. Errors are words for the person who gave the spec.
///
/// Any closure that reads files is one, for specs that need no more:
///
/// ```
/// use std::path::Path;
/// use idmap::map::Maps;
///
/// let read = |path: &Path| std::fs::read_to_string(path);
/// assert!(Maps::from_specs(&["b:0:100000:65536"], &read).is_ok());
/// let error = Maps::from_specs(&["userns:1"], &read).unwrap_err();
/// assert!(error.to_string().contains("cannot be looked up here"));
/// ```
pub trait Sources {
    /// The text of a file, for `file:PATH`.
    fn file(&self, path: &Path) -> io::Result<String>;

    /// The maps of a user namespace, for `userns:`.
    fn namespace(&self, _namespace: &Namespace) -> Result<NamespaceMaps, String> {
        Err("user namespaces cannot be looked up here".to_owned())
    }

    /// The ids of a user, given by login name or number, for `subuid:`.
    fn own_ids(&self, _user: &str) -> Result<OwnIds, String> {
        Err("the ids of users cannot be looked up here".to_owned())
    }

    /// The number of a user, for `name:u:`; `None` if there is none of that name.
    fn uid(&self, _name: &str) -> Result<Option<u32>, String> {
        Err("user names cannot be looked up here".to_owned())
    }

    /// The number of a group, for `name:g:`; `None` if there is none of that name.
    fn gid(&self, _name: &str) -> Result<Option<u32>, String> {
        Err("group names cannot be looked up here".to_owned())
    }
}

impl<F: Fn(&Path) -> io::Result<String>> Sources for F {
    fn file(&self, path: &Path) -> io::Result<String> {
        self(path)
    }
}

/// Reads a map in the layout of `/proc/PID/uid_map`: three numbers a line, the id inside first.
/// The second may be 4294967295, for an id that the reader of the file has no number for.
pub fn parse_proc_map(text: &str) -> Result<Vec<RawExtent>, String> {
    text.lines().filter(|line| !line.trim().is_empty()).map(proc_line).collect()
}

fn proc_line(line: &str) -> Result<RawExtent, String> {
    let numbers: Result<Vec<u32>, _> = line.split_ascii_whitespace().map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[lower, upper, count]) => Ok(RawExtent { lower, upper, count }),
        _ => Err(format!("'{}' is no line of an id map", line.trim().escape_debug())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn maps_of_proc_are_read() {
        let text = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(
            parse_proc_map(text).unwrap(),
            [
                RawExtent { lower: 0, upper: 1000, count: 1 },
                RawExtent { lower: 1, upper: 100_000, count: 65_536 }
            ]
        );
        assert_eq!(parse_proc_map("\n"), Ok(vec![]));
        assert_eq!(parse_proc_map("0 4294967295 1").unwrap()[0].upper, u32::MAX);
        for wrong in ["0 1", "0 1 2 3", "a b c", "0 1 4294967296"] {
            assert!(parse_proc_map(wrong).unwrap_err().contains(wrong));
        }
    }
}
