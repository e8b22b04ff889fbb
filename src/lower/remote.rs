//! Lower file systems for which somebody else answers, over a network or through FUSE.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, AtFlags, CWD, Dir};

use crate::error::FsError;
use crate::shift::id::{LowerGid, LowerUid};

use super::cred::{self, Actor};
use super::inode::Inode;
use super::stat::LowerStat;
use super::{LowerTree, open_path_at};

/// NFS (linux/magic.h).
const NFS: u64 = 0x6969;
/// AFS.
const AFS: u64 = 0x6b41_4653;
const FUSE: u64 = 0x6573_5546;
/// SMB1, SMB2, 9p, Ceph.
const OTHERS: [u64; 4] = [0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400];

/// Whether a superuser counts as one, where another judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// It may do what modes forbid.
    Superuser,
    /// It is taken for somebody without rights (`root_squash`).
    Squashed,
    /// Whoever asks is taken for the same one (`all_squash`, a file system mounted as one user).
    AsEverybody,
    /// There is nothing here to find it out by.
    Unknown,
}

/// The numbers of the file systems' kinds, as statfs(2) gives them.
pub(super) fn magic(dir: impl AsFd) -> u64 {
    rustix::fs::fstatfs(dir).map_or(0, |s| s.f_type.cast_unsigned() & 0xffff_ffff)
}

/// Whether a file that is removed while any descriptor of this machine is on it, be it only an
/// `O_PATH` one, is given a hidden name (`.nfsXXXX`) in place of being removed.
pub(super) fn hides_what_is_held(magic: u64) -> bool {
    [NFS, AFS].contains(&magic)
}

impl LowerTree {
    /// The kind of file system that the root is on.
    pub fn magic(&self) -> u64 {
        self.magic
    }

    /// Whether somebody else answers for the file system: some write errors are then reported only when a
    /// file is closed, and rights are judged by ids alone.
    pub fn is_remote(&self) -> bool {
        [NFS, AFS, FUSE].contains(&self.magic) || OTHERS.contains(&self.magic)
    }

    /// Whether it is another FUSE mount.
    pub fn is_fuse(&self) -> bool {
        self.magic == FUSE
    }

    /// Closes what is kept open of the file at a name that is about to go. Its handle finds it again as
    /// long as it is anywhere.
    pub(super) fn let_go_of(&self, dir: &OwnedFd, name: &OsStr) -> Result<(), FsError> {
        let stat = self.retrying(|| LowerStat::at(dir.as_fd(), name))?;
        if let Some(inode) = self.inodes.find(self.identity(&stat)) {
            self.close_kept(&inode);
        }
        Ok(())
    }

    fn close_kept(&self, inode: &Inode) {
        drop(self.descriptors.remove(inode.nodeid));
        self.no_open.remove(inode.nodeid);
    }

    /// What somebody else makes of this process's root. Changes nothing: it asks for rights that modes
    /// do not give others, at the lower directory and at some of what is in it.
    ///
    /// For the thread that mounts, while there is no other.
    pub fn try_root(&self) -> Root {
        let mut answer = Root::Unknown;
        if !rustix::process::geteuid().is_root() {
            return answer;
        }
        let here = std::iter::once(open_path_at(self.root(), OsStr::new(".")));
        let names = Dir::read_from(&self.handle_mount).into_iter().flatten().flatten();
        let names = names.filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
        let inside = names.take(SAMPLES).map(|entry| {
            open_path_at(self.root(), OsStr::from_bytes(entry.file_name().to_bytes()))
        });
        for fd in here.chain(inside).flatten() {
            match what_root_is(&fd) {
                Some(Root::Squashed) => return Root::Squashed,
                Some(found) => answer = found,
                None => {}
            }
        }
        answer
    }
}

/// How many entries of the lower directory are asked for rights at most.
const SAMPLES: usize = 32;
/// Somebody who owns nothing and is in no group.
const STRANGER: u32 = 4_294_967_290;

/// `None` where modes let everybody do everything anyway.
fn what_root_is(fd: &OwnedFd) -> Option<Root> {
    let stat = LowerStat::of(fd).ok()?;
    let denied = Access::from_bits_retain(!stat.mode & 0o7);
    // Whether anybody may execute a file is the mode's business for root too.
    let asked = denied & (Access::READ_OK | Access::WRITE_OK);
    if asked.is_empty() || stat.kind() == rustix::fs::FileType::Symlink {
        return None;
    }
    let path = super::proc_path(fd);
    let may = || rustix::fs::accessat(CWD, &path, asked, AtFlags::EACCESS);
    if may().is_err() {
        return Some(Root::Squashed);
    }
    let stranger =
        Actor { uid: LowerUid::new(STRANGER)?, gid: LowerGid::new(STRANGER)?, groups: [].into() };
    cred::act_as(Some(&stranger)).ok()?;
    // Without faccessat2(2) (Linux 5.8) it cannot be asked for others.
    let everybody = may().is_ok();
    cred::act_as(None).ok()?;
    Some(if everybody { Root::AsEverybody } else { Root::Superuser })
}
