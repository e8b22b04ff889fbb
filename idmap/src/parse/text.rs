//! The letters of specs: numbers, and the escapes that keep blanks out of them.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStringExt;

/// Decimal digits only: `u32`'s own parser would take a sign too.
pub(super) fn number(text: &str, what: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Err(format!("{what} is missing"));
    }
    if !is_decimal(text) {
        return Err(format!("{what} is '{}', which is no decimal number", text.escape_debug()));
    }
    text.parse().map_err(|_| format!("{what} is {text}, past the last id, 4294967294"))
}

/// Whether these are digits, at least one, and nothing else.
pub(super) fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Decodes `\040` and its like; a backslash before anything else stays.
pub(super) fn unescape(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'\\', &[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ref after @ ..]) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => bytes.push(byte),
        }
    }
    OsString::from_vec(bytes)
}

/// The inverse of [`unescape`], for every byte that a spec could not carry as it is, and for those
/// in `separators`.
pub(super) fn write_escaped(
    f: &mut fmt::Formatter<'_>,
    bytes: &[u8],
    separators: &[char],
) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c == ' ' || c.is_ascii_control() || separators.contains(&c) {
                write!(f, "\\{:03o}", u32::from(c))?;
            } else {
                f.write_char(c)?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\{byte:03o}")?;
        }
    }
    Ok(())
}
