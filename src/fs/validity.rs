//! For how long the kernel above may remember an answer: always the same, or, where the lower tree is
//! watched, as long as [`crate::lower::watch`] says. The argument why that is right stands there.

use std::time::Duration;

use crate::lower::inode::Inode;
use crate::lower::table::Lookup;
use crate::lower::watch::{Epoch, NEAR, SHORT, Trust, Watch};
pub use crate::lower::watch::{LONG, Unheard};

use super::{Attr, Call, Entry, FileSystem, Name};

/// How the kernel's memory is kept true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// By forgetting after this time.
    For(Duration),
    /// By notifications about changes below; the lower tree must be watched.
    Notified(Abilities),
}

/// What the kernel above makes of notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Whether it can be told of a name that was not there before.
    pub missing_names: bool,
    /// Whether it finds every listing out that it keeps and that is out of date.
    pub listings: bool,
}

/// From this time on, what the kernel remembers outlives a walk of a large tree.
const OUTLIVES_A_WALK: Duration = Duration::from_secs(60);

/// For how long an answer may be used that is not to be trusted: by the call that asked for it.
/// With no time at all the kernel would ask again at once, about a file that may have gone.
const MOMENT: Duration = Duration::from_millis(5);

/// How long a name and the attributes behind it may be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Valid {
    /// The name.
    pub name: Duration,
    /// The attributes.
    pub attr: Duration,
}

/// What is known before an answer is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since(Option<Heard>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    since: Epoch,
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

impl FileSystem {
    /// To be called before the lower tree is asked for names in this directory.
    pub(super) fn since(&self, dir: u64) -> Since {
        Since(self.watch().map(|watch| {
            let names = self.lower.hear_names(watch, dir);
            Heard { since: watch.epoch(), names }
        }))
    }

    /// From now on files that others write to without end are asked about each time, and not heard of.
    pub fn leaves_loud_files_unheard(&self) {
        if let Some(watch) = self.watch() {
            watch.may_be_silent();
        }
    }

    /// What listens to the lower tree, if the kernel's memory rests on it.
    pub(super) fn watch(&self) -> Option<&Watch> {
        self.lower.watch().filter(|_| matches!(self.keeping, Keeping::Notified(_)))
    }

    /// The answer about a file that was found or made.
    pub(super) fn entry<'c>(
        &self,
        call: &Call<'_>,
        (since, how): (Since, How),
        (lookup, mut attr): (Lookup<'c>, Attr),
    ) -> Entry<'c> {
        let valid = self.valid(call, (since, how), &lookup, &mut attr);
        if let Some(inode) = lookup.inode() {
            self.tell(inode, &attr);
        }
        Entry { lookup, attr, valid }
    }

    fn valid(
        &self,
        call: &Call<'_>,
        (since, how): (Since, How),
        lookup: &Lookup<'_>,
        attr: &mut Attr,
    ) -> Valid {
        let (Since(Some(heard)), Some(watch)) = (since, self.watch()) else {
            let Valid { name, attr } = self.always();
            let nodeid = lookup.nodeid();
            return Valid { name, attr: self.valid_read_of(nodeid, attr) };
        };
        let Some(inode) = lookup.inode() else { return self.always() };
        if !self.is_watched(inode) {
            return Valid { name: SHORT, attr: SHORT };
        }
        // The kernel may be making sure of a name that it has: no lock is held then.
        let checking = how == How::LookedUp && !lookup.is_first();
        let lost = watch.has_lost(heard.since);
        let name = if checking || lost || !heard.names { SHORT } else { LONG };
        let mut since = heard.since;
        if how != How::Made && self.lower.hear_found(watch, inode) {
            since = watch.epoch();
            match self.attr_of(inode.nodeid, None) {
                Ok(now) => *attr = now,
                Err(_) => return Valid { name, attr: MOMENT },
            }
        }
        if heard.names {
            watch.found(inode.nodeid);
        }
        let time = self.trusted(call, watch, (since, inode), attr);
        // What the kernel is told of a file that was made it takes for true, even if it has been told of a
        // change meanwhile.
        Valid { name, attr: if how == How::Made { SHORT } else { time } }
    }

    /// For how long it may be remembered that a name is not there.
    pub(super) fn valid_missing(&self, since: Since, parent: u64, name: Name<'_>) -> Duration {
        let (Since(Some(heard)), Some(watch), Keeping::Notified(abilities)) =
            (since, self.lower.watch(), self.keeping)
        else {
            return self.always().name;
        };
        let watched = self.lower.inodes.get(parent).is_some_and(|dir| self.is_watched(&dir));
        if !watched || !heard.names || !abilities.missing_names {
            return SHORT;
        }
        watch.note_missing(parent, name.as_os_str());
        if watch.has_lost(heard.since) { SHORT } else { LONG }
    }

    /// For how long attributes may be remembered that were only read.
    pub(super) fn valid_attr(
        &self,
        call: &Call<'_>,
        watch: &Watch,
        (since, nodeid): (Epoch, u64),
        attr: &Attr,
    ) -> Duration {
        match self.lower.inodes.get(nodeid) {
            Some(inode) if self.is_watched(&inode) && attr.ino == inode.identity.ino => {
                self.trusted(call, watch, (since, &inode), attr)
            }
            _ => SHORT,
        }
    }

    /// For how long attributes may be remembered that were set: the kernel takes these for true
    /// whatever it has been told meanwhile.
    pub(super) fn valid_set(&self) -> Duration {
        match self.keeping {
            Keeping::For(time) => time,
            Keeping::Notified(_) => SHORT,
        }
    }

    /// Whether listings may be kept, because directories are remembered for long.
    pub fn keeps_listings(&self) -> bool {
        match self.keeping {
            Keeping::For(time) => time >= OUTLIVES_A_WALK,
            Keeping::Notified(abilities) => abilities.listings,
        }
    }

    /// Whether the contents of a file that is being opened may be kept from before.
    pub fn keeps_contents(&self, nodeid: u64) -> bool {
        match (self.keeping, self.watch()) {
            (Keeping::For(time), _) => time >= OUTLIVES_A_WALK,
            (Keeping::Notified(_), Some(watch)) => self.lower.keeps_contents(watch, nodeid),
            (Keeping::Notified(_), None) => false,
        }
    }

    fn always(&self) -> Valid {
        let time = self.valid_set();
        Valid { name: time, attr: time }
    }

    /// Whether events tell of this inode: only the root's file system is watched.
    fn is_watched(&self, inode: &Inode) -> bool {
        inode.identity.dev == self.lower.inodes.root_device()
    }

    fn trusted(
        &self,
        call: &Call<'_>,
        watch: &Watch,
        (since, inode): (Epoch, &Inode),
        attr: &Attr,
    ) -> Duration {
        let trust = self.lower.trust(watch, since, inode, attr.nlink);
        // What happened to it may have been that it went elsewhere.
        if trust == Trust::None && !watch.is_silent(inode) {
            watch.strayed(inode.nodeid);
        }
        // Writing through a mapping causes no events.
        let is_long = matches!(trust, Trust::Near | Trust::Long);
        let open = is_long
            && (self.lower.open_files.any_writer(inode.nodeid)
                || self.may_change_unseen(inode.nodeid));
        let trust = if open { Trust::Short } else { trust };
        call.note_trust(trust);
        match trust {
            Trust::None => MOMENT,
            Trust::Short => SHORT,
            Trust::Near => NEAR,
            Trust::Long => LONG,
        }
    }
}
