//! Accounts by name and by number, from wherever this machine keeps them (getpwnam_r(3)).

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr;

use rustix::io::Errno;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its login name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

/// The first guess at the room that the strings of an entry need, and where guessing ends.
const ROOM: usize = 1024;
const MOST_ROOM: usize = 16 << 20;

/// The account with this login name; `None` if there is none.
pub fn user_by_name(name: &str) -> Result<Option<User>, Errno> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    user(|entry, text, room, found| {
        // SAFETY: `name` is a live C string, and `user` vouches for the other pointers.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, text, room, found) }
    })
}

/// The account with this number, the first one if there are several; `None` if there is none.
pub fn user_by_uid(uid: u32) -> Result<Option<User>, Errno> {
    user(|entry, text, room, found| {
        // SAFETY: `user` vouches for the pointers.
        unsafe { libc::getpwuid_r(uid, entry, text, room, found) }
    })
}

/// The number of the group with this name; `None` if there is none.
pub fn gid_by_name(name: &str) -> Result<Option<u32>, Errno> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let call = |entry, text, room, found| {
        // SAFETY: `name` is a live C string, and `entry` vouches for the other pointers.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, text, room, found) }
    };
    entry(call, |group: &libc::group| group.gr_gid)
}

/// The groups of an account, `gid` the first (getgrouplist(3)).
pub fn groups_of(name: &str, gid: u32) -> Vec<u32> {
    let Ok(name) = CString::new(name) else { return vec![gid] };
    let mut groups = vec![0; MOST_GROUPS];
    let mut count = c_int::try_from(groups.len()).unwrap_or(0);
    // SAFETY: `name` is a live C string, and `groups` has room for `count` numbers.
    let ret =
        unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
    if ret < 0 {
        return vec![gid];
    }
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups.retain(|other| *other != gid);
    groups.insert(0, gid);
    groups
}

/// As many as a process can be in (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;

fn user(
    call: impl Fn(*mut libc::passwd, *mut c_char, usize, *mut *mut libc::passwd) -> c_int,
) -> Result<Option<User>, Errno> {
    entry(call, |entry: &libc::passwd| {
        // SAFETY: the call has filled the entry, so its name is a C string in the text buffer,
        // which is alive while `take` runs.
        let name = unsafe { CStr::from_ptr(entry.pw_name) };
        User { name: name.to_string_lossy().into_owned(), uid: entry.pw_uid, gid: entry.pw_gid }
    })
}

/// Runs one of the `get…_r` calls with enough room, and takes what is needed out of the entry.
/// `call` gets pointers to an entry, to a text buffer with its length, and to where to put the
/// pointer to the entry if one is found.
fn entry<E, T>(
    call: impl Fn(*mut E, *mut c_char, usize, *mut *mut E) -> c_int,
    take: impl FnOnce(&E) -> T,
) -> Result<Option<T>, Errno> {
    let mut text = vec![0; ROOM];
    loop {
        let mut entry = MaybeUninit::<E>::uninit();
        let mut found = ptr::null_mut();
        let error = call(entry.as_mut_ptr(), text.as_mut_ptr(), text.len(), &raw mut found);
        if error == libc::ERANGE && text.len() < MOST_ROOM {
            text.resize(text.len() * 4, 0);
            continue;
        }
        // SAFETY: where not null, `found` points to `entry`, which the call has filled.
        if let Some(entry) = unsafe { found.as_ref() } {
            return Ok(Some(take(entry)));
        }
        // "0 or ENOENT or ESRCH or EBADF or EPERM or …: the given name or uid was not found."
        return match error {
            0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => Ok(None),
            error => Err(Errno::from_raw_os_error(error)),
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn root_is_everywhere_and_nonsense_nowhere() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.name.as_str(), root.uid, root.gid), ("root", 0, 0));
        assert_eq!(user_by_uid(0).unwrap().unwrap().uid, 0);
        assert_eq!(gid_by_name("root").unwrap(), Some(0));
        for name in ["no such name", "", "a\0b"] {
            assert_eq!(user_by_name(name).unwrap(), None);
            assert_eq!(gid_by_name(name).unwrap(), None);
        }
    }
}
