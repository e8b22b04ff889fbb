//! The words.

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::shift::access::Shown;
use crate::shift::acl::describe;
use crate::shift::deny_groups::DenyGroups;
use crate::shift::id::{INVALID, Id, Kind, Lower};
use crate::shift::idmap::IdMap;
use crate::shift::set_id::SetIdPolicy;
use crate::shift::unmapped::UnmappedOwners;

use super::super::FileSystem;
use super::{RightsOf, Step, Walk};

/// The name of an errno, as man pages have it.
pub(super) fn errno(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => "EACCES",
        Errno::PERM => "EPERM",
        Errno::OVERFLOW => "EOVERFLOW",
        Errno::ROFS => "EROFS",
        Errno::NOENT => "ENOENT",
        Errno::EXIST => "EEXIST",
        Errno::BUSY => "EBUSY",
        _ => "EIO",
    }
}

/// `rwx`, with dashes.
pub(super) fn rights(bits: u32) -> String {
    [(4, 'r'), (2, 'w'), (1, 'x')]
        .map(|(bit, letter)| if bits & bit != 0 { letter } else { '-' })
        .iter()
        .collect()
}

impl FileSystem {
    /// What is known of the file, before anything is judged.
    pub(super) fn describe(&self, walk: &Walk, asked: &RightsOf<'_>) -> Vec<String> {
        let groups: Vec<_> = asked.person.groups.iter().map(ToString::to_string).collect();
        let mut lines = vec![format!("user    {}, groups {}", asked.person.uid, groups.join(" "))];
        let Some(step) = walk.steps.last().filter(|_| walk.hidden.is_none()) else {
            return lines;
        };
        if walk.missing {
            lines.push(format!("path    is not there; about its directory '{}':", step.name));
        }
        let (stored, shown) = (&step.stored, &step.shown);
        let raw = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
        let (uid, gid) = (raw(stored.uid.map(Id::raw)), raw(stored.gid.map(Id::raw)));
        let kept = if self.owners.is_some() { " (in an attribute)" } else { "" };
        lines.push(format!(
            "stored  {} of {uid}:{gid}{kept}, mode {:04o}",
            kind(step.kind),
            stored.mode & 0o7777
        ));
        lines.push(format!(
            "shown   of {}:{}, mode {:04o}",
            name(shown.uid),
            name(shown.gid),
            shown.mode & 0o7777
        ));
        lines.push(entry(&self.maps.uids, stored.uid, shown.uid));
        lines.push(entry(&self.maps.gids, stored.gid, shown.gid));
        lines.extend(acls(step));
        lines.extend(self.policies(step, asked).into_iter().map(|line| format!("policy  {line}")));
        lines
    }

    fn policies(&self, step: &Step, asked: &RightsOf<'_>) -> Vec<String> {
        let mut lines = Vec::new();
        let changed =
            |shown: &Shown, plain: &Shown| shown.mode != plain.mode || shown.acl != plain.acl;
        let cuts = if changed(&step.shown, &step.plain) {
            "it changes what is shown here"
        } else {
            "no effect here"
        };
        match self.policies.deny_groups {
            DenyGroups::Off => {}
            DenyGroups::Group => lines.push(format!("deny_groups=group: {cuts}")),
            DenyGroups::All => lines.push(format!("deny_groups=all: {cuts}")),
        }
        if !step.plain.is_mapped() {
            lines.push(match self.policies.unmapped {
                UnmappedOwners::Overflow => {
                    "unmapped=overflow: nobody owns it, nobody may change it".to_owned()
                }
                UnmappedOwners::Restrict => {
                    "unmapped=restrict: everybody has what owner, group and others all have".into()
                }
                UnmappedOwners::Owner(uid, gid) => {
                    format!("unmapped=owner: shown as {uid}:{gid}'s, who may not change it")
                }
                UnmappedOwners::Squash(uid, gid) => {
                    format!("unmapped=squash: {uid}:{gid} own it")
                }
                UnmappedOwners::Deny => "unmapped=deny: nobody sees it".to_owned(),
            });
        }
        match self.policies.set_id {
            SetIdPolicy::Pass => {}
            SetIdPolicy::Deny => lines.push("suid=deny: set-ID bits cannot be set".to_owned()),
            SetIdPolicy::Shadow => {
                lines.push("suid=shadow: set-ID bits count in this mount alone".to_owned());
            }
        }
        if self.owners.is_some() {
            lines.push("ownership=xattr: owner and mode stand in an attribute".to_owned());
        }
        if asked.read_only {
            lines.push("ro: nothing can be changed".to_owned());
        }
        if asked.noexec {
            lines.push("noexec: nothing can be executed".to_owned());
        }
        lines
    }
}

fn acls(step: &Step) -> Vec<String> {
    let describe = |value: &Vec<u8>| describe(value).unwrap_or_else(|| "malformed".to_owned());
    let stored = step.stored_acl.as_ref().map(describe);
    let Some(stored) = stored else { return Vec::new() };
    let shown = step.shown.acl.as_ref().map_or("none".to_owned(), describe);
    vec![format!("ACL     stored {stored}"), format!("        shown  {shown}")]
}

/// The extent of the map that an id goes through.
fn entry<K: Kind>(map: &IdMap<K>, stored: Option<Id<K, Lower>>, shown: u32) -> String {
    let holds = |id: Id<K, Lower>| {
        map.extents().iter().find(|extent| extent.lower_first() <= id && id <= extent.lower_last())
    };
    let Some(stored) = stored else { return format!("map     {}: no valid id is stored", K::NAME) };
    match holds(stored) {
        Some(extent) => format!(
            "map     {} {stored} ⇒ {shown}, by lower {}–{} ⇒ {}–{}",
            K::NAME,
            extent.lower_first(),
            extent.lower_last(),
            extent.upper_first(),
            extent.upper_last()
        ),
        None => format!("map     {} {stored} is in no extent: unmapped", K::NAME),
    }
}

/// An id as stat(2) shows it.
fn name(id: u32) -> String {
    if id == INVALID { "65534 (unmapped)".to_owned() } else { id.to_string() }
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        _ => "a device",
    }
}
