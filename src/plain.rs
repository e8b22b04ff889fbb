//! Text that others have chosen, for a terminal.
//!
//! Any user can mount something that calls itself an idshift mount, with any source, at a directory
//! of any name, answer whatever he likes, and name files as he likes: none of it may move the cursor,
//! change a setting, or look like a line of ours.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether something could not be printed though somebody reads it, or would have.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints a line. A reader who has gone (`| head`) keeps no command from finishing what it has begun.
macro_rules! say {
    ($($text:tt)*) => { $crate::plain::print(std::io::stdout(), format_args!($($text)*), "\n") };
}

/// The same for text that ends its lines itself.
macro_rules! tell {
    ($($text:tt)*) => { $crate::plain::print(std::io::stdout(), format_args!($($text)*), "") };
}

/// A line to stderr.
macro_rules! complain {
    ($($text:tt)*) => { $crate::plain::print(std::io::stderr(), format_args!($($text)*), "\n") };
}

/// For the macros above.
pub(crate) fn print(mut to: impl Write, text: Arguments<'_>, end: &str) {
    // At once, so that no line of another process comes in between.
    let text = format!("{text}{end}");
    if let Err(error) = to.write_all(text.as_bytes()).and_then(|()| to.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Whether the output is not complete: a full disk.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// The text with its control characters written out, newlines too.
pub(crate) fn line(text: &str) -> String {
    write_out(text, |_| false)
}

/// A path on a line.
pub(crate) fn path(path: &Path) -> String {
    line(&path.display().to_string())
}

/// The same for a text of several lines.
pub(crate) fn lines(text: &str) -> String {
    write_out(text, |letter| letter == '\n')
}

fn write_out(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && !stays(letter) {
            plain.extend(letter.escape_default());
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_letters() {
        assert_eq!(line("/mnt/ä \x1b[2J\n\u{9b}x"), "/mnt/ä \\u{1b}[2J\\n\\u{9b}x");
        assert_eq!(lines("a\r\nb\x07\n"), "a\\r\nb\\u{7}\n");
    }
}
