//! Extended attributes. Those that carry ids are translated; the others pass unchanged.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::buffer::Buffer;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::caller::Capability;
use crate::lower::proc_path;
use crate::lower::stat::LowerStat;
use crate::shift::set_id::SetIdPolicy;
use crate::shift::{acl, capability};

use super::{Call, FileSystem};

/// The longest value and the longest list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX: usize = 64 * 1024;

/// Room for a file capability, or an ACL of thirty entries.
const USUAL: usize = 256;

/// An attribute's value or a list of names, or only how long it is when the caller asked that.
#[derive(Debug, PartialEq, Eq)]
pub enum XattrReply {
    /// The length in bytes.
    Size(u32),
    /// The bytes.
    Data(Vec<u8>),
}

impl XattrReply {
    /// Fits `data` to what the caller asked for: 0 means the length; too little room is `ERANGE`.
    fn fit(data: Vec<u8>, size: u32) -> Result<Self, FsError> {
        match u32::try_from(data.len()) {
            Ok(length) if size == 0 => Ok(XattrReply::Size(length)),
            Ok(length) if length <= size => Ok(XattrReply::Data(data)),
            _ => Err(FsError::Refused(Errno::RANGE)),
        }
    }
}

/// What a name's value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    AccessAcl,
    DefaultAcl,
    Capability,
    /// What `suid=shadow` keeps ([`crate::lower::shadow`]): not shown there.
    Kept,
    /// What a file system answers for by itself (NFSv4 and SMB ACLs, NTFS attributes): the kernel
    /// above asks for no right, the file system would ask for the server's, and ids in it are not
    /// known here. So nobody has it.
    System,
    Plain,
}

impl Content {
    fn is_acl(self) -> bool {
        matches!(self, Content::AccessAcl | Content::DefaultAcl)
    }

    fn of(name: &OsStr) -> Self {
        match name.as_bytes() {
            b"system.posix_acl_access" => Content::AccessAcl,
            b"system.posix_acl_default" => Content::DefaultAcl,
            b"security.capability" => Content::Capability,
            b"trusted.idshift.suid" => Content::Kept,
            name if name.starts_with(b"system.") => Content::System,
            _ => Content::Plain,
        }
    }
}

impl FileSystem {
    /// The value of an attribute, its ids translated up.
    pub fn getxattr(&self, nodeid: u64, name: &OsStr, size: u32) -> Result<XattrReply, FsError> {
        if self.refuses_attribute(name.as_bytes()).is_some() {
            // Of an ACL the kernel above must hear that there is none, or it denies everything.
            return Err(FsError::Refused(Errno::NODATA));
        }
        let content = self.content_of(name);
        match content {
            Content::Kept => return Err(FsError::Refused(Errno::NODATA)),
            Content::System => return Err(FsError::Refused(Errno::NOTSUP)),
            Content::Capability => {
                if let Some(value) = self.shadow_capability(nodeid)? {
                    return XattrReply::fit(capability::up(&value, &self.maps), size);
                }
            }
            _ => {}
        }
        let file = self.xattrs_of(nodeid)?;
        if content == Content::Plain && size == 0 {
            let length = file.length(name)?;
            return Ok(XattrReply::Size(u32::try_from(length).unwrap_or(u32::MAX)));
        }
        let value = match content {
            Content::Plain => read_value(&file, name, size as usize)?,
            // The caller's room is for the translated value, which may be longer than the stored.
            _ => match read_value(&file, name, USUAL) {
                Err(FsError::Os { errno: Errno::RANGE, .. }) => read_value(&file, name, MAX)?,
                // The kernel above asks for ACLs to check permissions, and denies them over any
                // answer but this one (`fuse_get_acl` in fs/fuse/acl.c). Where nothing has any, it does
                // not ask.
                Err(FsError::Os { errno: Errno::NOTSUP, .. })
                    if content.is_acl() && self.lower.has_acls() =>
                {
                    return Err(FsError::Refused(Errno::NODATA));
                }
                read => read?,
            },
        };
        let value = match content {
            Content::AccessAcl => {
                let value = self.cut_acl(nodeid, value)?;
                acl::up(&value, &self.maps, self.unmapped_acl)?
            }
            Content::DefaultAcl => acl::up(&value, &self.maps, self.unmapped_acl)?,
            Content::Capability => capability::up(&value, &self.maps),
            Content::Kept | Content::System | Content::Plain => value,
        };
        XattrReply::fit(value, size)
    }

