//! A request in its room, and the answer to it. The kernel puts three parts there: the header, the
//! arguments of fixed length, and the rest. On /dev/fuse they stand one behind the other, and so they
//! are put here, in front of the rest, which stays where it is.

use std::ops::Range;

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::fuse::device::bytes;
use crate::fuse::reply::Sink;
use crate::fuse::wire::{EntWords, InHeader, NOTIFY_REPLY, OutHeader};
use crate::sys::uring::{ARGUMENTS, Entry, HEADER, PAYLOAD, WORDS};

/// A request that has come in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Came {
    /// The number by which its answer is known.
    pub(super) id: u64,
    /// Where the message is, as it would have been read from /dev/fuse.
    pub(super) message: Range<usize>,
    /// Whether nobody waits for the answer: it has come because this server had it sent.
    pub(super) is_own: bool,
}

/// Finds the request that the kernel has put into a room. If its lengths do not fit, only its number
/// comes back.
pub(super) fn came(entry: &mut Entry) -> Result<Came, u64> {
    let room = &mut entry.room;
    let (words, _) = EntWords::read_from_prefix(&room[WORDS..]).map_err(|_| 0_u64)?;
    let id = words.commit_id;
    let (header, _) = InHeader::read_from_prefix(&room[HEADER..]).map_err(|_| id)?;
    let rest = words.payload_sz as usize;
    let fixed = (header.len as usize).checked_sub(size_of::<InHeader>() + rest).ok_or(id)?;
    let end = PAYLOAD.checked_add(rest).filter(|&end| end <= room.len()).ok_or(id)?;
    if fixed > WORDS - ARGUMENTS {
        return Err(id);
    }
    let start = PAYLOAD - fixed - size_of::<InHeader>();
    room.copy_within(ARGUMENTS..ARGUMENTS + fixed, PAYLOAD - fixed);
    room.copy_within(HEADER..HEADER + size_of::<InHeader>(), start);
    let is_own = header.opcode == NOTIFY_REPLY;
    Ok(Came { id, message: start..end, is_own })
}

/// An answer, as long as the request is still in the room.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) struct Answer {
    /// The request's number, and 0 or an errno.
    sent: Option<(u64, i32)>,
}

impl Sink for Answer {
    fn answer(&mut self, unique: u64, errno: Option<Errno>, _: &[u8]) -> Result<(), Errno> {
        self.sent = Some((unique, errno.map_or(0, Errno::raw_os_error)));
        Ok(())
    }
}

impl Answer {
    /// The answer to a request for nothing.
    pub(super) fn nothing(unique: u64) -> Self {
        Self { sent: Some((unique, 0)) }
    }

    /// The answer to a request that could not be understood.
    pub(super) fn refusal(unique: u64) -> Self {
        Self { sent: Some((unique, Errno::IO.raw_os_error())) }
    }

    /// Puts it into the room, with the payload if it is no error. The room holds the longest payload
    /// that was agreed on.
    pub(super) fn put_into(self, entry: &mut Entry, payload: &[u8]) {
        let room = &mut entry.room;
        let (unique, mut errno) = self.sent.unwrap_or((0, Errno::IO.raw_os_error()));
        let payload = if errno == 0 { payload } else { &[] };
        let mut length = payload.len();
        if let Some(place) = room.get_mut(PAYLOAD..PAYLOAD + length) {
            place.copy_from_slice(payload);
        } else {
            (errno, length) = (Errno::IO.raw_os_error(), 0);
        }
        let payload_sz = u32::try_from(length).unwrap_or(0);
        let head = u32::try_from(size_of::<OutHeader>()).unwrap_or(0);
        let header = OutHeader { len: head + payload_sz, error: -errno, unique };
        room[HEADER..HEADER + size_of::<OutHeader>()].copy_from_slice(bytes(&header));
        let words = EntWords { flags: 0, commit_id: unique, payload_sz, padding: 0, reserved: 0 };
        room[WORDS..WORDS + size_of::<EntWords>()].copy_from_slice(words.as_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::fuse::request::Request;
    use crate::sys::uring::Room;

    fn entry() -> Entry {
        Entry { queue: 0, room: Room::new(8192).unwrap() }
    }

    fn put(entry: &mut Entry, len: u32, fixed: &[u8], rest: &[u8], said: u32) {
        let header = InHeader {
            len,
            opcode: 45,
            unique: 8,
            nodeid: 1,
            uid: 0,
            gid: 0,
            pid: 7,
            total_extlen: 0,
            padding: 0,
        };
        let words = EntWords { flags: 0, commit_id: 8, payload_sz: said, padding: 0, reserved: 0 };
        entry.room[HEADER..HEADER + 40].copy_from_slice(header.as_bytes());
        entry.room[ARGUMENTS..ARGUMENTS + fixed.len()].copy_from_slice(fixed);
        entry.room[PAYLOAD..PAYLOAD + rest.len()].copy_from_slice(rest);
        entry.room[WORDS..WORDS + 32].copy_from_slice(words.as_bytes());
    }

    #[test]
    fn the_parts_stand_one_behind_the_other() {
        let mut entry = entry();
        put(&mut entry, 40 + 16 + 4, &[7; 16], b"a\0b\0", 4);
        let came = came(&mut entry).unwrap();
        assert_eq!((came.id, came.is_own), (8, false));
        let message = entry.room[came.message].to_vec();
        let mut request = Request::parse(&message).unwrap();
        assert_eq!(request.unique(), 8);
        assert_eq!(request.take::<[u8; 16]>().unwrap(), [7; 16]);
        assert_eq!(request.take_name().unwrap().as_os_str(), "a");
        assert_eq!(request.take_name().unwrap().as_os_str(), "b");
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for (len, said) in [(0, 0), (39, 0), (60, 30), (40 + 129, 0), (u32::MAX, u32::MAX - 40)] {
            let mut entry = entry();
            put(&mut entry, len, &[], &[], said);
            assert_eq!(came(&mut entry), Err(8), "{len} {said}");
        }
    }

    #[test]
    fn an_answer_is_put_where_the_kernel_looks() {
        let mut entry = entry();
        let mut answer = Answer::default();
        answer.answer(8, None, &[]).unwrap();
        answer.put_into(&mut entry, b"text");
        assert_eq!(entry.room[..16], [20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&entry.room[PAYLOAD..PAYLOAD + 4], b"text");
        assert_eq!(entry.room[WORDS + 16], 4);
        answer.answer(8, Some(Errno::NOENT), &[]).unwrap();
        answer.put_into(&mut entry, b"text");
        assert_eq!(entry.room[..8], [16, 0, 0, 0, 254, 255, 255, 255]);
        let mut answer = Answer::default();
        answer.answer(8, None, &[]).unwrap();
        answer.put_into(&mut entry, &[0; 8193]);
        assert_eq!(entry.room[4], 251, "EIO: longer than the room");
    }
}
