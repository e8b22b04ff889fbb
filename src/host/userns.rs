//! User namespaces for this process.

use std::io;
use std::process::Command;

use crate::host::{privilege, subids};
use crate::shift::sources::Range;
use crate::sys::namespace;
use crate::sys::users::{self, User};

/// Moves this process (which must have one thread) into a user and a mount namespace of its own
/// in which it is root, and no other id exists. What it mounts stays invisible outside.
pub fn enter_alone() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    namespace::unshare_user_and_mounts()?;
    write_own_maps(uid.as_raw(), gid.as_raw())?;
    keep_mounts_private()
}

/// Maps root of this process's user namespace to one id outside. setgroups(2) has to be given up
/// first (user_namespaces(7)).
pub fn write_own_maps(uid: u32, gid: u32) -> io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"))
}

/// Keeps what is mounted from here on out of every other mount namespace.
pub fn keep_mounts_private() -> io::Result<()> {
    use rustix::mount::MountPropagationFlags as Flags;
    Ok(rustix::mount::mount_change("/", Flags::PRIVATE | Flags::REC)?)
}

/// The largest range of uids that this user is granted, and the largest of gids; `None` without
/// both, or without the programs that may write them into a map.
pub fn granted_ranges() -> Option<(Range, Range)> {
    let uid = rustix::process::getuid().as_raw();
    // Without an account there may still be lines with the number.
    let account = users::user_by_uid(uid).ok().flatten();
    let account = account.unwrap_or(User { name: String::new(), uid, gid: 0 });
    let largest = |file: &str| {
        let text = subids::text_of(file).ok()?;
        subids::granted_to(&text, &account).into_iter().max_by_key(|range| range.count)
    };
    let programs = ["newuidmap", "newgidmap"];
    if !programs.iter().all(|program| privilege::in_path(program).is_some()) {
        return None;
    }
    Some((largest(subids::SUBUID)?, largest(subids::SUBGID)?))
}

/// Gives the user namespace of process `pid` a map: its root is this user, and 1, 2, … are the
/// granted ranges. Done by the set-user-ID programs of the shadow package.
pub fn map_granted(pid: u32, uids: Range, gids: Range) -> io::Result<()> {
    let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    for (program, own, range) in [("newuidmap", own.0, uids), ("newgidmap", own.1, gids)] {
        let numbers = [pid, 0, own, 1, 1, range.first, range.count].map(|it| it.to_string());
        let output = Command::new(program).args(numbers).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("{program}: {}", said.trim())));
        }
    }
    Ok(())
}

/// How many ids from 0 on, without a gap, exist in this process's user namespace.
pub fn ids_from_root() -> u32 {
    let count = |file: &str| consecutive(&std::fs::read_to_string(file).unwrap_or_default());
    count("/proc/self/uid_map").min(count("/proc/self/gid_map"))
}

/// How many inside ids a map in the layout of `/proc/PID/uid_map` covers from 0 on.
fn consecutive(map: &str) -> u32 {
    let mut extents: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            Some((numbers.next()?.ok()?, numbers.nth(1)?.ok()?))
        })
        .collect();
    extents.sort_unstable();
    extents.into_iter().fold(
        0,
        |next, (first, count)| {
            if first == next { next.saturating_add(count) } else { next }
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn a_map_is_counted_up_to_its_first_hole() {
        assert_eq!(consecutive("         0          0 4294967295\n"), 4_294_967_295);
        assert_eq!(consecutive("0 1000 1\n1 100000 65536\n70000 5 1\n"), 65_537);
        assert_eq!(consecutive("1 1000 1\n"), 0);
        assert_eq!(consecutive("nonsense\n"), 0);
    }
}
