//! POSIX ACLs in xattrs (`system.posix_acl_access`, `system.posix_acl_default`): the ids in them,
//! translated both ways.
//!
//! The format is version 2 of `include/uapi/linux/posix_acl_xattr.h`: a version (le32), then
//! entries of tag (le16), permissions (le16) and id (le32). Only named users and groups carry an id.
//! Entries keep their order; whether tags come in a valid order is left to the lower kernel, which
//! checks each ACL that is set (`posix_acl_valid`).
//!
//! # An entry whose id is unmapped, on the way up
//!
//! The kernel's idmapped mount lets such an entry match nobody, and shows its id as 4294967295.
//! FUSE cannot do the second: the kernel decodes what the server sends with
//! `posix_acl_from_xattr`, which refuses an ACL with that id as a whole, and then every permission
//! check of the file fails. So [`Unmapped::Placeholder`] sends the entry with the id 4294967294 and
//! *no permissions*:
//!
//! - It gives rights to nobody. With its permissions kept it would give them to a process that
//!   runs with that id.
//! - For everyone but that id the entry matches nobody, as on the kernel's mount.
//! - `getfacl | setfacl` fails with `EINVAL`, as on the kernel's mount, because 4294967294 has no
//!   lower counterpart. An entry that is left out would be lost by that round trip.
//!
//! Deviation from the kernel's mount: the id and the permissions that `getfacl` prints for such an
//! entry, and a process with the id 4294967294 matches it (and gets nothing). Where 4294967294 is
//! in the map, the entry is left out instead, since `setfacl` would store it as somebody's.

use crate::shift::attr::shown;
use crate::shift::id::{Id, LowerGid, LowerUid, Upper, UpperGid, UpperUid};
use crate::shift::idmap::{IdMap, Maps};
use crate::shift::xattr_error::XattrError;

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

/// All three rights.
pub(in crate::shift) const RWX: u16 = 7;

/// The largest id; no distribution gives it to anybody.
const PLACEHOLDER: u32 = u32::MAX - 1;

/// What becomes of an entry whose id has no upper counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmapped {
    /// Shown with the id 4294967294 and no permissions. Only where the user namespace that owns
    /// the mount maps that id, as the initial one does: elsewhere the kernel would refuse the
    /// whole ACL.
    Placeholder,
    /// Left out. Enforced as on the kernel's mount, but lost when a caller reads the ACL and
    /// writes it back.
    Drop,
}

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shift) enum Tag {
    /// The owner.
    UserObj,
    /// A named user.
    User,
    /// The owning group.
    GroupObj,
    /// A named group.
    Group,
    /// What named users and all groups have at most.
    Mask,
    /// Everyone else.
    Other,
}

/// One entry as stored in the xattr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shift) struct Entry {
    /// What it is about.
    pub(in crate::shift) tag: Tag,
    /// `rwx`, as in a mode.
    pub(in crate::shift) permissions: u16,
    /// Means something for [`Tag::User`] and [`Tag::Group`] only.
    pub(in crate::shift) id: u32,
}

impl Tag {
    fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            0x01 => Tag::UserObj,
            0x02 => Tag::User,
            0x04 => Tag::GroupObj,
            0x08 => Tag::Group,
            0x10 => Tag::Mask,
            0x20 => Tag::Other,
            _ => return None,
        })
    }

    fn raw(self) -> u16 {
        match self {
            Tag::UserObj => 0x01,
            Tag::User => 0x02,
            Tag::GroupObj => 0x04,
            Tag::Group => 0x08,
            Tag::Mask => 0x10,
            Tag::Other => 0x20,
        }
    }
}

