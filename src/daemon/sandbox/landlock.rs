//! An ordinary user's server can have no mount namespace of its own. Landlock keeps it to the files
//! beneath the lower directory (Linux 5.19, where it is switched on: landlock(7)).
//!
//! It is not for root, whose server finds files by their handles: what is opened so may have no
//! directory above it that the kernel knows of, and Landlock would refuse it.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError,
};

/// With less, nothing can be renamed or linked from one directory to another.
const LEAST: ABI = ABI::V2;
/// The rights that this code knows of.
const NEWEST: ABI = ABI::V5;

/// From now on this thread, and those that it starts, open, make and remove files beneath `lower`
/// alone. What is open already stays usable.
pub(super) fn keep_beneath(lower: BorrowedFd<'_>) -> Result<(), String> {
    restrict(lower).map_err(|error| format!("Landlock (Linux 5.19): {error}"))
}

/// Whether this kernel can do that.
pub fn is_there() -> bool {
    let handled = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST));
    handled.and_then(Ruleset::create).is_ok()
}

fn restrict(lower: BorrowedFd<'_>) -> Result<(), RulesetError> {
    // Programs are never run, devices never opened.
    let needed = AccessFs::from_all(NEWEST) & !(AccessFs::Execute | AccessFs::IoctlDev);
    // The server counts its own descriptors: directories in /proc may be listed, not their files read.
    let proc = PathFd::new("/proc").ok().map(|proc| PathBeneath::new(proc, AccessFs::ReadDir));
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(lower, needed))?
        .add_rules(proc.map(Ok::<_, RulesetError>))?
        .restrict_self()?;
    Ok(())
}
