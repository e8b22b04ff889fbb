//! The demo of an ordinary user: a second process makes a user namespace for itself, and the
//! first gives it ids, which has to be done from outside.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::io::Errno;

use crate::error::StartError;
use crate::host::userns;
use crate::sys::namespace;

/// "I am in my namespace": the second process to the first.
const MADE: u8 = b'n';
/// "Your ids are mapped": the answer.
const MAPPED: u8 = b'm';
/// "Map your own id, there are no others": the other answer.
const ALONE: u8 = b'a';

/// The first process: starts the second, gives it this user's ids, and waits for its end.
pub(super) fn start() -> Result<u8, StartError> {
    let system =
        |what: &'static str| move |source| StartError::System { what: what.to_owned(), source };
    let (mut ours, theirs) = UnixStream::pair().map_err(system("cannot make a socket"))?;
    let mut child = {
        let program = std::env::current_exe().map_err(system("cannot find this program"))?;
        Command::new(program)
            .args(["demo", "--inside"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(system("cannot start the demo inside a namespace"))?
    };
    let mut said = [0];
    if matches!(ours.read(&mut said), Ok(1)) && said == [MADE] {
        let answer = give_ids(child.id());
        ours.write_all(&[answer]).map_err(system("the demo inside has gone"))?;
    }
    let status = child.wait().map_err(system("cannot wait for the demo inside"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2))
}

fn give_ids(pid: u32) -> u8 {
    let Some((uids, gids)) = userns::granted_ranges() else {
        say!(
            "This user has no ids of its own besides its uid (no line in /etc/subuid and \
             /etc/subgid,\nor no newuidmap), so the demo is a short one.\n"
        );
        return ALONE;
    };
    match userns::map_granted(pid, uids, gids) {
        Ok(()) => MAPPED,
        Err(error) => {
            say!("The ids of /etc/subuid cannot be used ({error}),\nso the demo is a short one.\n");
            ALONE
        }
    }
}

/// What to tell somebody who gets no user namespace (user_namespaces(7), unshare(2)).
fn no_namespace(errno: Errno) -> &'static str {
    match errno {
        Errno::NOSPC | Errno::USERS => {
            "cannot make a user namespace, which the demo of an ordinary user needs; root can let \
             users make some with 'sysctl user.max_user_namespaces=10000', or run the demo, which \
             needs none then"
        }
        Errno::PERM | Errno::ACCESS => {
            "cannot make a user namespace, which the demo of an ordinary user needs; the kernel \
             refuses it in a chroot, and many containers and some distributions forbid it to users; \
             as root the demo needs none"
        }
        _ => {
            "cannot make a user namespace, which the demo of an ordinary user needs; as root it \
             needs none"
        }
    }
}

/// The second process: makes the namespace and becomes its root.
pub(super) fn settle() -> Result<(), StartError> {
    let system = |what: &'static str| {
        move |source: io::Error| StartError::System { what: what.to_owned(), source }
    };
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|errno| system("the demo inside has no way to the one outside")(errno.into()))?;
    let mut outside = UnixStream::from(stdin);
    namespace::unshare_user_and_mounts().map_err(|errno| StartError::System {
        what: no_namespace(errno).to_owned(),
        source: errno.into(),
    })?;
    let mut answer = [0];
    outside
        .write_all(&[MADE])
        .and_then(|()| outside.read_exact(&mut answer))
        .map_err(system("the demo outside has gone"))?;
    if answer == [ALONE] {
        userns::write_own_maps(uid.as_raw(), gid.as_raw())
            .map_err(system("cannot map this user's id"))?;
    }
    userns::keep_mounts_private().map_err(system("cannot keep the demo's mounts private"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_being_refused_has_its_own_way_out() {
        assert!(no_namespace(Errno::NOSPC).contains("sysctl user.max_user_namespaces"));
        assert!(no_namespace(Errno::PERM).contains("chroot"));
        assert!(no_namespace(Errno::NOSYS).contains("as root it needs none"));
    }
}
