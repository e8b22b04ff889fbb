//! User namespaces for this process.

use std::io;
use std::process::Command;

use crate::host::privilege;
use crate::sys::namespace;

/// A range of ids that `/etc/subuid` or `/etc/subgid` grants to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id, as the host counts.
    pub first: u32,
    /// How many.
    pub count: u32,
}

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
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = user_name(&users, uid);
    let largest = |file: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        ranges(&text, name, uid).max_by_key(|range| range.count)
    };
    let programs = ["newuidmap", "newgidmap"];
    if !programs.iter().all(|program| privilege::in_path(program).is_some()) {
        return None;
    }
    Some((largest("/etc/subuid")?, largest("/etc/subgid")?))
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

fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then_some(name)
    })
}

/// Lines `user:first:count` of subuid(5), where the user is a name or a number.
fn ranges<'a>(text: &'a str, name: Option<&'a str>, uid: u32) -> impl Iterator<Item = Range> + 'a {
    text.lines().filter_map(move |line| {
        let mut fields = line.trim().split(':');
        let user = fields.next()?;
        if Some(user) != name && user != uid.to_string() {
            return None;
        }
        Some(Range { first: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn granted_ranges_are_found_by_name_and_by_number() {
        let text = "root:1:5\nann:100000:65536\n# ann:9:9\n1000:300000:7\nann:x:1\nann:1\n";
        let found: Vec<Range> = ranges(text, Some("ann"), 1000).collect();
        assert_eq!(
            found,
            [Range { first: 100_000, count: 65_536 }, Range { first: 300_000, count: 7 }]
        );
        assert_eq!(ranges(text, None, 1001).count(), 0);
    }

    #[test]
    fn names_come_from_the_third_field() {
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:1000:1::/:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000), Some("ann"));
        assert_eq!(user_name(passwd, 1), None);
    }

    #[test]
    fn a_map_is_counted_up_to_its_first_hole() {
        assert_eq!(consecutive("         0          0 4294967295\n"), 4_294_967_295);
        assert_eq!(consecutive("0 1000 1\n1 100000 65536\n70000 5 1\n"), 65_537);
        assert_eq!(consecutive("1 1000 1\n"), 0);
        assert_eq!(consecutive("nonsense\n"), 0);
    }
}
