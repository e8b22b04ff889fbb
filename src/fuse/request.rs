//! Taking a request apart. Everything in it is checked against the message's length: a malformed
//! one is answered with an error and harms nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::root;
use super::wire::{InHeader, Opcode};
use crate::error::FsError;
use crate::fs::{Caller, Name};
use crate::shift::id::Id;

/// One request: its header, and the arguments that have not been taken off yet.
#[derive(Clone)]
pub(super) struct Request<'m> {
    header: InHeader,
    args: &'m [u8],
}

impl<'m> Request<'m> {
    /// Reads the header; `None` if the message is too short to be one.
    pub(super) fn parse(message: &'m [u8]) -> Option<Self> {
        let (header, rest) = InHeader::read_from_prefix(message).ok()?;
        // Extensions that idshift does not ask for would stand at the end.
        let arguments = (header.len as usize)
            .checked_sub(size_of::<InHeader>())?
            .checked_sub(usize::from(header.total_extlen) * 8)?;
        Some(Self { header, args: rest.get(..arguments)? })
    }

    /// The number that the reply must carry.
    pub(super) fn unique(&self) -> u64 {
        self.header.unique
    }

    /// What is asked; `None` for what is not offered here.
    pub(super) fn opcode(&self) -> Option<Opcode> {
        Opcode::from_raw(self.header.opcode)
    }

    /// Whether serving it may take long. What only makes the server forget does not, and its message
    /// must not be put by.
    pub(super) fn can_be_stuck(&self) -> bool {
        use Opcode::{BatchForget, Forget, Interrupt};
        !matches!(self.opcode(), None | Some(Forget | BatchForget | Interrupt))
    }

    /// The inode that the request is about.
    pub(super) fn nodeid(&self) -> u64 {
        root::known(self.header.nodeid)
    }

    /// Who asks. The kernel sends the ids of the mount's user namespace, and −1 for one that has
    /// none there.
    pub(super) fn caller(&self) -> Caller {
        let InHeader { uid, gid, pid, .. } = self.header;
        Caller { uid: Id::new(uid), gid: Id::new(gid), tid: pid }
    }

    /// Takes a fixed-size argument off.
    pub(super) fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, FsError> {
        let (value, rest) = T::read_from_prefix(self.args).map_err(|_| MALFORMED)?;
        self.args = rest;
        Ok(value)
    }

    /// Takes a string off, up to its zero byte.
    pub(super) fn take_str(&mut self) -> Result<&'m OsStr, FsError> {
        let end = self.args.iter().position(|&b| b == 0).ok_or(MALFORMED)?;
        let (text, rest) = self.args.split_at(end);
        self.args = &rest[1..];
        Ok(OsStr::from_bytes(text))
    }

    /// Takes the name of a directory entry off.
    pub(super) fn take_name(&mut self) -> Result<Name<'m>, FsError> {
        Name::new(self.take_str()?)
    }

    /// Takes exactly `length` bytes off.
    pub(super) fn take_bytes(&mut self, length: u32) -> Result<&'m [u8], FsError> {
        let (bytes, rest) = self.args.split_at_checked(length as usize).ok_or(MALFORMED)?;
        self.args = rest;
        Ok(bytes)
    }
}

/// The kernel never sends these.
const MALFORMED: FsError = FsError::Refused(Errno::INVAL);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(opcode: u32, args: &[u8]) -> Vec<u8> {
        let length = u32::try_from(40 + args.len()).unwrap();
        let mut bytes = Vec::new();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0xff; 4]);
        bytes.extend([0; 12]);
        bytes.extend(args);
        bytes
    }

    #[test]
    fn a_lookup_is_taken_apart() {
        let bytes = message(1, b"name\0");
        let mut request = Request::parse(&bytes).unwrap();
        assert_eq!(request.opcode(), Some(Opcode::Lookup));
        assert_eq!((request.unique(), request.nodeid()), (7, 1));
        assert!(request.caller().uid.is_none() && request.caller().gid.is_some());
        assert_eq!(request.take_name().unwrap().as_os_str(), "name");
        assert!(request.take_str().is_err());
    }

    #[test]
    fn forged_names_and_lengths_are_refused() {
        for bad in [&b"..\0"[..], b"a/b\0", b"\0", b"no end"] {
            assert!(Request::parse(&message(1, bad)).unwrap().take_name().is_err(), "{bad:?}");
        }
        let mut longer_than_it_is = message(1, b"x\0");
        longer_than_it_is[0] = 200;
        assert!(Request::parse(&longer_than_it_is).is_none());
        assert!(Request::parse(&[0; 39]).is_none());
    }

    proptest! {
        #[test]
        fn no_message_can_hurt(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(mut request) = Request::parse(&bytes) {
                let _opcode = request.opcode();
                let _taken = request.take::<super::super::wire::SetattrIn>();
                let _name = request.take_name();
                let _bytes = request.take_bytes(16);
            }
        }
    }
}
