//! What rights somebody has on a path, and which rule takes them away: `idshift explain`.
//!
//! The kernel above judges most requests by what this server shows, and the server judges the rest.
//! Here both are told in words, in the order in which they are asked.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::FsError;
use crate::lower::stat::LowerStat;
use crate::lower::table::{Lookup, ROOT_ID};
use crate::plain;
use crate::shift::access::{EXECUTE, Judgement, Person, READ, Shown, WRITE, judge};
use crate::shift::deny_groups::DenyGroups;
use crate::shift::id::Id;
use crate::shift::unmapped::UnmappedOwners;

use super::attr::Of;
use super::{Attr, Call, Caller, FileSystem, Name, XattrReply};

mod below;
mod told;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Open for reading; list a directory.
    Read,
    /// Open for writing; change the names in a directory.
    Write,
    /// Execute; walk through a directory.
    Execute,
    /// Make a file of this name, or any in this directory.
    Create,
    /// Remove the name.
    Delete,
    /// Change the mode.
    Chmod,
    /// Give it to somebody else.
    Chown,
}

impl Want {
    /// All of them, with the words for them.
    pub const NAMES: &[(&str, Self)] = &[
        ("r", Self::Read),
        ("w", Self::Write),
        ("x", Self::Execute),
        ("create", Self::Create),
        ("delete", Self::Delete),
        ("chmod", Self::Chmod),
        ("chown", Self::Chown),
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, want)| *want == self).map_or("r", |(name, _)| name)
    }

    /// The one that a word means.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(word, _)| *word == name).map(|(_, want)| *want)
    }
}

/// What is asked.
#[derive(Debug)]
pub struct RightsOf<'a> {
    /// Who.
    pub person: Person,
    /// The path from the root of the file system on, without links and `..`.
    pub path: &'a [u8],
    /// What for; everything if it is not said.
    pub want: Option<Want>,
    /// Whether the mount is read-only, and whether nothing can be executed there.
    pub read_only: bool,
    /// See `read_only`.
    pub noexec: bool,
    /// The only user who may enter, if there is such a one (no `allow_other`).
    pub only: Option<u32>,
}

/// One name of the path.
struct Step {
    name: String,
    shown: Shown,
    /// The same without the policies.
    plain: Shown,
    kind: FileType,
    stored: LowerStat,
    stored_acl: Option<Vec<u8>>,
    fd: Arc<OwnedFd>,
}

/// The path, as far as it goes.
struct Walk {
    steps: Vec<Step>,
    /// The last name is not there, all others are.
    missing: bool,
    /// A name that is not shown to anybody (`unmapped=deny`).
    hidden: Option<String>,
}

/// `Err` is what the call fails with; both say why.
type Verdict = Result<String, (Errno, String)>;

impl FileSystem {
    /// Tells it. The first line is `allowed`, `denied ERRNO` or, if nothing particular is wanted,
    /// `told`; then come lines for a person.
    pub fn rights_of(&self, call: &Call<'_>, asked: &RightsOf<'_>) -> Result<String, FsError> {
        let walk = self.walk(call, asked.path)?;
        let mut lines = self.describe(&walk, asked);
        let wants = asked.want.map_or_else(|| walk.sensible(), |want| vec![want]);
        let mut first = "told".to_owned();
        for want in wants {
            let mut verdict = self.verdict(&walk, want, asked);
            if let (Ok(granted), Some(object)) = (&verdict, walk.changed_by(want)) {
                verdict = self.below(granted.clone(), want, object, &asked.person);
            }
            if asked.want.is_some() {
                first = match &verdict {
                    Ok(_) => "allowed".to_owned(),
                    Err((errno, _)) => format!("denied {}", told::errno(*errno)),
                };
            }
            lines.push(match verdict {
                Ok(why) => format!("{:<8}yes: {why}", want.name()),
                Err((errno, why)) => format!("{:<8}{}: {why}", want.name(), told::errno(errno)),
            });
        }
        lines.insert(0, first);
        Ok(lines.join("\n") + "\n")
    }

