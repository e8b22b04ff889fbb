//! With whose ids a mount's calls are made (`act_as=`): what is asked for, and what this machine and the
//! lower file system allow.

use rustix::thread::CapabilitySet;

use crate::config::{ActAs, Ownership};
use crate::error::StartError;
use crate::fs::{Acting, Role};
use crate::lower::LowerTree;
use crate::lower::remote::Root;
use crate::mount::config::MountConfig;
use crate::shift::unmapped::UnmappedOwners;

/// What the server acts by; `None` if its own ids will do. Says in the log what the lower file
/// system makes of root, because that decides what the mount can be used for.
pub fn of(config: &MountConfig, lower: &LowerTree) -> Result<Option<Acting>, StartError> {
    let root = if lower.is_remote() { lower.try_root() } else { Root::Superuser };
    let role = role(config, lower, root)?;
    if lower.is_remote() {
        match (root, role) {
            (Root::Squashed, None) => tracing::warn!(
                "the lower file system takes root for nobody (root_squash), and this server acts as \
                 root: what only owners may do will be refused{}",
                if config.options.act_as == ActAs::Server {
                    "; leave 'act_as=server' out"
                } else {
                    ""
                }
            ),
            (root, role) => tracing::info!("{}; {}", says(root), acts(role)),
        }
    }
    Ok(role.map(|role| Acting::new(role, root)))
}

/// What is known of root there, in words.
pub fn says(root: Root) -> &'static str {
    match root {
        Root::Superuser => "root counts as root there (no_root_squash)",
        Root::Squashed => "root is nobody there (root_squash)",
        Root::AsEverybody => "everybody is the same one there (all_squash, or one owner for all)",
        Root::Unknown => "whether root counts as root there could not be found out",
    }
}

fn acts(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Caller) => "calls are made with the ids of their callers",
        Some(Role::Owner) => "calls are made with the ids of the stored owners",
        None => "calls are made with the server's ids",
    }
}

/// Whether root's own rights are not enough, so that calls are to be made as somebody else. Where root counts
/// as root, or everybody as the same one, nothing is gained, and a mount that need not be told who calls can
/// be idmapped. Another FUSE server of this machine is taken to let root do everything.
fn root_is_not_enough(lower: &LowerTree, root: Root) -> bool {
    match root {
        Root::Squashed => true,
        Root::Unknown => lower.is_remote() && !lower.is_fuse(),
        Root::Superuser | Root::AsEverybody => false,
    }
}

fn role(config: &MountConfig, lower: &LowerTree, root: Root) -> Result<Option<Role>, StartError> {
    let options = &config.options;
    match options.act_as {
        ActAs::Server => Ok(None),
        // The option table refuses these beside ownership=xattr.
        ActAs::Caller if may_act() => Ok(Some(Role::Caller)),
        ActAs::Owner if may_act() => Ok(Some(Role::Owner)),
        ActAs::Caller | ActAs::Owner => Err(StartError::Usage(
            "option 'act_as': this server lacks CAP_SETUID or CAP_SETGID, and cannot act as others; leave \
             it out"
                .to_owned(),
        )),
        ActAs::Auto
            if !root_is_not_enough(lower, root)
                || options.ownership != Ownership::Chown
                || !may_act() =>
        {
            Ok(None)
        }
        // Whose the squashed files are, the lower file system does not know.
        ActAs::Auto if matches!(options.policies.unmapped, UnmappedOwners::Squash(..)) => {
            Ok(Some(Role::Owner))
        }
        ActAs::Auto => Ok(Some(Role::Caller)),
    }
}

fn may_act() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    rustix::thread::capabilities(None).is_ok_and(|now| now.effective.contains(needed))
}
