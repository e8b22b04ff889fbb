//! `fusermount3`, which mounts for users who may not: it is set-user-ID root, checks that the
//! mount point is the user's, and sends the connection's descriptor back over a socket.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use crate::error::StartError;
use crate::mount::config::MountConfig;
use crate::mount::flags::{self, Helper};

const PROGRAM: &str = "fusermount3";
/// The environment variable by which it learns the number of the socket.
const SOCKET: &str = "_FUSE_COMMFD";

/// Mounts and returns the connection's descriptor. What `fusermount3` has to complain of, it
/// prints itself.
pub(super) fn mount(config: &MountConfig) -> Result<OwnedFd, StartError> {
    let failed = |source: std::io::Error| StartError::System {
        what: format!("cannot run {PROGRAM}, which mounts for ordinary users"),
        source,
    };
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| failed(errno.into()))?;
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    let status = Command::new(PROGRAM)
        .env(SOCKET, theirs.as_raw_fd().to_string())
        .arg("-o")
        .arg(options(config))
        .arg("--")
        .arg(&config.mountpoint)
        .status();
    drop(theirs);
    let status = status.map_err(failed)?;
    if !status.success() {
        return Err(StartError::Mount(format!("{PROGRAM} refused ({status})")));
    }
    receive(&ours).ok_or_else(|| StartError::Mount(format!("{PROGRAM} sent no descriptor")))
}

fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

fn options(config: &MountConfig) -> OsString {
    let mut options = format!(
        "default_permissions,subtype=idshift,fsname={}",
        // A comma would end the option.
        config.source.replace('\\', "\\\\").replace(',', "\\,")
    );
    let taken = flags::set(config.options.flags).filter(|flag| flag.helper == Helper::Takes);
    let allow_other = config.options.allow_other.then_some("allow_other");
    for name in allow_other.into_iter().chain(taken.map(|flag| flag.name)) {
        options.push(',');
        options.push_str(name);
    }
    options.into()
}

/// Detaches a mount that `fusermount3` made.
pub(super) fn detach(mountpoint: &Path) -> Result<(), StartError> {
    let status = Command::new(PROGRAM).args(["-u", "-q", "-z", "--"]).arg(mountpoint).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(StartError::Mount(format!("{PROGRAM} -u failed ({status})"))),
        Err(source) => Err(StartError::System { what: format!("cannot run {PROGRAM} -u"), source }),
    }
}