    fn walk(&self, call: &Call<'_>, path: &[u8]) -> Result<Walk, FsError> {
        let mut walk = Walk { steps: Vec::new(), missing: false, hidden: None };
        let mut held: Vec<Lookup<'_>> = Vec::new();
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let mut names = names.map(OsStr::from_bytes).peekable();
        match self.looking(ROOT_ID, || self.step(ROOT_ID, "/".to_owned())) {
            Err(FsError::Refused(Errno::ACCESS)) => walk.hidden = Some("/".to_owned()),
            step => walk.steps.push(step?),
        }
        while let (Some(name), None) = (names.next(), &walk.hidden) {
            let parent = held.last().map_or(ROOT_ID, Lookup::nodeid);
            let text = plain::line(&name.to_string_lossy());
            let name = Name::new(name)?;
            match self.looking(parent, || self.find(call, parent, name)) {
                Ok((lookup, _)) => {
                    let nodeid = lookup.nodeid();
                    held.push(lookup);
                    let step = self.looking(nodeid, || self.step(nodeid, text.clone()))?;
                    walk.steps.push(step);
                }
                Err(FsError::Refused(Errno::ACCESS)) => walk.hidden = Some(text),
                Err(FsError::Os { errno: Errno::NOENT, .. }) if names.peek().is_none() => {
                    walk.missing = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(walk)
    }

    fn step(&self, nodeid: u64, name: String) -> Result<Step, FsError> {
        let inode = self.lower.inode(nodeid)?;
        let fd = self.lower.path_fd(&inode)?;
        let of = Of::Fd(fd.as_fd());
        let stored = self.recorded(of, &LowerStat::of(&fd)?)?;
        let attr = self.shown(of, &stored)?;
        let acl = match self.getxattr(nodeid, OsStr::new(ACCESS_ACL), u32::MAX) {
            Ok(XattrReply::Data(value)) => Some(value),
            _ => None,
        };
        let stored_acl = self.stored_acl(nodeid);
        let plain = Attr::up(&stored, &self.maps);
        let up = |value: &Vec<u8>| crate::shift::acl::up(value, &self.maps, self.unmapped_acl).ok();
        let plain_acl = stored_acl.as_ref().and_then(up).filter(|_| acl.is_some());
        Ok(Step {
            name,
            kind: attr.kind,
            shown: Shown { mode: attr.mode, uid: attr.uid, gid: attr.gid, acl },
            plain: Shown { mode: plain.mode, uid: plain.uid, gid: plain.gid, acl: plain_acl },
            stored,
            stored_acl,
            fd,
        })
    }

    /// What the call would come to.
    fn verdict(&self, walk: &Walk, want: Want, asked: &RightsOf<'_>) -> Verdict {
        if let Some(only) = asked.only.filter(|only| *only != asked.person.uid) {
            let why = format!("only the user {only} may enter: the mount has no allow_other");
            return Err((Errno::ACCESS, why));
        }
        let person = &asked.person;
        let Some((object, directories)) = walk.steps.split_last() else {
            return Err((Errno::ACCESS, HIDDEN.to_owned()));
        };
        let (object, directories) = if walk.missing || walk.hidden.is_some() {
            (None, &walk.steps[..])
        } else {
            (Some(object), directories)
        };
        for directory in directories {
            self.may(person, directory, EXECUTE).map_err(|why| {
                (Errno::ACCESS, format!("may not walk through '{}': {why}", directory.name))
            })?;
        }
        if let Some(name) = &walk.hidden {
            return Err((Errno::ACCESS, format!("'{name}': {HIDDEN}")));
        }
        match (want, object) {
            (Want::Create, None) => self.create_in(walk.steps.last(), asked),
            (Want::Create, Some(step)) if step.kind == FileType::Directory => {
                self.may(person, step, EXECUTE)
                    .map_err(|why| (Errno::ACCESS, format!("may not walk into it: {why}")))?;
                self.create_in(Some(step), asked)
            }
            (Want::Create, Some(_)) => Err((Errno::EXIST, "there is a file already".to_owned())),
            (_, None) => Err((Errno::NOENT, "there is no such file".to_owned())),
            (Want::Delete, Some(step)) => self.delete(directories.last(), step, asked),
            (Want::Chmod | Want::Chown, Some(step)) => self.change(step, want, asked),
            (Want::Read, Some(step)) => self.use_it(step, READ, asked),
            (Want::Write, Some(step)) => self.use_it(step, WRITE, asked),
            (Want::Execute, Some(step)) => self.use_it(step, EXECUTE, asked),
        }
    }

    /// Whether mode and ACL let the person; why, in either case.
    fn may(&self, person: &Person, step: &Step, wanted: u32) -> Result<String, String> {
        let judged = judge(person, &step.shown, wanted);
        let Judgement { granted, by, has } = judged;
        if granted {
            return Ok(format!("as {by}, with {}", told::rights(has)));
        }
        let mut why = format!("as {by} only {}", told::rights(has));
        if judge(person, &step.plain, wanted).granted {
            why += &self.blame(step);
        } else if person.uid == 0 && !step.shown.is_mapped() {
            why += "; root is not above others here, because owner or group are outside the map";
        }
        Err(why)
    }

    /// The policy that has taken a right away.
    fn blame(&self, step: &Step) -> String {
        let mode = step.plain.mode & 0o7777;
        let unmapped =
            !step.plain.is_mapped() && self.policies.unmapped != UnmappedOwners::Overflow;
        let policy = match (unmapped, self.policies.deny_groups) {
            (true, _) => "unmapped=",
            (_, DenyGroups::All) => "deny_groups=all",
            _ => "deny_groups=group",
        };
        format!("; the stored mode {mode:04o} has it, {policy} takes it away")
    }

    fn use_it(&self, step: &Step, wanted: u32, asked: &RightsOf<'_>) -> Verdict {
        let denied = |why: String| (Errno::ACCESS, why);
        let is_file = step.kind == FileType::RegularFile;
        if wanted == EXECUTE && asked.noexec && is_file {
            return Err(denied("the mount is noexec".to_owned()));
        }
        if wanted == WRITE {
            let special = !is_file && step.kind != FileType::Directory;
            if asked.read_only && !special {
                return Err(read_only());
            }
            if !step.shown.is_mapped() {
                return Err(denied(OUTSIDE.to_owned()));
            }
        }
        let granted = self.may(&asked.person, step, wanted).map_err(denied)?;
        if wanted == WRITE && self.protects(step) {
            return Err(denied(PROTECTED.to_owned()));
        }
        Ok(granted)
    }

    /// Whether the server itself refuses changes, because other ids stand in for the owner.
    fn protects(&self, step: &Step) -> bool {
        matches!(self.policies.unmapped, UnmappedOwners::Owner(..)) && !step.plain.is_mapped()
    }

    fn create_in(&self, directory: Option<&Step>, asked: &RightsOf<'_>) -> Verdict {
        let Some(directory) = directory else { return Err((Errno::NOENT, String::new())) };
        if asked.read_only {
            return Err(read_only());
        }
        self.change_names(directory, asked)?;
        let Person { uid, groups } = &asked.person;
        let gid = groups.first().copied().unwrap_or(*uid);
        let caller = Caller { uid: Id::new(*uid), gid: Id::new(gid), tid: 0 };
        let Ok((uid, gid)) = self.born(caller).map(|(uid, gid)| (uid.id(), gid.id())) else {
            let why =
                "the user or the primary group is not in the map, so nothing new can be theirs";
            return Err((Errno::OVERFLOW, why.to_owned()));
        };
        if self.protects(directory) {
            return Err((Errno::ACCESS, PROTECTED.to_owned()));
        }
        Ok(match self.owners {
            None => format!("it is stored as {uid}:{gid}'s, or with the group of the directory"),
            Some(_) => format!("an attribute says that it is {uid}:{gid}'s"),
        })
    }

    /// Whether names may come and go in a directory.
    fn change_names(&self, directory: &Step, asked: &RightsOf<'_>) -> Result<(), (Errno, String)> {
        let of =
            |why: String| (Errno::ACCESS, format!("the directory '{}': {why}", directory.name));
        if !directory.shown.is_mapped() {
            return Err(of(OUTSIDE.to_owned()));
        }
        self.may(&asked.person, directory, WRITE | EXECUTE).map(drop).map_err(of)
    }

    fn delete(&self, parent: Option<&Step>, step: &Step, asked: &RightsOf<'_>) -> Verdict {
        let Some(parent) = parent else {
            return Err((Errno::BUSY, "it is the root of the mount".to_owned()));
        };
        if asked.read_only {
            return Err(read_only());
        }
        if !step.shown.is_mapped() {
            return Err((Errno::OVERFLOW, OUTSIDE.to_owned()));
        }
        self.change_names(parent, asked)?;
        if asked.person.is_held_by_sticky(&parent.shown, &step.shown) {
            let why = "the directory is sticky, and neither it nor this is the user's";
            return Err((Errno::PERM, why.to_owned()));
        }
        if self.protects(parent) {
            return Err((Errno::ACCESS, PROTECTED.to_owned()));
        }
        if self.protects(step) {
            return Err((Errno::OVERFLOW, PROTECTED.to_owned()));
        }
        Ok(format!("names in '{}' may be changed", parent.name))
    }

    fn change(&self, step: &Step, want: Want, asked: &RightsOf<'_>) -> Verdict {
        if asked.read_only {
            return Err(read_only());
        }
        let (person, shown) = (&asked.person, &step.shown);
        // A new owner makes up for an owner outside the map, not for a group.
        let unmapped = if want == Want::Chown { shown.gid } else { shown.uid.max(shown.gid) };
        if unmapped == crate::shift::id::INVALID {
            return Err((Errno::OVERFLOW, OUTSIDE.to_owned()));
        }
        if want == Want::Chmod && !person.may_act_as_owner(shown) {
            return Err((Errno::PERM, "only the owner and root may".to_owned()));
        }
        if want == Want::Chown && person.uid != 0 {
            return Err((Errno::PERM, "only root gives files away".to_owned()));
        }
        if self.protects(step) {
            return Err((Errno::OVERFLOW, PROTECTED.to_owned()));
        }
        Ok(match want {
            Want::Chown => "as root, to anybody who is in the map".to_owned(),
            _ => format!("as {}", if person.uid == shown.uid { "the owner" } else { "root" }),
        })
    }
}

impl Walk {
    /// What has to allow it: the object, or the directory that its name is in.
    fn changed_by(&self, want: Want) -> Option<&Step> {
        match (want, self.steps.as_slice()) {
            (Want::Delete, [.., directory, _]) => Some(directory),
            (_, steps) => steps.last(),
        }
    }

    /// What can be asked of this path at all.
    fn sensible(&self) -> Vec<Want> {
        if self.missing {
            return vec![Want::Create];
        }
        let directory = self.steps.last().is_some_and(|step| step.kind == FileType::Directory);
        let all = Want::NAMES.iter().map(|(_, want)| *want);
        all.filter(|want| directory || *want != Want::Create).collect()
    }
}

const ACCESS_ACL: &str = "system.posix_acl_access";
const HIDDEN: &str = "unmapped=deny shows nobody what is of owners outside the map";
const OUTSIDE: &str = "owner or group are outside the map: nobody may change it";
const PROTECTED: &str = "owner or group are outside the map: whoever unmapped=owner shows in their place may not \
     change it";

fn read_only() -> (Errno, String) {
    (Errno::ROFS, "the mount is read-only".to_owned())
}
