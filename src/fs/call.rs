//! What every operation is told of the request that it serves.

use std::cell::Cell;

use crate::lower::watch::Trust;
use crate::shift::id::{Id, UpperGid, UpperUid};
use crate::state::in_flight::InFlight;

use super::FileSystem;

/// The process that makes a request, with the ids that the mount gives it: through an idmapped mount
/// those of its idmap, so `/proc` may know the same process by others.
///
/// A request that makes an inode always says them. Where the mount may be idmapped
/// (`FUSE_ALLOW_IDMAP`), the others never do ([`Caller::is_told`]): the kernel above has judged them.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Its fsuid; `None` when it has none here, or is not told.
    pub uid: Option<UpperUid>,
    /// Its fsgid.
    pub gid: Option<UpperGid>,
    /// Its thread id, 0 when it is not visible from here.
    pub tid: u32,
}

impl Caller {
    /// Whether the request says who makes it.
    pub fn is_told(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }
}

impl FileSystem {
    /// The user of this machine who makes a request: where that does not say it, `/proc` does.
    pub fn person(&self, caller: Caller) -> Option<u32> {
        if caller.is_told() { caller.uid.map(Id::raw) } else { self.callers.read(caller.tid).fsuid }
    }
}

/// One request, on its way through the file system.
pub struct Call<'c> {
    /// Who makes it.
    pub caller: Caller,
    /// Where what is done for it is recorded, for the next server.
    pub(super) in_flight: InFlight<'c>,
    trusted: Cell<[u64; 3]>,
}

impl<'c> Call<'c> {
    /// A request of this caller.
    pub fn new(caller: Caller, in_flight: InFlight<'c>) -> Self {
        Self { caller, in_flight, trusted: Cell::default() }
    }

    /// How many answers about attributes were trusted for long, shortly, and not at all.
    pub fn trusted(&self) -> [u64; 3] {
        self.trusted.get()
    }

    /// Notes how far an answer about attributes is trusted.
    pub(super) fn note_trust(&self, trust: Trust) {
        let kind = match trust {
            Trust::Long | Trust::Near => 0,
            Trust::Short => 1,
            Trust::None => 2,
        };
        let mut trusted = self.trusted.get();
        trusted[kind] += 1;
        self.trusted.set(trusted);
    }
}
