//! `ownership=`: whether owners can be kept in attributes of this lower tree, found out before the
//! mount is made.

use rustix::io::Errno;

use crate::config::Ownership;
use crate::error::StartError;
use crate::fs::{FOR_OTHERS, Owners};
use crate::lower::LowerTree;
use crate::lower::stat::LowerStat;
use crate::mount::config::MountConfig;
use crate::shift::id::{LowerGid, LowerUid};
use crate::shift::ownership::{Kind, Stored, attribute};

/// The attribute in which owners are kept, tried on the root of the lower tree; `None` where they
/// are kept in the lower inodes.
pub fn open(config: &MountConfig, lower: &LowerTree) -> Result<Option<Owners>, StartError> {
    let Ownership::Xattr { label } = &config.options.ownership else { return Ok(None) };
    let wrong = |why: String| StartError::Path {
        role: "lower directory",
        path: config.lower.clone(),
        why: format!("option 'ownership=xattr': {why}"),
    };
    let failed = |errno: Errno, what: &str| {
        wrong(match errno {
            Errno::NOTSUP => "its file system keeps no attributes of users (user.*), so there is \
                              no place for owners; use one that does, such as ext4, xfs or btrfs \
                              (tmpfs since Linux 6.6)"
                .to_owned(),
            other => format!("{what}: {other}"),
        })
    };
    let name = attribute(label.as_deref()).ok_or_else(|| wrong("the label is none".to_owned()))?;
    let uid = LowerUid::new(rustix::process::geteuid().as_raw());
    let gid = LowerGid::new(rustix::process::getegid().as_raw());
    let (Some(uid), Some(gid)) = (uid, gid) else { return Err(wrong("no user".to_owned())) };
    let root = lower.root();
    let stat = LowerStat::of(root).map_err(|error| failed(error.errno(), "stat"))?;
    let path = crate::lower::proc_path(root);
    if let Err(errno) = rustix::fs::getxattr(&*path, &*name, &mut [0_u8; 0])
        && errno != Errno::NODATA
    {
        return Err(failed(errno, "its attributes cannot be read"));
    }
    let owners = Owners::new(name, uid, gid);
    if config.options.flags.read_only {
        return Ok(Some(owners));
    }
    if stat.uid != Some(uid) {
        return Err(wrong(format!(
            "it must belong to the user who mounts (uid {uid}), whose all files in it will be; or \
             add 'ro'"
        )));
    }
    if stat.mode & FOR_OTHERS != 0 {
        return Err(wrong(format!(
            "others may write to it (mode {:04o}), and could say who owns what; 'chmod go-w' it",
            stat.mode & 0o7777
        )));
    }
    // Its own attribute is the sign by which the container tools know a tree with attributes.
    let said = owners.read(root).map_err(|error| failed(error.errno(), "reading"))?;
    if said.is_none() {
        let (uid, gid) = (LowerUid::ROOT, LowerGid::ROOT);
        let stored = Stored { uid, gid, mode: stat.mode & 0o7777, kind: Some(Kind::Dir) };
        owners
            .write(root, &stored)
            .map_err(|error| failed(error.errno(), "an attribute cannot be written"))?;
    }
    Ok(Some(owners))
}
