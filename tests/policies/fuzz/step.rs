//! The calls, and who makes them.

use std::fmt;
use std::os::fd::OwnedFd;

use rustix::fs::{RenameFlags, makedev};

use super::tree::{
    CAPABILITY, KEPT, MARK, RECORD, S_IFBLK, S_IFCHR, S_IFIFO, S_IFREG, capability, random_acl,
};
use crate::common::dice::Dice;
use crate::common::{ACL_ACCESS, ACL_DEFAULT, lo};

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) name: &'static str,
    pub(super) id: u32,
    pub(super) groups: &'static [u32],
}

pub(super) const CALLERS: [Who; 5] = [
    Who { name: "root", id: 0, groups: &[] },
    Who { name: "owner", id: 1000, groups: &[] },
    Who { name: "member", id: 1001, groups: &[1000] },
    Who { name: "other", id: 1002, groups: &[] },
    Who { name: "outside", id: 50_000, groups: &[] },
];

impl Who {
    pub(super) fn is_root(self) -> bool {
        self.id == 0
    }

    pub(super) fn is_in(self, group: u32) -> bool {
        self.id == group || self.groups.contains(&group)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    List,
    Write,
    Empty,
    Truncate,
    Allocate,
    Copy,
    /// An open file for later; its right to write is the call's number.
    Hold,
    Create,
    Tmpfile,
    Mkdir,
    Mknod,
    Symlink,
    Link,
    Rename,
    Exchange,
    Whiteout,
    Unlink,
    Rmdir,
    Chmod,
    Chown,
    Times,
    Now,
    Attribute,
    Remove,
    Flags,
    HeldWrite,
    HeldRead,
    HeldTruncate,
    HeldAllocate,
    HeldChmod,
    HeldChown,
    /// The server is killed, and another goes on.
    Kill,
    /// Somebody changes the mode or the owner below.
    Below,
}

const CALLS: &[Call] = &[
    Call::Read,
    Call::List,
    Call::Write,
    Call::Write,
    Call::Empty,
    Call::Truncate,
    Call::Allocate,
    Call::Copy,
    Call::Hold,
    Call::Hold,
    Call::Create,
    Call::Create,
    Call::Tmpfile,
    Call::Mkdir,
    Call::Mknod,
    Call::Symlink,
    Call::Link,
    Call::Rename,
    Call::Exchange,
    Call::Whiteout,
    Call::Unlink,
    Call::Rmdir,
    Call::Chmod,
    Call::Chmod,
    Call::Chown,
    Call::Chown,
    Call::Times,
    Call::Now,
    Call::Attribute,
    Call::Attribute,
    Call::Remove,
    Call::Flags,
    Call::HeldWrite,
    Call::HeldWrite,
    Call::HeldWrite,
    Call::HeldRead,
    Call::HeldTruncate,
    Call::HeldAllocate,
    Call::HeldChmod,
    Call::HeldChmod,
    Call::HeldChown,
    Call::Kill,
    Call::Below,
    Call::Below,
];

/// One call. What it does not need of the rest it leaves alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) who: Who,
    pub(super) call: Call,
    pub(super) path: &'static str,
    pub(super) to: &'static str,
    pub(super) mode: u32,
    pub(super) kind: u32,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) attribute: &'static str,
    pub(super) value: Vec<u8>,
    pub(super) slot: usize,
    pub(super) number: u8,
}

const PATHS: &[&str] =
    &["a", "a", "b", "b", "c", "c", "d/a", "d/a", "d/b", "e/a", "e/b", "d", "e", "new", "d/new"];
const NEW: &[&str] =
    &["new", "d/new", "e/new", "one", "two", "d/one", "d/two", "e/one", "e/two", "a", "d/a", "d"];
const DIRS: &[&str] = &["d", "e", "d", "e", "new", "one", "a"];

/// Where such a call mostly finds something to do.
fn paths(call: Call) -> &'static [&'static str] {
    match call {
        Call::Tmpfile | Call::List | Call::Rmdir => DIRS,
        Call::Create | Call::Mkdir | Call::Mknod | Call::Symlink => NEW,
        _ => PATHS,
    }
}

const MODES: &[u32] = &[
    0o644, 0o600, 0o777, 0o4755, 0o2755, 0o6777, 0o666, 0o070, 0o1777, 0o2777, 0o2644, 0o6755,
    0o604,
];
pub(super) const SLOTS: usize = 2;

