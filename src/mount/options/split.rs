//! Cutting an option string into options, as `/etc/fstab`, mount(8) and libfuse write it.

use std::fmt;

use crate::error::StartError;

/// One option: its name, and what stood after the first `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The part before the first `=`.
    pub name: String,
    /// The part after it; `None` if there was no `=`.
    pub value: Option<String>,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Cuts `text` at its commas. A comma inside double quotes, or after a backslash, belongs to the
/// option; `\` with three octal digits is that byte (`\040` a space, `\054` a comma), as in
/// `/etc/fstab`. Empty options are dropped: `ro,,dev` is `ro,dev`.
///
/// Errors: an open quote, a backslash at the end, or bytes that are not UTF-8.
pub fn split(text: &str) -> Result<Vec<Word>, StartError> {
    let mut words = Vec::new();
    let mut current = Vec::new();
    let mut quoted = false;
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => current.push(escaped(&mut bytes, text)?),
            b'"' => quoted = !quoted,
            b',' if !quoted => push(&mut words, std::mem::take(&mut current), text)?,
            other => current.push(other),
        }
    }
    if quoted {
        return Err(StartError::Usage(format!(
            "option string '{text}': a double quote is opened and never closed"
        )));
    }
    push(&mut words, current, text)?;
    Ok(words)
}

/// The byte that the escape stands for whose backslash has just been read.
fn escaped(
    bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>,
    text: &str,
) -> Result<u8, StartError> {
    let Some(first) = bytes.next() else {
        return Err(StartError::Usage(format!(
            "option string '{text}': it ends in a backslash; write '\\\\' for a backslash itself"
        )));
    };
    if !(b'0'..=b'3').contains(&first) {
        return Ok(first);
    }
    let mut ahead = bytes.clone();
    match (ahead.next(), ahead.next()) {
        (Some(second @ b'0'..=b'7'), Some(third @ b'0'..=b'7')) => {
            *bytes = ahead;
            Ok((first - b'0') * 64 + (second - b'0') * 8 + (third - b'0'))
        }
        _ => Ok(first),
    }
}

fn push(words: &mut Vec<Word>, option: Vec<u8>, text: &str) -> Result<(), StartError> {
    if option.is_empty() {
        return Ok(());
    }
    let option = String::from_utf8(option).map_err(|_| {
        StartError::Usage(format!("option string '{text}': an escape makes it invalid UTF-8"))
    })?;
    let word = match option.split_once('=') {
        Some((name, value)) => Word { name: name.to_owned(), value: Some(value.to_owned()) },
        None => Word { name: option, value: None },
    };
    words.push(word);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<(String, Option<String>)> {
        split(text).unwrap().into_iter().map(|word| (word.name, word.value)).collect()
    }

    fn flag(name: &str) -> (String, Option<String>) {
        (name.to_owned(), None)
    }

    fn valued(name: &str, value: &str) -> (String, Option<String>) {
        (name.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn commas_separate_and_empty_options_vanish() {
        assert_eq!(shown(""), []);
        assert_eq!(shown(",ro,,dev,"), [flag("ro"), flag("dev")]);
        assert_eq!(shown("a=b=c,d="), [valued("a", "b=c"), valued("d", "")]);
    }

    #[test]
    fn escapes_and_quotes_keep_commas_and_spaces() {
        assert_eq!(shown(r"fsname=a\,b,ro"), [valued("fsname", "a,b"), flag("ro")]);
        assert_eq!(shown(r#"fsname="a,b",ro"#), [valued("fsname", "a,b"), flag("ro")]);
        assert_eq!(shown(r"map=u:0:1:2\040g:0:3:4"), [valued("map", "u:0:1:2 g:0:3:4")]);
        assert_eq!(shown(r"fsname=a\054b"), [valued("fsname", "a,b")]);
        assert_eq!(shown(r"fsname=a\\b\0x"), [valued("fsname", r"a\b0x")]);
    }

    #[test]
    fn broken_strings_say_what_is_wrong() {
        for (text, part) in [("a\\", "backslash"), ("a=\"b", "quote"), ("a=\\377", "UTF-8")] {
            let message = split(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