    /// Sets an attribute, its ids translated down. An access ACL that is set by somebody outside
    /// the file's group, without `CAP_FSETID`, takes the set-group-ID bit away; `outside_group` is
    /// `None` where the request does not say whether it is.
    pub fn setxattr(
        &self,
        call: &Call<'_>,
        nodeid: u64,
        name: &OsStr,
        value: &[u8],
        flags: u32,
        outside_group: Option<bool>,
    ) -> Result<(), FsError> {
        // `XATTR_CREATE` or `XATTR_REPLACE` was judged when it was done for the first time.
        let flags = if call.in_flight.begin_change().is_some() { 0 } else { flags };
        if let Some(errno) = self.refuses_attribute(name.as_bytes()) {
            return Err(FsError::Refused(errno));
        }
        let flags = XattrFlags::from_bits_retain(flags);
        let inode = self.lower.inode(nodeid)?;
        let fd = self.lower.path_fd(&inode)?;
        self.may_change(fd.as_fd(), Errno::PERM)?;
        let doubted = self.may_set_attribute(call.caller, &inode, fd.as_fd(), name)?;
        let outside_group = outside_group.filter(|_| !doubted);
        let path = proc_path(&fd);
        let set = |value: &[u8]| rustix::fs::setxattr(&*path, name, value, flags).call("setxattr");
        self.allocating(|| match self.content_of(name) {
            Content::AccessAcl => {
                let value = acl::down(value, &self.maps)?;
                self.store_access_acl(call.caller, fd.as_fd(), name, &value, flags, outside_group)
            }
            Content::DefaultAcl => set(&acl::down(value, &self.maps)?),
            Content::Capability => {
                self.may_set_capability(&fd)?;
                let value = capability::down(value, &self.maps)?;
                if self.shadows(inode.kind) {
                    return Self::keep_capability(fd.as_fd(), value, flags);
                }
                set(&value)
            }
            Content::Kept => Err(FsError::Refused(Errno::PERM)),
            Content::System => Err(FsError::Refused(Errno::NOTSUP)),
            Content::Plain => set(value),
        })
    }

    /// The names of an inode's attributes, each ended by a zero byte. As on a local file system,
    /// `trusted.*` is there only for callers that could read it.
    pub fn listxattr(
        &self,
        call: &Call<'_>,
        nodeid: u64,
        size: u32,
    ) -> Result<XattrReply, FsError> {
        let file = self.xattrs_of(nodeid)?;
        let mut names = Vec::with_capacity(MAX);
        file.list(rustix::buffer::spare_capacity(&mut names))?;
        names = self.shadow_names(nodeid, names)?;
        let is_trusted = |name: &[u8]| name.starts_with(b"trusted.");
        let trusted = names.split(|&b| b == 0).any(is_trusted);
        if trusted && !self.callers.read(call.caller.tid).has(Capability::SysAdmin) {
            let kept = names.split_inclusive(|&b| b == 0).filter(|name| !is_trusted(name));
            names = kept.flatten().copied().collect();
        }
        if self.owners.is_some() {
            let shown = |name: &&[u8]| {
                self.refuses_attribute(name.strip_suffix(&[0]).unwrap_or(name)).is_none()
            };
            let kept = names.split_inclusive(|&b| b == 0).filter(shown);
            names = kept.flatten().copied().collect();
        }
        XattrReply::fit(names, size)
    }

    /// Removes an attribute. On some file systems removing an access ACL clears the
    /// set-group-ID bit as setting one does.
    pub fn removexattr(&self, call: &Call<'_>, nodeid: u64, name: &OsStr) -> Result<(), FsError> {
        let again = call.in_flight.begin_change().is_some();
        match self.remove_attribute(call, nodeid, name) {
            Err(error) if again && error.errno() == Errno::NODATA => Ok(()),
            other => other,
        }
    }

    fn remove_attribute(&self, call: &Call<'_>, nodeid: u64, name: &OsStr) -> Result<(), FsError> {
        if let Some(errno) = self.refuses_attribute(name.as_bytes()) {
            return Err(FsError::Refused(errno));
        }
        let inode = self.lower.inode(nodeid)?;
        let fd = self.lower.path_fd(&inode)?;
        self.may_change(fd.as_fd(), Errno::PERM)?;
        self.may_set_attribute(call.caller, &inode, fd.as_fd(), name)?;
        let remove = || rustix::fs::removexattr(proc_path(&fd), name).call("removexattr");
        let content = self.content_of(name);
        match content {
            Content::Kept => return Err(FsError::Refused(Errno::NODATA)),
            Content::System => return Err(FsError::Refused(Errno::NOTSUP)),
            _ => {}
        }
        if content == Content::Capability && self.shadows(inode.kind) {
            return Self::drop_capability(fd.as_fd());
        }
        if content == Content::AccessAcl {
            return self.with_rights_of(
                call.caller,
                fd.as_fd(),
                &LowerStat::of(&fd)?,
                None,
                remove,
            );
        }
        remove()
    }

