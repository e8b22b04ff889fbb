//! What a server asks of its helper, as bytes.

use crate::lower::caller::Fact;

/// A message to the helper: a kind, and a number.
pub(super) type Message = [u8; 9];

/// What the server can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
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

impl Order {
    const KINDS: [(u8, Fact); 4] =
        [(b's', Fact::Status), (b'n', Fact::Namespace), (b'u', Fact::UidMap), (b'g', Fact::GidMap)];

    pub(super) fn encode(self) -> Message {
        let (kind, number) = match self {
            Order::Unmount => (b'U', 0),
            Order::Fact(fact, tid) => {
                let kind = Self::KINDS.iter().find(|(_, known)| *known == fact);
                (kind.map_or(0, |(kind, _)| *kind), u64::from(tid))
            }
            Order::Mounted(mount) => (b'M', mount),
            Order::Times(bits) => (b'T', bits),
            Order::Notifies => (b'N', 0),
            Order::Finish => (b'F', 0),
            Order::Echo(number) => (b'E', number),
        };
        let mut message = [kind; 9];
        message[1..].copy_from_slice(&number.to_ne_bytes());
        message
    }

    pub(super) fn decode(message: Message) -> Option<Self> {
        let [kind, number @ ..] = message;
        let number = u64::from_ne_bytes(number);
        match kind {
            b'U' => Some(Order::Unmount),
            b'M' => Some(Order::Mounted(number)),
            b'T' => Some(Order::Times(number)),
            b'N' => Some(Order::Notifies),
            b'F' => Some(Order::Finish),
            b'E' => Some(Order::Echo(number)),
            kind => {
                let (_, fact) = Self::KINDS.iter().find(|(known, _)| *known == kind)?;
                Some(Order::Fact(*fact, u32::try_from(number).ok()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_mean_what_was_meant() {
        let facts = Order::KINDS.map(|(_, fact)| Order::Fact(fact, 4_194_304));
        let others = [
            Order::Unmount,
            Order::Mounted(5),
            Order::Notifies,
            Order::Times(16),
            Order::Finish,
            Order::Echo(7),
        ];
        for order in facts.into_iter().chain(others) {
            assert_eq!(Order::decode(order.encode()), Some(order));
        }
        assert_eq!(Order::decode([b'?'; 9]), None);
        assert_eq!(
            Order::decode([b's', 1, 1, 1, 1, 1, 1, 1, 1]),
            None,
            "no thread has that number"
        );
    }
}
