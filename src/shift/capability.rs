//! File capabilities (`security.capability`): the root id in them, translated both ways.
//!
//! The format is that of `include/uapi/linux/capability.h`, all fields le32: a magic of revision
//! (top byte) and flags, then permitted and inheritable capability bits (one pair in revision 1, two
//! from 2 on), then, in revision 3, the uid that is root in the user namespaces that the
//! capabilities count in. In revisions 1 and 2 that is uid 0.
//!
//! The rules are those of `security/commoncap.c`:
//!
//! - Reading (`cap_inode_getsecurity`) and exec (`get_vfs_caps_from_disk`) shift the root id; one
//!   that becomes invalid gives `EOVERFLOW` and no capabilities. The kernel above the server goes
//!   through the same functions with what the server answers, so [`up`] sends the shifted id, or
//!   the invalid one, and the kernel does the rest, such as showing revision 2 to the root of that
//!   id.
//! - Writing (`cap_convert_nscap`) on an idmapped mount always stores revision 3, also for root id
//!   0; without a map the value is stored as it is.
//!
//! Deviation: a revision 1 value cannot be read on the kernel's mount (`EINVAL`), though exec
//! honours it. Its root has to be shifted as well, and only revision 3 can say so: here reading
//! gives revision 3. Nothing writes revision 1 since Linux 2.6.25.

use crate::shift::attr::shown;
use crate::shift::id::{LowerUid, UpperUid};
use crate::shift::idmap::Maps;
use crate::shift::xattr_error::XattrError;

const REVISION_MASK: u32 = 0xFF00_0000;
const REVISION_1: u32 = 0x0100_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const EFFECTIVE: u32 = 1;

const SIZE_1: usize = 12;
const SIZE_2: usize = 20;
const SIZE_3: usize = 24;

/// The capability bits: two pairs of permitted and inheritable.
type Bits = [u8; 16];

/// Translates stored capabilities (lower root id) into what the kernel shows and honours.
///
/// `value` is what `getxattr` gave on the lower file. A value of no known format passes unchanged:
/// the kernel refuses it above as it would below.
pub fn up(value: &[u8], maps: &Maps) -> Vec<u8> {
    let Some((magic, rest)) = value.split_first_chunk::<4>() else {
        return value.to_vec();
    };
    let magic = u32::from_le_bytes(*magic);
    let flags = magic & !REVISION_MASK;
    let (bits, root) = match (magic & REVISION_MASK, value.len()) {
        (REVISION_1, SIZE_1) | (REVISION_2, SIZE_2) => {
            if maps.up_uid(LowerUid::ROOT) == Some(UpperUid::ROOT) {
                return value.to_vec();
            }
            let (bits, _) = split_root(rest);
            (bits, Some(LowerUid::ROOT))
        }
        (REVISION_3, SIZE_3) => {
            let (bits, root) = split_root(rest);
            (bits, LowerUid::new(root))
        }
        _ => return value.to_vec(),
    };
    let root = shown(root.and_then(|root| maps.up_uid(root)));
    encode(REVISION_3 | flags, bits, root)
}

/// Translates capabilities that a caller sets (upper root id) into what is stored.
///
/// Fails with `EINVAL` where the root id has no lower counterpart or the value is of no format
/// that can be written. An empty value stays empty, as `vfs_setxattr` does not convert it.
pub fn down(value: &[u8], maps: &Maps) -> Result<Vec<u8>, XattrError> {
    if value.is_empty() || maps.uids.is_identity() {
        return Ok(value.to_vec());
    }
    let (magic, rest) = value.split_first_chunk::<4>().ok_or(XattrError::Malformed)?;
    let magic = u32::from_le_bytes(*magic);
    if !matches!((magic & !EFFECTIVE, value.len()), (REVISION_2, SIZE_2) | (REVISION_3, SIZE_3)) {
        return Err(XattrError::Malformed);
    }
    let (bits, root) = split_root(rest);
    let root = UpperUid::new(root).and_then(|root| maps.down_uid(root));
    let root = root.ok_or(XattrError::UnmappedId)?;
    Ok(encode(REVISION_3 | (magic & EFFECTIVE), bits, root.raw()))
}

/// Splits what follows the magic into the capability bits and the root id. What is too short for
/// either counts as zero: revision 1 has no upper bits, and only revision 3 has a root id, which is
/// 0 in the others.
fn split_root(rest: &[u8]) -> (Bits, u32) {
    let mut all = [0; SIZE_3 - 4];
    for (to, from) in all.iter_mut().zip(rest) {
        *to = *from;
    }
    let [bits @ .., r0, r1, r2, r3] = all;
    (bits, u32::from_le_bytes([r0, r1, r2, r3]))
}

/// A revision 3 value.
fn encode(magic: u32, bits: Bits, root: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(SIZE_3);
    out.extend_from_slice(&magic.to_le_bytes());
    out.extend_from_slice(&bits);
    out.extend_from_slice(&root.to_le_bytes());
    out
}

#[cfg(test)]
mod tests;
