//! What a server asks of its keeper, as bytes.

use crate::lower::caller::Fact;

/// A message to the keeper: a kind, and a number.
pub(super) type Message = [u8; 9];

/// What the server can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Take the mount away, if the mount point shows it.
    Unmount,
    /// What `/proc` says of a caller.
    Fact(Fact, u32),
    /// The mount is there and has this number. Heard once, from a server that is not confined yet.
    Mounted(u64),
    /// Keep access times on the server's own mount as these bits say (`mount::times`).
    Times(u64),
    /// The server tells the kernel of changes: end its connection if it is killed.
    Notifies,
    /// The mount is gone: end its connection, should it not be, and undo what was done for it outside.
    Finish,
    /// Say this number back, after everything that was asked for before.
    Echo(u64),
}

impl Ask {
    const KINDS: [(u8, Fact); 4] =
        [(b's', Fact::Status), (b'n', Fact::Namespace), (b'u', Fact::UidMap), (b'g', Fact::GidMap)];

    pub(super) fn encode(self) -> Message {
        let (kind, number) = match self {
            Ask::Unmount => (b'U', 0),
            Ask::Fact(fact, tid) => {
                let kind = Self::KINDS.iter().find(|(_, known)| *known == fact);
                (kind.map_or(0, |(kind, _)| *kind), u64::from(tid))
            }
            Ask::Mounted(mount) => (b'M', mount),
            Ask::Times(bits) => (b'T', bits),
            Ask::Notifies => (b'N', 0),
            Ask::Finish => (b'F', 0),
            Ask::Echo(number) => (b'E', number),
        };
        let mut message = [kind; 9];
        message[1..].copy_from_slice(&number.to_ne_bytes());
        message
    }

    pub(super) fn decode(message: Message) -> Option<Self> {
        let [kind, number @ ..] = message;
        let number = u64::from_ne_bytes(number);
        match kind {
            b'U' => Some(Ask::Unmount),
            b'M' => Some(Ask::Mounted(number)),
            b'T' => Some(Ask::Times(number)),
            b'N' => Some(Ask::Notifies),
            b'F' => Some(Ask::Finish),
            b'E' => Some(Ask::Echo(number)),
            kind => {
                let (_, fact) = Self::KINDS.iter().find(|(known, _)| *known == kind)?;
                Some(Ask::Fact(*fact, u32::try_from(number).ok()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_mean_what_was_meant() {
        let facts = Ask::KINDS.map(|(_, fact)| Ask::Fact(fact, 4_194_304));
        let others = [
            Ask::Unmount,
            Ask::Mounted(5),
            Ask::Notifies,
            Ask::Times(16),
            Ask::Finish,
            Ask::Echo(7),
        ];
        for ask in facts.into_iter().chain(others) {
            assert_eq!(Ask::decode(ask.encode()), Some(ask));
        }
        assert_eq!(Ask::decode([b'?'; 9]), None);
        assert_eq!(Ask::decode([b's', 1, 1, 1, 1, 1, 1, 1, 1]), None, "no thread has that number");
    }
}
