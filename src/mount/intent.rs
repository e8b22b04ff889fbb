//! What options that say what is wanted (`owned-by=`, `creators=`, `chown=`) come to: maps and
//! policies that the rest of the program knows, and what they exclude.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use crate::config::{Ownership, Policies};
use crate::error::StartError;
use crate::mount::options::Options;
use crate::shift::foreign::{Creators, ForeignOwners};
use crate::shift::id::{Id, UpperGid, UpperUid};
use crate::shift::set_id::SetIdPolicy;
use crate::shift::unmapped::UnmappedOwners;
use crate::sys::users;

/// The option with which a tree is somebody's.
const OWNED_BY: &str = "owned-by";

/// Fills in what the options imply. `lower` is the lower directory, whose owner `owned-by=` is about; without
/// it the maps are left to whoever knows them.
pub(crate) fn settle(
    mut options: Options,
    lower: Option<&Metadata>,
) -> Result<Options, StartError> {
    if let Some(value) = options.owned_by.clone() {
        let (uid, gid) = ids(&value)?;
        owned_by(&options)?;
        options.policies = Policies {
            unmapped: UnmappedOwners::Squash(uid, gid),
            creators: Creators::Squash,
            foreign_owners: ForeignOwners::Ignore,
            no_devices: true,
            ..options.policies
        };
        options.flags.nosuid = true;
        options.flags.nodev = true;
        if let Some(lower) = lower {
            options.maps.push(format!("u:{}:{uid}:1", lower.uid()));
            options.maps.push(format!("g:{}:{gid}:1", lower.gid()));
        }
    }
    let policies = &mut options.policies;
    let squashes = matches!(policies.unmapped, UnmappedOwners::Squash(..));
    if policies.creators == Creators::Squash && !squashes {
        return Err(usage(
            "option 'creators=squash': say as whom callers outside the map make files, with \
             unmapped=squash:UID:GID, or use owned-by=UID:GID",
        ));
    }
    if policies.foreign_owners == ForeignOwners::Ignore {
        // Else whoever believes to have given a program away makes it set-user-ID as its owner.
        match policies.set_id {
            SetIdPolicy::Pass => policies.set_id = SetIdPolicy::Deny,
            SetIdPolicy::Deny => {}
            SetIdPolicy::Shadow => {
                return Err(usage(
                    "options 'suid=shadow' and 'chown=ignore' (which owned-by= includes) exclude \
                     each other: a program whose change of owner was ignored must not become \
                     set-user-ID; leave suid= out",
                ));
            }
        }
        if options.ownership != Ownership::Chown {
            return Err(usage(
                "option 'chown=ignore' (which owned-by= includes) with 'ownership=xattr': leave it \
                 out; owners kept in attributes can be any that the map shows",
            ));
        }
    }
    Ok(options)
}

/// What does not go together with `owned-by=`.
fn owned_by(options: &Options) -> Result<(), StartError> {
    if options.policies.unmapped != UnmappedOwners::Overflow {
        return Err(usage(
            "options 'owned-by=' and 'unmapped=' exclude each other: owned-by= says already whose \
             everything is that the map does not have; leave unmapped= out",
        ));
    }
    Ok(())
}

/// `USER`, `UID`, `USER:GROUP`, …; a group that is left out is the user's own, or has the user's
/// number.
fn ids(value: &str) -> Result<(UpperUid, UpperGid), StartError> {
    let bad = |why: &str| usage(&format!("option '{OWNED_BY}={value}': {why}"));
    let (user, group) = value.split_once(':').map_or((value, None), |(u, g)| (u, Some(g)));
    let number = |text: &str| text.parse::<u32>().ok();
    let failed = |errno| bad(&format!("cannot look it up: {errno}"));
    let (uid, own) = match number(user) {
        Some(uid) => (uid, uid),
        None => users::user_by_name(user)
            .map_err(failed)?
            .map(|user| (user.uid, user.gid))
            .ok_or_else(|| bad(&format!("there is no user '{user}'; give a name or a number")))?,
    };
    let gid = match group {
        None => own,
        Some(group) => match number(group) {
            Some(gid) => gid,
            None => users::gid_by_name(group).map_err(failed)?.ok_or_else(|| {
                bad(&format!("there is no group '{group}'; give a name or a number"))
            })?,
        },
    };
    let (Some(uid), Some(gid)) = (Id::new(uid), Id::new(gid)) else {
        return Err(bad("4294967295 is no id"));
    };
    Ok((uid, gid))
}

fn usage(why: &str) -> StartError {
    StartError::Usage(why.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::config::MountFlags;
    use crate::mount::options::Origin;

    fn settled(text: &str) -> Result<Options, String> {
        let options = Options::parse(&[text], Origin::Command, MountFlags::default())
            .map_err(|e| e.to_string())?;
        let here = std::env::temp_dir().metadata().unwrap();
        settle(options, Some(&here)).map_err(|error| error.to_string())
    }

    #[test]
    fn owned_by_is_all_that_makes_a_tree_somebodys() {
        let here = std::env::temp_dir().metadata().unwrap();
        let options = settled("owned-by=1000:33").unwrap();
        let maps = [format!("u:{}:1000:1", here.uid()), format!("g:{}:33:1", here.gid())];
        assert_eq!(options.maps, maps);
        let policies = options.policies;
        let (uid, gid) = (Id::new(1000).unwrap(), Id::new(33).unwrap());
        assert_eq!(policies.unmapped, UnmappedOwners::Squash(uid, gid));
        assert_eq!(policies.creators, Creators::Squash);
        assert_eq!(policies.foreign_owners, ForeignOwners::Ignore);
        assert_eq!(policies.set_id, SetIdPolicy::Deny);
        assert!(policies.no_devices && options.flags.nosuid && options.flags.nodev);
    }

    #[test]
    fn users_can_be_named() {
        let root = settled("owned-by=root").unwrap().policies.unmapped;
        assert_eq!(root, UnmappedOwners::Squash(Id::ROOT, Id::ROOT));
        assert_eq!(settled("owned-by=0:root").unwrap().policies.unmapped, root);
        for (text, part) in [
            ("owned-by=no-such-user", "no user"),
            ("owned-by=0:no-such-group", "no group"),
            ("owned-by=", "owned-by"),
            ("owned-by=1:2:3", "no group"),
            ("owned-by=4294967295", "no id"),
        ] {
            let error = settled(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_excludes_each_other_is_named() {
        for (text, parts) in [
            ("owned-by=5,unmapped=deny", ["owned-by=", "unmapped="]),
            ("owned-by=5,suid=shadow", ["suid=shadow", "chown=ignore"]),
            ("owned-by=5,ownership=xattr", ["owned-by=", "ownership=xattr"]),
            ("creators=squash", ["creators=squash", "unmapped=squash:UID:GID"]),
            ("creators=squash,unmapped=owner:5", ["creators=squash", "unmapped=squash"]),
        ] {
            let error = settled(text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn ignoring_changes_of_owner_takes_set_id_bits_along() {
        assert_eq!(settled("chown=ignore").unwrap().policies.set_id, SetIdPolicy::Deny);
        assert_eq!(settled("chown=refuse").unwrap().policies.set_id, SetIdPolicy::Pass);
    }
}