    /// The access ACL as it is stored, if there is one.
    pub(super) fn stored_acl(&self, nodeid: u64) -> Option<Vec<u8>> {
        let file = self.xattrs_of(nodeid).ok()?;
        read_value(&file, OsStr::new("system.posix_acl_access"), MAX).ok()
    }

    /// The lower file for reading its attributes. One that is open is asked directly, which spares
    /// the way through /proc.
    fn xattrs_of(&self, nodeid: u64) -> Result<Xattrs, FsError> {
        if let Some(open) = self.lower.open_files.any_of(nodeid) {
            return Ok(Xattrs::Open(open));
        }
        let fd = self.lower.path_fd(&self.lower.inode(nodeid)?)?;
        Ok(Xattrs::Path { path: proc_path(&fd), _fd: fd })
    }

    /// What this mount takes the name's value for.
    fn content_of(&self, name: &OsStr) -> Content {
        match Content::of(name) {
            Content::Kept if self.policies.set_id != SetIdPolicy::Shadow => Content::Plain,
            content => content,
        }
    }

    /// Refuses file capabilities where a policy lets nobody set them: `EPERM`.
    fn may_set_capability(&self, fd: impl AsFd) -> Result<(), FsError> {
        let denied = match self.policies.set_id {
            SetIdPolicy::Deny => true,
            _ if self.policies.is_default_for_writing() => false,
            _ => self.squashes(&LowerStat::of(fd)?),
        };
        if denied { Err(FsError::Refused(Errno::PERM)) } else { Ok(()) }
    }
}

fn read_value(file: &Xattrs, name: &OsStr, room: usize) -> Result<Vec<u8>, FsError> {
    let mut value = Vec::with_capacity(room.min(MAX));
    file.get(name, rustix::buffer::spare_capacity(&mut value))?;
    Ok(value)
}

/// How the attributes of a lower file are read: the calls refuse `O_PATH` descriptors, for which the
/// descriptor's own path stands in.
enum Xattrs {
    Open(Arc<OwnedFd>),
    /// The path is good for as long as the descriptor beside it stays open.
    Path {
        path: String,
        _fd: Arc<OwnedFd>,
    },
}

impl Xattrs {
    /// How long a value is. An empty buffer will not do: rustix takes it for what was read.
    fn length(&self, name: &OsStr) -> Result<usize, FsError> {
        match self {
            Xattrs::Open(fd) => rustix::fs::fgetxattr_query(fd, name).call("fgetxattr"),
            Xattrs::Path { path, .. } => {
                rustix::fs::getxattr_query(path.as_str(), name).call("getxattr")
            }
        }
    }

    /// Reads a value into `room` and returns its length.
    fn get<B: Buffer<u8>>(&self, name: &OsStr, room: B) -> Result<B::Output, FsError> {
        match self {
            Xattrs::Open(fd) => rustix::fs::fgetxattr(fd, name, room).call("fgetxattr"),
            Xattrs::Path { path, .. } => {
                rustix::fs::getxattr(path.as_str(), name, room).call("getxattr")
            }
        }
    }

    /// Reads the names into `room`.
    fn list<B: Buffer<u8>>(&self, room: B) -> Result<B::Output, FsError> {
        match self {
            Xattrs::Open(fd) => rustix::fs::flistxattr(fd, room).call("flistxattr"),
            Xattrs::Path { path, .. } => {
                rustix::fs::listxattr(path.as_str(), room).call("listxattr")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_file_systems_answer_for_themselves_is_nobodys() {
        let of = |name: &str| Content::of(OsStr::new(name));
        for name in ["system.nfs4_acl", "system.cifs_acl", "system.ntfs_security", "system."] {
            assert_eq!(of(name), Content::System, "{name}");
        }
        assert_eq!(of("system.posix_acl_access"), Content::AccessAcl);
        assert_eq!(of("system.posix_acl_default"), Content::DefaultAcl);
        assert_eq!(of("user.system.x"), Content::Plain);
    }
}
