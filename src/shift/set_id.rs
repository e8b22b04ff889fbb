//! Set-user-ID programs (`suid=`): what becomes of S_ISUID, S_ISGID and file capabilities that are
//! set through the mount, and the form in which `suid=shadow` keeps them.
//!
//! Whoever maps to another lower id can leave a set-user-ID program on the lower side, to be run
//! from the lower path with that id (Serge Hallyn on idmapped mounts, January 2021).

use std::fmt;

/// S_ISUID and S_ISGID.
pub const SET_ID: u32 = 0o6000;

/// What becomes of set-ID bits and file capabilities (`suid=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetIdPolicy {
    /// They are stored in the lower file, as natively.
    #[default]
    Pass,
    /// Setting them fails with `EPERM`; those that are there are shown and honoured until the
    /// file is opened for writing.
    Deny,
    /// They are kept beside the lower file's mode: set-user-ID inside the mount, inert outside.
    Shadow,
}

/// What is kept of a lower file's privileges in an attribute beside it.
///
/// Its text is one line: a version, the bits in octal, the time of the file's last modification,
/// and the value of `security.capability` in hexadecimal, `-` for none.
///
/// ```
/// use idshift::shift::set_id::Shadow;
/// let kept = Shadow { bits: 0o4000, capability: vec![], written: (1_700_000_000, 5) };
/// assert_eq!(kept.to_string(), "1 4000 1700000000.000000005 -");
/// assert_eq!(Shadow::parse(kept.to_string().as_bytes()), Some(kept));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shadow {
    /// The set-ID bits.
    pub bits: u32,
    /// What `security.capability` of the lower file would hold (a lower root id); empty for none.
    pub capability: Vec<u8>,
    /// When the contents were last modified, in seconds and nanoseconds. A write on the lower side
    /// does not take the kept bits away, as it takes real ones; so they count only as long as the
    /// file has this time.
    pub written: (i64, u32),
}

impl Shadow {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.bits == 0 && self.capability.is_empty()
    }

    /// Reads the attribute's value. Anything but exactly its form is `None`, and gives no rights.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut words = text.split(' ');
        if words.next()? != "1" {
            return None;
        }
        let bits = u32::from_str_radix(words.next()?, 8).ok()?;
        let (sec, nsec) = words.next()?.split_once('.')?;
        let written = (sec.parse().ok()?, nsec.parse().ok()?);
        let capability = match words.next()? {
            "-" => Vec::new(),
            hex => from_hex(hex)?,
        };
        let shadow = Self { bits, capability, written };
        (words.next().is_none() && bits & !SET_ID == 0 && shadow.to_string() == text)
            .then_some(shadow)
    }
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sec, nsec) = self.written;
        write!(f, "1 {:o} {sec}.{nsec:09} ", self.bits)?;
        if self.capability.is_empty() {
            return f.write_str("-");
        }
        self.capability.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            bits in prop_oneof![Just(0), Just(0o2000), Just(0o4000), Just(0o6000)],
            capability: Vec<u8>,
            written in (any::<i64>(), 0..1_000_000_000_u32),
        ) {
            let shadow = Shadow { bits, capability, written };
            prop_assert_eq!(Shadow::parse(shadow.to_string().as_bytes()), Some(shadow));
        }

        #[test]
        fn noise_gives_no_rights(value: Vec<u8>) {
            if let Some(shadow) = Shadow::parse(&value) {
                prop_assert_eq!(shadow.to_string().into_bytes(), value);
            }
        }
    }

    #[test]
    fn other_forms_give_no_rights() {
        for text in [
            "",
            "2 4000 1.000000000 -",
            "1 4755 1.000000000 -",
            "1 10000 1.000000000 -",
            "1 4000 1.0 -",
            "1 4000 1.000000000",
            "1 4000 1.000000000 ",
            "1 4000 1.000000000 - ",
            "1 4000 1.000000000 -\n",
            "1 +4000 1.000000000 -",
            "1 4000 1.000000000 0",
            "1 4000 1.000000000 AB",
        ] {
            assert_eq!(Shadow::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