/// Somebody and a file that some steps after each other are about.
#[derive(Clone, Copy)]
pub(super) struct Focus {
    who: Who,
    path: &'static str,
    slot: usize,
}

fn someone(dice: &mut Dice) -> Who {
    CALLERS[dice.of(&[0, 0, 1, 1, 1, 1, 2, 2, 3, 4])]
}

impl Focus {
    pub(super) fn random(dice: &mut Dice) -> Self {
        Self { who: someone(dice), path: dice.of(PATHS), slot: dice.size(SLOTS as u64) }
    }
}

impl Step {
    pub(super) fn random(dice: &mut Dice, focus: Focus) -> Self {
        let attributes = [MARK, ACL_ACCESS, ACL_ACCESS, ACL_DEFAULT, CAPABILITY, KEPT, RECORD];
        let attribute = dice.of(&attributes);
        let value = match attribute {
            ACL_ACCESS | ACL_DEFAULT => random_acl(dice, |id| id),
            CAPABILITY => {
                capability(dice.of(&[None, None, Some(0), Some(1000), Some(lo(0)), Some(60_000)]))
            }
            KEPT => b"1 6000 0.000000000 -".to_vec(),
            RECORD => b"20000:20000:06777:file".to_vec(),
            _ => vec![u8::try_from(dice.below(250)).unwrap()],
        };
        let call = dice.of(CALLS);
        let to = match call {
            Call::Tmpfile | Call::Link => NEW,
            _ => PATHS,
        };
        let is_new = matches!(call, Call::Create | Call::Mkdir | Call::Mknod | Call::Symlink);
        let ids = [None, Some(0), Some(1000), Some(1001), Some(1002), Some(50_000), Some(65_534)];
        Self {
            who: if dice.below(2) == 0 { focus.who } else { someone(dice) },
            call,
            path: if is_new || dice.below(2) == 0 { dice.of(paths(call)) } else { focus.path },
            to: dice.of(to),
            mode: dice.of(MODES),
            kind: dice.of(&[S_IFREG, S_IFREG, S_IFCHR, S_IFBLK, S_IFIFO]),
            uid: dice.of(&ids),
            gid: dice.of(&ids),
            attribute,
            value,
            slot: if dice.below(4) > 0 { focus.slot } else { dice.size(SLOTS as u64) },
            number: u8::try_from(dice.below(250)).unwrap(),
        }
    }

    /// The focus opens its file, and keeps it open.
    pub(super) fn hold(dice: &mut Dice, focus: Focus) -> Self {
        let Focus { who, path, slot } = focus;
        Self { call: Call::Hold, who, path, slot, ..Self::random(dice, focus) }
    }

    /// Whether the descriptor that is made by `Hold` may write.
    pub(super) fn holds_to_write(&self) -> bool {
        !self.number.is_multiple_of(3)
    }

    pub(super) fn device(&self) -> u64 {
        if self.number.is_multiple_of(4) { 0 } else { makedev(1, 3) }
    }

    pub(super) fn flags(&self) -> RenameFlags {
        match self.call {
            Call::Exchange => RenameFlags::EXCHANGE,
            Call::Whiteout => RenameFlags::WHITEOUT,
            _ if self.number.is_multiple_of(2) => RenameFlags::NOREPLACE,
            _ => RenameFlags::empty(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, call, path, to, mode, kind, uid, gid, slot, number, .. } = self;
        write!(f, "{} {call:?} {path} {to} {mode:o} {number}", who.name)?;
        match call {
            Call::Mknod => write!(f, " kind {kind:o}"),
            Call::Chown => write!(f, " ids {uid:?} {gid:?}"),
            Call::HeldChown => write!(f, " ids {uid:?} {gid:?} slot {slot}"),
            Call::Attribute | Call::Remove => write!(f, " {}={:?}", self.attribute, self.value),
            _ => write!(f, " slot {slot}"),
        }
    }
}

/// A file that somebody holds open, and a descriptor below to look at it.
pub(super) struct Slot {
    pub(super) upper: OwnedFd,
    pub(super) lower: OwnedFd,
    pub(super) number: u64,
    pub(super) writes: bool,
}

/// What a call gave.
#[derive(Debug)]
pub(super) enum Gave {
    Nothing,
    Held(OwnedFd),
}
