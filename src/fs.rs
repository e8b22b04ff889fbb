//! What the file system does, one file per family of operations. Nothing here knows how requests
//! arrive: everything can be called without /dev/fuse.
//!
//! A request's way is the same everywhere: translate the caller first (an unmapped one touches
//! nothing), find the inode, make one system call relative to a descriptor, read the attributes
//! back, translate them up.

mod acting;
mod attr;
mod call;
mod changes;
mod create;
mod dir;
mod io;
mod ioctl;
mod judge;
mod locks;
mod lookup;
mod name;
mod open;
mod owners;
mod policies;
mod rename;
mod replay;
mod rights;
mod setattr;
mod shadow;
mod statfs;
mod store;
#[cfg(test)]
mod tests;
mod times;
mod usage;
mod validity;
mod verdicts;
mod writing;
mod xattr;

pub use acting::{Acting, Role};
pub use attr::{Attr, KnownAttr};
pub use call::{Call, Caller};
pub use changes::Notices;
pub use create::NewFile;
pub use dir::DirEntry;
pub use io::{Contents, CopyEnd, Write};
pub use ioctl::IoctlReply;
pub use locks::LockRequest;
pub use lookup::{Entry, Found};
pub use name::Name;
pub use open::Opened;
pub use owners::{FOR_OTHERS, Owners};
pub use rename::Place;
pub use setattr::{SetAttr, SetTime};
pub use statfs::Statfs;
pub use usage::Usage;
pub use validity::{Abilities, Keeping, LONG, Unheard, Valid};
pub use verdicts::{RightsOf, Want};
pub use writing::{BackingFile, SetIdBits};
pub use xattr::XattrReply;

use crate::config::IoMode;
use crate::config::Policies;
use crate::error::FsError;
use crate::lower::LowerTree;
use crate::lower::caller::{Callers, Fact};
use crate::lower::cred::{Creator, Keep};
use crate::shift::acl::Unmapped;
use crate::shift::foreign::{Born, Creators};
use crate::shift::id::{LowerGid, LowerUid};
use crate::shift::idmap::Maps;

/// One shifted view of a lower tree.
pub struct FileSystem {
    /// The stored side.
    lower: LowerTree,
    maps: Maps,
    unmapped_acl: Unmapped,
    policies: Policies,
    io: IoMode,
    owners: Option<Owners>,
    keeping: Keeping,
    ids: Keep,
    acting: Option<Acting>,
    /// Who looks callers up.
    callers: Callers,
    /// Whether only those who may read and write a file may link to it.
    protected_hardlinks: bool,
    /// What the lower file system keeps for root.
    reserve: writing::Reserve,
    /// Times that the kernel keeps, while it writes.
    kept: times::Kept,
}

/// How the lower tree is shown.
pub struct Options {
    /// How ids are translated.
    pub maps: Maps,
    /// How an ACL entry is shown whose id has no upper counterpart.
    pub unmapped_acl: Unmapped,
    /// Protections beyond the kernel's.
    pub policies: Policies,
    /// Who uses the contents of files; with [`IoMode::Cached`] nobody says who has them open.
    pub io: IoMode,
    /// Where owners are kept, if not in the lower inodes.
    pub owners: Option<Owners>,
    /// How what the kernel above remembers is kept true.
    pub keeping: Keeping,
    /// For how long threads keep the ids with which files are made.
    pub ids: Keep,
    /// Whose ids calls are made with, if not the server's own.
    pub acting: Option<Acting>,
}

impl FileSystem {
    /// A view of this lower tree.
    pub fn new(lower: LowerTree, options: Options) -> Self {
        let Options { maps, unmapped_acl, policies, io, owners, keeping, ids, acting } = options;
        let callers = Callers::default();
        let reserve = writing::Reserve::new(lower.magic(), unmapped_acl, acting.is_some());
        let protected_hardlinks = judge::protected_hardlinks();
        Self {
            lower,
            maps,
            unmapped_acl,
            policies,
            io,
            owners,
            keeping,
            ids,
            acting,
            callers,
            protected_hardlinks,
            reserve,
            kept: times::Kept::default(),
        }
    }

    /// How ids are translated.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// From now on callers are looked up by `look_up`, for a server that has no `/proc`.
    pub fn look_callers_up_by(
        &self,
        look_up: impl Fn(u32, Fact) -> Option<String> + Send + Sync + 'static,
    ) {
        self.callers.look_up_by(look_up);
    }

    /// The lower ids with which this caller's new files are born; an unmapped caller creates
    /// nothing (`fsuidgid_has_mapping`, include/linux/fs.h).
    fn creator(&self, caller: Caller, umask: u32) -> Result<Creator, FsError> {
        let (uid, gid) = self.born(caller)?;
        Ok(match &self.owners {
            None => Creator { uid: uid.id(), gid: gid.id(), umask: umask & 0o777 },
            Some(owners) => owners.creator(),
        })
    }

    /// Whose a file is that this caller makes.
    fn born(&self, caller: Caller) -> Result<(Born<LowerUid>, Born<LowerGid>), FsError> {
        let policies = &self.policies;
        let (uid, gid) = policies.unmapped.stand_in().unzip();
        let uid = policies.creators.born(&self.maps.uids, caller.uid, uid);
        let gid = policies.creators.born(&self.maps.gids, caller.gid, gid);
        uid.zip(gid).ok_or(FsError::UnmappedCaller)
    }

    /// Whether what this caller makes is somebody else's: it makes no set-ID programs and no devices.
    fn is_squashed(&self, caller: Caller) -> bool {
        self.policies.creators == Creators::Squash
            && self.born(caller).is_ok_and(|(uid, gid)| uid.is_squashed() || gid.is_squashed())
    }

    /// Refuses a new name for an existing file to an unmapped caller (`may_create`, fs/namei.c). One
    /// who is not told has an id here, or the kernel above would have refused; whether the map has
    /// it is not known. Nothing is stored with it.
    fn may_name(&self, caller: Caller) -> Result<(), FsError> {
        if caller.is_told() { self.creator(caller, 0).map(drop) } else { Ok(()) }
    }
}
