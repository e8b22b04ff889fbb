//! The root directory's two nodeids.
//!
//! The kernel makes the inode with `FUSE_ROOT_ID` before the handshake, when it does not know yet
//! that this server has ACLs, and so marks it as one whose ACLs are never remembered
//! (`fuse_init_inode`). Since Linux 6.6.148, 6.12.101, 6.18.42 and 7.1.6 that mark stays: whoever is
//! not the owner of the root directory would cost a `GETXATTR` with each path that he walks. So the
//! root directory is shown a second time, as a child named [`NAME`] of that inode and with a nodeid
//! of its own, and this child is what is mounted (`mount/detached.rs`). The server itself knows one
//! root, [`ROOT_ID`]: the other number lives in this file and in those that it is called from.

use rustix::io::Errno;

use crate::lower::table::ROOT_ID;

/// The name under which the root directory is found once more while nobody but the server can look
/// at the mount. It appears in `/proc/self/mountinfo`, as the part of the file system that is
/// mounted.
pub const NAME: &str = "lower";

/// The nodeid of that child. No inode of the table has it.
pub(super) const SHOWN_ID: u64 = u64::MAX;

/// The nodeid by which the server knows what the kernel calls `nodeid`.
pub(super) fn known(nodeid: u64) -> u64 {
    if nodeid == SHOWN_ID { ROOT_ID } else { nodeid }
}

/// The nodeid by which the kernel is to know what the server calls `nodeid`; `knows` says whether it
/// knows one.
pub(super) fn told(nodeid: u64, knows: impl Fn(u64) -> bool) -> u64 {
    if nodeid == ROOT_ID && knows(SHOWN_ID) { SHOWN_ID } else { nodeid }
}

/// Tells the kernel something about `nodeid`, under the number by which it knows that inode.
pub(super) fn tell(nodeid: u64, tell: impl Fn(u64) -> Result<(), Errno>) -> Result<(), Errno> {
    if nodeid != ROOT_ID {
        return tell(nodeid);
    }
    match tell(SHOWN_ID) {
        Err(Errno::NOENT) => tell(ROOT_ID),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_by_the_number_that_it_knows() {
        use std::cell::RefCell;
        let told = RefCell::new(Vec::new());
        let tell_knowing = |nodeid, known: &[u64]| {
            told.borrow_mut().clear();
            tell(nodeid, |id| {
                told.borrow_mut().push(id);
                if known.contains(&id) { Ok(()) } else { Err(Errno::NOENT) }
            })
        };
        assert_eq!(tell_knowing(ROOT_ID, &[ROOT_ID, SHOWN_ID]), Ok(()));
        assert_eq!(*told.borrow(), [SHOWN_ID]);
        assert_eq!(tell_knowing(ROOT_ID, &[ROOT_ID]), Ok(()), "it is mounted as it is");
        assert_eq!(tell_knowing(7, &[ROOT_ID, SHOWN_ID]), Err(Errno::NOENT));
        assert_eq!(*told.borrow(), [7]);
        assert_eq!((known(SHOWN_ID), known(7)), (ROOT_ID, 7));
    }
}
