//! Whether the policies that were asked for make sense together, with the map, and on this machine.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;

use crate::config::{GuardMode, Ownership, Policies};
use crate::error::StartError;
use crate::host::privilege::Standing;
use crate::lower::{LowerTree, shadow};
use crate::mount::config::MountConfig;
use crate::plain;
use crate::shift::id::{LowerGid, LowerUid};
use crate::shift::idmap::Maps;
use crate::shift::set_id::SetIdPolicy;
use crate::shift::unmapped::UnmappedOwners;

/// Refuses policies that cannot do what they say; `lower` is the lower directory itself.
pub fn check(
    policies: Policies,
    maps: &Maps,
    lower: &Metadata,
    standing: Standing,
) -> Result<(), StartError> {
    match policies.unmapped {
        UnmappedOwners::Squash(uid, _) if maps.down_uid(uid).is_none() => {
            Err(no_counterpart("user", uid.raw()))
        }
        UnmappedOwners::Squash(_, gid) if maps.down_gid(gid).is_none() => {
            Err(no_counterpart("group", gid.raw()))
        }
        // Nobody but root shows ids that were not granted to him.
        UnmappedOwners::Owner(uid, gid)
            if standing != Standing::Root
                && (maps.down_uid(uid).is_none() || maps.down_gid(gid).is_none()) =>
        {
            Err(StartError::Usage(format!(
                "option 'unmapped=owner:{uid}:{gid}': ordinary users show no ids but those of \
                 their map, and it does not hold both; name a user and a group that it shows"
            )))
        }
        UnmappedOwners::Deny if !is_mapped(maps, lower) => Err(StartError::Usage(format!(
            "option 'unmapped=deny': the lower directory itself belongs to {}:{}, which the map \
             does not hold, so nothing could be shown; add its owner and group to the map",
            lower.uid(),
            lower.gid()
        ))),
        _ => Ok(()),
    }
}

/// Refuses `suid=shadow` where the lower file system, or this user, cannot keep the bits.
pub fn check_lower(policies: Policies, lower: &LowerTree) -> Result<(), StartError> {
    if policies.set_id != SetIdPolicy::Shadow {
        return Ok(());
    }
    let why = if Standing::of_this_process() == Standing::Root {
        match shadow::supported(lower.root()) {
            Ok(()) => return Ok(()),
            Err(Errno::NOTSUP) => "the lower file system has none".to_owned(),
            Err(errno) => format!("they cannot be set here: {errno}"),
        }
    } else {
        "only root of the machine may set them".to_owned()
    };
    Err(StartError::Mount(format!(
        "option 'suid=shadow': set-ID bits are kept in trusted.* attributes, and {why}; use \
         suid=deny, or nosuid"
    )))
}

/// What to tell about set-user-ID programs that can be left on the lower side; `None` where
/// nobody can, or nobody could run them.
pub fn set_id_warning(config: &MountConfig) -> Option<String> {
    let harmless = config.options.policies.set_id != SetIdPolicy::Pass
        || config.options.guard != GuardMode::None
        || config.options.ownership != Ownership::Chown
        || config.options.flags.read_only
        || !config.options.allow_other
        || config.maps.is_identity()
        || !others_may_pass(&config.lower);
    if harmless {
        return None;
    }
    let flags = rustix::fs::statvfs(&config.lower).ok()?.f_flag;
    if flags.intersects(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC) {
        return None;
    }
    Some(format!(
        "set-user-ID programs that are made in this mount work at '{}' too, with the rights of \
         their stored owners; where others than root get there, suid=deny, suid=shadow or \
         guard=nosuid prevents it",
        plain::path(&config.lower)
    ))
}

/// Whether others than root can come to `path` at all, as far as the modes of the directories say.
fn others_may_pass(path: &Path) -> bool {
    let closed =
        |dir: &Path| dir.metadata().is_ok_and(|it| it.uid() == 0 && it.mode() & 0o011 == 0);
    !path.ancestors().any(closed)
}

fn is_mapped(maps: &Maps, lower: &Metadata) -> bool {
    LowerUid::new(lower.uid()).is_some_and(|uid| maps.up_uid(uid).is_some())
        && LowerGid::new(lower.gid()).is_some_and(|gid| maps.up_gid(gid).is_some())
}

fn no_counterpart(kind: &str, id: u32) -> StartError {
    StartError::Usage(format!(
        "option 'unmapped=squash': the map shows nobody as {kind} {id}, so what {kind} {id} makes \
         could be stored as nobody's; name an id that the map shows, as squash:UID:GID"
    ))
}
