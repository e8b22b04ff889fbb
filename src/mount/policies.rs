//! Whether the policies that were asked for make sense together, with the map, and on this machine.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use crate::config::Policies;
use crate::error::StartError;
use crate::shift::id::{LowerGid, LowerUid};
use crate::shift::idmap::Maps;
use crate::shift::unmapped::UnmappedOwners;

/// Refuses policies that cannot do what they say; `lower` is the lower directory itself.
pub fn check(policies: Policies, maps: &Maps, lower: &Metadata) -> Result<(), StartError> {
    match policies.unmapped {
        UnmappedOwners::Squash(uid, _) if maps.down_uid(uid).is_none() => {
            Err(no_counterpart("user", uid.raw()))
        }
        UnmappedOwners::Squash(_, gid) if maps.down_gid(gid).is_none() => {
            Err(no_counterpart("group", gid.raw()))
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
