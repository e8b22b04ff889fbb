//! The bytes that a fanotify group gives: events, and the handles by which they name inodes
//! (fanotify(7), include/uapi/linux/fanotify.h).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::sys::fanotify::Mask;

/// `struct fanotify_event_metadata`: length (4), version (1), reserved (1), length of itself (2),
/// mask (8), descriptor (4), process (4).
const METADATA: usize = 24;
/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;
/// `struct fanotify_event_info_header` and the file system's id, before a handle.
const INFO: usize = 4 + 8;
/// `FAN_EVENT_INFO_TYPE_FID`, `…_DFID_NAME`: an inode; a directory and a name.
const INODE: u8 = 1;
const DIRECTORY_AND_NAME: u8 = 2;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event<'a> {
    pub(super) mask: Mask,
    /// The process that made the change, 0 if it cannot be seen from here.
    pub(super) pid: u32,
    /// The directory and the name in it that have changed.
    pub(super) place: Option<(Handle<'a>, &'a OsStr)>,
    /// The inode that has changed, or that is behind the name.
    pub(super) object: Option<Handle<'a>>,
}

/// A file handle in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle<'a> {
    pub(super) kind: i32,
    pub(super) data: &'a [u8],
}

impl Handle<'_> {
    /// The inode number in it. There is no general way; these are the layouts of the file systems
    /// on which idshift watches: a handle of another kind gives `None`.
    pub(super) fn inode_number(self) -> Option<u64> {
        /// ext2, ext3, ext4, xfs with small numbers: number, generation; 32 bits each.
        const INO32_GEN: i32 = 1;
        /// The same, and the parent's.
        const INO32_GEN_PARENT: i32 = 2;
        /// xfs: a number of 64 bits, generation.
        const XFS_INO64: i32 = 0x81;
        /// btrfs: object (64 bits), root (64), generation (32).
        const BTRFS: i32 = 0x4d;
        match (self.kind, self.data.len()) {
            // tmpfs uses the first kind for: generation, low and high half of the number.
            (INO32_GEN, 12) => Some(u64::from(self.word(4)?) | u64::from(self.word(8)?) << 32),
            (INO32_GEN, 8) | (INO32_GEN_PARENT, 16) => self.word(0).map(u64::from),
            (XFS_INO64, 12) | (BTRFS, 20) => number(self.data, 0),
            _ => None,
        }
    }

    fn word(self, at: usize) -> Option<u32> {
        word(self.data, at)
    }
}

/// Takes the first event off `bytes`; `None` when nothing whole and sane is left.
pub(super) fn parse(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let length = usize::try_from(word(bytes, 0)?).ok()?;
    let start = usize::from(half(bytes, 6)?);
    if *bytes.get(4)? != VERSION || start < METADATA {
        return None;
    }
    let (event, rest) = bytes.split_at_checked(length)?;
    let mut infos = event.get(start..)?;
    let mut parsed = Event {
        mask: Mask::from_bits_retain(number(event, 8)?),
        pid: word(event, 20)?,
        place: None,
        object: None,
    };
    while let Some(&kind) = infos.first() {
        let length = usize::from(half(infos, 2)?);
        let (info, more) = infos.split_at_checked(length.max(1))?;
        infos = more;
        match kind {
            INODE => parsed.object = Some(handle(info)?.0),
            DIRECTORY_AND_NAME => {
                let (directory, after) = handle(info)?;
                let end = after.iter().position(|&byte| byte == 0)?;
                parsed.place = Some((directory, OsStr::from_bytes(&after[..end])));
            }
            _ => {}
        }
    }
    Some((parsed, rest))
}

/// The handle in an info record, and what follows it.
fn handle(info: &[u8]) -> Option<(Handle<'_>, &[u8])> {
    let length = usize::try_from(word(info, INFO)?).ok()?;
    let kind = word(info, INFO + 4)?.cast_signed();
    let (data, after) = info.get(INFO + 8..)?.split_at_checked(length)?;
    Some((Handle { kind, data }, after))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// What must hold for any bytes: each event takes some of them, and nothing panics.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((event, after)) = parse(rest) {
        assert!(after.len() < rest.len());
        for handle in event.object.into_iter().chain(event.place.map(|(handle, _)| handle)) {
            let _number: Option<u64> = handle.inode_number();
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let length = u16::try_from((INFO + 8 + handle.len() + name.len()).next_multiple_of(4));
        let mut bytes = vec![kind, 0];
        bytes.extend(length.unwrap().to_ne_bytes());
        bytes.extend([9; 8]);
        bytes.extend(u32::try_from(handle.len()).unwrap().to_ne_bytes());
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend(handle);
        bytes.extend(name);
        bytes.resize(usize::from(length.unwrap()), 0);
        bytes
    }

    fn event(mask: Mask, infos: &[Vec<u8>]) -> Vec<u8> {
        let length = u32::try_from(METADATA + infos.concat().len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0, 24, 0]);
        bytes.extend(mask.bits().to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(1234_u32.to_ne_bytes());
        bytes.extend(infos.concat());
        bytes
    }

    #[test]
    fn events_are_taken_apart() {
        let directory = [2, 0, 0, 0, 0, 0, 0, 0];
        let object = [11, 1, 0, 0, 7, 7, 7, 7];
        let infos = [info(DIRECTORY_AND_NAME, &directory, b"name\0"), info(INODE, &object, b"")];
        let mut bytes = event(Mask::CREATE, &infos);
        bytes.extend(event(Mask::OVERFLOW, &[]));
        let (first, rest) = parse(&bytes).unwrap();
        assert_eq!((first.mask, first.pid), (Mask::CREATE, 1234));
        let (parent, name) = first.place.unwrap();
        assert_eq!((parent.inode_number(), name), (Some(2), OsStr::new("name")));
        assert_eq!(first.object.unwrap().inode_number(), Some(267));
        let (second, rest) = parse(rest).unwrap();
        assert_eq!((second.mask, second.place, second.object), (Mask::OVERFLOW, None, None));
        assert!(parse(rest).is_none());
    }

    #[test]
    fn handles_of_each_file_system_hold_the_number() {
        let handle = |kind, data| Handle { kind, data }.inode_number();
        assert_eq!(handle(1, &[5, 0, 0, 0, 9, 9, 9, 9]), Some(5), "ext4");
        assert_eq!(handle(1, &[9, 9, 9, 9, 5, 0, 0, 0, 1, 0, 0, 0]), Some(5 | 1 << 32), "tmpfs");
        assert_eq!(handle(0x81, &[5, 0, 0, 0, 1, 0, 0, 0, 9, 9, 9, 9]), Some(5 | 1 << 32), "xfs");
        let btrfs = [&[5, 1, 0, 0, 0, 0, 0, 0][..], &[9; 12]].concat();
        assert_eq!(handle(0x4d, &btrfs), Some(261), "btrfs");
        assert_eq!(handle(0xf8, &[0; 20]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_can_hurt(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for version in [0, VERSION] {
                if bytes.len() > 6 {
                    (bytes[4], bytes[6]) = (version, 24);
                }
                let mut rest = &bytes[..];
                while let Some((_, more)) = parse(rest) {
                    prop_assert!(more.len() < rest.len());
                    rest = more;
                }
            }
        }
    }
}
