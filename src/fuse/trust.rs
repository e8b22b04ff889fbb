//! For how long the kernel may remember an answer: always the same, or, where the lower tree is
//! watched, as long as [`crate::lower::watch`] says. The argument why that is right stands there.

use std::time::Duration;

use super::counters::note_trust;
use super::server::Server;
use crate::error::FsError;
use crate::fs::{Attr, Entry, Name};
use crate::lower::inode::Inode;
use crate::lower::watch::{LONG, SHORT, Ticket, Trust, Watch};

/// How the kernel's memory is kept true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// By forgetting after this time.
    For(Duration),
    /// By notifications about changes below; the lower tree must be watched.
    Notified,
}

/// From this time on, what the kernel remembers outlives a walk of a large tree.
const OUTLIVES_A_WALK: Duration = Duration::from_secs(60);

/// For how long an answer may be used that is not to be trusted: by the call that asked for it.
/// With no time at all the kernel would ask again at once, about a file that may have gone.
const MOMENT: Duration = Duration::from_millis(5);

/// How long a name and the attributes behind it may be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Valid {
    pub(super) name: Duration,
    pub(super) attr: Duration,
}

/// What is known before an answer is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun(Option<Heard>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    since: Ticket,
    /// Whether changes of names in the directory in question are heard of since then.
    names: bool,
}

/// How an entry was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Looked up by name: the kernel may hold the directory's lock, or be checking a name.
    LookedUp,
    /// Listed: the kernel holds the directory's lock.
    Listed,
    /// Made just now: the kernel holds the directory's lock, and takes the attributes for true
    /// whatever it has been told meanwhile.
    Made,
}

impl Server {
    /// To be called before the lower tree is asked for names in this directory.
    pub(super) fn begin(&self, dir: u64) -> Begun {
        Begun(self.watch().map(|watch| {
            let names = self.fs.lower.hear_names(watch, dir);
            Heard { since: watch.ticket(), names }
        }))
    }

    /// What listens to the lower tree, if the kernel's memory rests on it.
    fn watch(&self) -> Option<&Watch> {
        self.fs.lower.watch().filter(|_| self.keeping == Keeping::Notified)
    }

    /// The attributes of an inode, or of the file that a handle has open, and for how long they may be
    /// remembered.
    pub(super) fn known_attr(
        &self,
        nodeid: u64,
        handle: Option<u64>,
    ) -> Result<(Attr, Duration), FsError> {
        let Some(watch) = self.watch() else {
            return Ok((self.fs.getattr(nodeid, handle)?, self.always().attr));
        };
        let mut ticket = watch.ticket();
        let mut attr = self.fs.getattr(nodeid, handle)?;
        if let Some(marked) = self.fs.lower.hear_inode(watch, nodeid, attr.ctime) {
            ticket = watch.ticket();
            attr = self.fs.getattr(nodeid, handle)?;
            watch.confirm(&marked, attr.ctime);
        }
        let valid = self.valid_attr(ticket, nodeid, &attr);
        Ok((attr, valid))
    }

    /// For how long an entry may be remembered.
    pub(super) fn valid(&self, begun: Begun, entry: &Entry<'_>, how: How) -> Valid {
        let Begun(Some(heard)) = begun else { return self.always() };
        let Some(inode) = entry.lookup.inode() else { return self.always() };
        if !self.is_watched(inode) {
            return Valid { name: SHORT, attr: SHORT };
        }
        // The kernel may be making sure of a name that it has: no lock is held then.
        let checking = how == How::LookedUp && !entry.lookup.is_first();
        let lost = self.fs.lower.watch().is_none_or(|watch| watch.has_lost(heard.since));
        let name = if checking || lost || !heard.names { SHORT } else { LONG };
        let attr = match how {
            How::Made => SHORT,
            How::LookedUp | How::Listed => self.trusted(heard.since, inode),
        };
        Valid { name, attr }
    }

    /// For how long it may be remembered that a name is not there.
    pub(super) fn valid_missing(&self, begun: Begun, parent: u64, name: Name<'_>) -> Duration {
        let (Begun(Some(heard)), Some(watch)) = (begun, self.fs.lower.watch()) else {
            return self.always().name;
        };
        let watched = self.fs.lower.inodes.get(parent).is_some_and(|dir| self.is_watched(&dir));
        if !watched || !heard.names || !self.expires_missing_names {
            return SHORT;
        }
        watch.note_missing(parent, name.as_os_str());
        if watch.has_lost(heard.since) { SHORT } else { LONG }
    }

    /// For how long attributes may be remembered that were only read.
    fn valid_attr(&self, ticket: Ticket, nodeid: u64, attr: &Attr) -> Duration {
        match self.fs.lower.inodes.get(nodeid) {
            Some(inode) if self.is_watched(&inode) && attr.ino == inode.identity.ino => {
                self.trusted(ticket, &inode)
            }
            _ => SHORT,
        }
    }

    /// For how long attributes may be remembered that were set: the kernel takes these for true
    /// whatever it has been told meanwhile.
    pub(super) fn valid_set(&self) -> Duration {
        match self.keeping {
            Keeping::For(time) => time,
            Keeping::Notified => SHORT,
        }
    }

    /// Whether listings may be kept, because directories are remembered for long.
    pub(super) fn keeps_listings(&self) -> bool {
        match self.keeping {
            Keeping::For(time) => time >= OUTLIVES_A_WALK,
            Keeping::Notified => self.finds_out_listings,
        }
    }

    /// Whether the contents of a file that is being opened may be kept from before.
    pub(super) fn keeps_contents(&self, nodeid: u64) -> bool {
        match (self.keeping, self.watch()) {
            (Keeping::For(time), _) => time >= OUTLIVES_A_WALK,
            (Keeping::Notified, Some(watch)) if watch.is_of_single_inodes() => {
                let inode = self.fs.lower.inodes.get(nodeid);
                inode.is_some_and(|inode| watch.keeps_contents(&inode))
            }
            (Keeping::Notified, _) => true,
        }
    }

    fn always(&self) -> Valid {
        let time = self.valid_set();
        Valid { name: time, attr: time }
    }

    /// Whether events tell of this inode: only the root's file system is watched.
    fn is_watched(&self, inode: &Inode) -> bool {
        inode.identity.dev == self.fs.lower.inodes.root_device()
    }

    fn trusted(&self, ticket: Ticket, inode: &Inode) -> Duration {
        let watch = self.fs.lower.watch();
        let trust = watch.map_or(Trust::None, |watch| watch.trust(ticket, inode));
        // Writing through a mapping causes no events.
        let open = trust == Trust::Long && self.fs.lower.open_files.any_writer(inode.nodeid);
        let trust = if open { Trust::Short } else { trust };
        note_trust(trust);
        match trust {
            Trust::None => MOMENT,
            Trust::Short => SHORT,
            Trust::Long => LONG,
        }
    }
}
