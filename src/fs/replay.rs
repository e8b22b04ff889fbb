//! Was it done already? For requests that another server had begun when it was killed. The kernel sends
//! them again. Most can simply be done once more; those that make, move or remove names, or append, may
//! have been done: what is recorded of the request says since when it was about them, and the lower tree
//! whether they happened.
//!
//! The kernel above keeps other callers out of the directories meanwhile; only somebody on the lower
//! side can have come in between. Where that cannot be told apart, nothing of theirs is removed.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::open_files::NO_OPEN;
use crate::lower::stat::{LowerStat, Timestamp};
use crate::state::in_flight::Begun;

use super::{Call, Contents, FileSystem, Place, Write};

/// By how much the times that file systems give may lag behind the clock: two of the kernel's ticks
/// at their slowest (100 Hz).
const TICKS: i64 = 20_000_000;

impl FileSystem {
    fn stat_of(&self, place: Place<'_>) -> Result<Option<LowerStat>, FsError> {
        let dir = self.lower.path_fd(&self.lower.inode(place.parent)?)?;
        match LowerStat::at(dir.as_fd(), place.name.as_os_str()) {
            Ok(stat) => Ok(Some(stat)),
            Err(FsError::Os { errno: Errno::NOENT, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes away what the killed server had made of this name since it began, so that it can be made
    /// anew: it was empty, unless it `is_link` whose target is kept as contents, and nobody had been
    /// told of it.
    pub(super) fn undo_making(
        &self,
        call: &Call<'_>,
        place: Place<'_>,
        is_link: bool,
    ) -> Result<(), FsError> {
        let Some(begun) = call.in_flight.begin_change() else { return Ok(()) };
        let Some(stat) = self.stat_of(place)? else { return Ok(()) };
        let is_dir = stat.kind() == FileType::Directory;
        let may_be_full = is_link && self.owners.is_some();
        let empty = stat.kind() != FileType::RegularFile || stat.size == 0 || may_be_full;
        let ours = is_dir || (stat.nlink == 1 && empty);
        if !was_born_since(&stat, begun.at - TICKS) || !ours {
            return Ok(());
        }
        let dir = self.lower.path_fd(&self.lower.inode(place.parent)?)?;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(&dir, place.name.as_os_str(), flags) {
            // Somebody uses it already, or has removed it.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).call("unlinkat"),
        }
    }

    /// Takes a name away that the killed server had given to the inode, so that it can be given anew.
    pub(super) fn undo_linking(
        &self,
        call: &Call<'_>,
        nodeid: u64,
        place: Place<'_>,
    ) -> Result<(), FsError> {
        if call.in_flight.begin_change().is_none() {
            return Ok(());
        }
        let Some(stat) = self.stat_of(place)? else { return Ok(()) };
        if stat.nlink < 2 || stat.identity() != self.lower.inode(nodeid)?.identity {
            return Ok(());
        }
        let dir = self.lower.path_fd(&self.lower.inode(place.parent)?)?;
        rustix::fs::unlinkat(&dir, place.name.as_os_str(), AtFlags::empty()).call("unlinkat")
    }

    /// Whether the killed server had removed the name: it is not there, or is another file's by now.
    pub(super) fn is_removed(&self, call: &Call<'_>, place: Place<'_>) -> Result<bool, FsError> {
        let Some(begun) = call.in_flight.begin_change() else { return Ok(false) };
        // Not a tick earlier: it may have been made just before it was removed.
        Ok(self.stat_of(place)?.is_none_or(|stat| was_born_since(&stat, begun.at)))
    }

    /// Whether the killed server had done what renameat2(2) is to do.
    pub(super) fn is_renamed(
        &self,
        call: &Call<'_>,
        from: Place<'_>,
        to: Place<'_>,
        flags: RenameFlags,
    ) -> Result<bool, FsError> {
        match call.in_flight.begin_change() {
            None => Ok(false),
            Some(Begun { noted, .. }) if flags.contains(RenameFlags::EXCHANGE) => {
                self.is_exchanged(from, to, noted)
            }
            Some(_) => self.is_moved(from, to),
        }
    }

    /// Whether the killed server had moved a file: it is not where it was, and one is where it was
    /// to go. The kernel above had found it before it asked.
    fn is_moved(&self, from: Place<'_>, to: Place<'_>) -> Result<bool, FsError> {
        // A whiteout is left where the file was.
        let is_whiteout =
            |stat: &LowerStat| stat.kind() == FileType::CharacterDevice && stat.rdev == 0;
        let there = self.stat_of(from)?.filter(|stat| !is_whiteout(stat));
        let moved = there.is_none() && self.stat_of(to)?.is_some();
        if moved {
            let parent = self.lower.inode(to.parent)?;
            self.lower.moved(&parent, to.name.as_os_str(), (from.parent, from.name.as_os_str()));
        }
        Ok(moved)
    }

    /// Notes which file is at a name that is about to be exchanged with another: afterwards there is
    /// one at each of the two, as before.
    pub(super) fn note_before_exchange(&self, call: &Call<'_>, dir: BorrowedFd<'_>, name: &OsStr) {
        if let Ok(stat) = LowerStat::at(dir, name) {
            call.in_flight.note(self.number_of(&stat));
        }
    }

    /// Whether the killed server had exchanged two files: at the first name is another one than that
    /// server has noted.
    fn is_exchanged(&self, from: Place<'_>, to: Place<'_>, noted: u64) -> Result<bool, FsError> {
        let Some(there) = self.stat_of(from)? else { return Ok(false) };
        let exchanged = noted != 0 && self.number_of(&there) != noted;
        for (place, left) in [(from, to), (to, from)].into_iter().filter(|_| exchanged) {
            let left = (left.parent, left.name.as_os_str());
            self.lower.moved(&self.lower.inode(place.parent)?, place.name.as_os_str(), left);
        }
        Ok(exchanged)
    }

    /// The file as a number, the same in every server; never 0.
    fn number_of(&self, stat: &LowerStat) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lower.identity(stat).hash(&mut hasher);
        hasher.finish().max(1)
    }

    /// How much of what is to be appended the killed server has appended: stands already where the
    /// file ended when the kernel above asked.
    pub(super) fn appended(
        &self,
        call: &Call<'_>,
        file: Contents,
        &Write { offset, data, append, .. }: &Write<'_>,
    ) -> Result<usize, FsError> {
        // Also one that does not append: while it may still be going on, no other server begins.
        if call.in_flight.begin_change().is_none() || !append {
            return Ok(0);
        }
        let mut found = Vec::new();
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        // The open file may be for writing only.
        let file = Contents { handle: NO_OPEN, ..file };
        self.read(file, offset, size, &mut found)?;
        Ok(if data.starts_with(&found) { found.len() } else { 0 })
    }
}

/// Whether the file is not older than this time; unknown times are old.
fn was_born_since(stat: &LowerStat, begun: i64) -> bool {
    let nanoseconds = |time: Timestamp| {
        time.sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nsec))
    };
    stat.btime.is_some_and(|born| nanoseconds(born) >= begun)
}