/// An ACL in the short form of getfacl(1): `u::rwx,u:1000:r--,g::r-x,m::r-x,o::---`; `None` if it is
/// malformed.
pub fn describe(value: &[u8]) -> Option<String> {
    let entries = decode(value).ok()?;
    let one = |entry: &Entry| {
        let letter = |bit: u16, letter| if entry.permissions & bit != 0 { letter } else { '-' };
        let rights = [letter(4, 'r'), letter(2, 'w'), letter(1, 'x')].iter().collect::<String>();
        match entry.tag {
            Tag::UserObj => format!("u::{rights}"),
            Tag::User => format!("u:{}:{rights}", entry.id),
            Tag::GroupObj => format!("g::{rights}"),
            Tag::Group => format!("g:{}:{rights}", entry.id),
            Tag::Mask => format!("m::{rights}"),
            Tag::Other => format!("o::{rights}"),
        }
    };
    Some(entries.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Translates a stored ACL (lower ids) into what the kernel shows and enforces (upper ids).
///
/// `value` is what `getxattr` gave on the lower file. Fails where it is malformed.
pub fn up(value: &[u8], maps: &Maps, unmapped: Unmapped) -> Result<Vec<u8>, XattrError> {
    rewrite(value, |entry| {
        let id = match entry.tag {
            Tag::User => LowerUid::new(entry.id).map(|id| shown(maps.up_uid(id))),
            Tag::Group => LowerGid::new(entry.id).map(|id| shown(maps.up_gid(id))),
            _ => return Ok(Some(entry)),
        };
        if let Some(id) = id.filter(|&id| id != shown(None::<UpperUid>)) {
            return Ok(Some(Entry { id, ..entry }));
        }
        let taken = match entry.tag {
            Tag::User => holds_placeholder(&maps.uids),
            _ => holds_placeholder(&maps.gids),
        };
        let keep = unmapped == Unmapped::Placeholder && !taken;
        Ok(keep.then_some(Entry { permissions: 0, id: PLACEHOLDER, ..entry }))
    })
}

/// Translates an ACL that a caller sets (upper ids) into what is stored (lower ids).
///
/// Fails with [`XattrError::UnmappedId`] where it names an id without a lower counterpart
/// (`EINVAL`, as `posix_acl_valid` on an idmapped mount), and where it is malformed. An empty value,
/// which removes the ACL, stays empty.
pub fn down(value: &[u8], maps: &Maps) -> Result<Vec<u8>, XattrError> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    rewrite(value, |entry| {
        let id = match entry.tag {
            Tag::User => UpperUid::new(entry.id).and_then(|id| maps.down_uid(id)).map(Id::raw),
            Tag::Group => UpperGid::new(entry.id).and_then(|id| maps.down_gid(id)).map(Id::raw),
            _ => return Ok(Some(entry)),
        };
        let id = id.ok_or(XattrError::UnmappedId)?;
        Ok(Some(Entry { id, ..entry }))
    })
}

fn holds_placeholder<K>(map: &IdMap<K>) -> bool {
    Id::<K, Upper>::new(PLACEHOLDER).and_then(|id| map.down(id)).is_some()
}

/// Decodes, passes each entry through `change` (`None` leaves it out), and encodes again.
fn rewrite(
    value: &[u8],
    change: impl Fn(Entry) -> Result<Option<Entry>, XattrError>,
) -> Result<Vec<u8>, XattrError> {
    let mut kept = Vec::with_capacity(value.len() / ENTRY);
    for entry in decode(value)? {
        kept.extend(change(entry)?);
    }
    Ok(encode(&kept))
}

/// The entries of a value, in their order.
pub(in crate::shift) fn decode(value: &[u8]) -> Result<Vec<Entry>, XattrError> {
    let (header, entries) = value.split_first_chunk::<HEADER>().ok_or(XattrError::Malformed)?;
    if u32::from_le_bytes(*header) != VERSION {
        return Err(XattrError::Version);
    }
    let (entries, rest) = entries.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return Err(XattrError::Malformed);
    }
    let entry = |&[t0, t1, p0, p1, i0, i1, i2, i3]: &[u8; ENTRY]| {
        Ok(Entry {
            tag: Tag::from_raw(u16::from_le_bytes([t0, t1])).ok_or(XattrError::Malformed)?,
            permissions: u16::from_le_bytes([p0, p1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        })
    };
    entries.iter().map(entry).collect()
}

/// The value with these entries.
pub(in crate::shift) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + ENTRY * entries.len());
    out.extend_from_slice(&VERSION.to_le_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.tag.raw().to_le_bytes());
        out.extend_from_slice(&entry.permissions.to_le_bytes());
        out.extend_from_slice(&entry.id.to_le_bytes());
    }
    out
}

/// What an entry gives in effect: that of named users and of groups is cut by the mask, if there
/// is one (acl(5)).
pub(in crate::shift) fn effective(entry: Entry, all: &[Entry]) -> u16 {
    match entry.tag {
        Tag::UserObj | Tag::Mask | Tag::Other => entry.permissions,
        Tag::User | Tag::GroupObj | Tag::Group => {
            let mask = all.iter().find(|entry| entry.tag == Tag::Mask);
            entry.permissions & mask.map_or(RWX, |mask| mask.permissions)
        }
    }
}

#[cfg(test)]
mod tests;
