//! How far long work has come: one line on a terminal, nothing in a pipe or a file.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Work that is done sooner says nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the line changes.
const INTERVAL: Duration = Duration::from_millis(100);
/// Longer lines would be wrapped, and could not be taken away.
const WIDTH: usize = 78;

/// The line; it goes away when this is dropped.
pub struct Progress {
    out: Option<Box<dyn Write>>,
    due: Instant,
    interval: Duration,
    is_shown: bool,
}

impl Progress {
    /// On stderr, if that is a terminal.
    pub fn on_stderr() -> Self {
        let out: Option<Box<dyn Write>> =
            if io::stderr().is_terminal() { Some(Box::new(io::stderr())) } else { None };
        Self { out, due: Instant::now() + PATIENCE, interval: INTERVAL, is_shown: false }
    }

    /// Says how far the work has come, now and then; `text` is made only then.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        let Some(out) = &mut self.out else { return };
        let now = Instant::now();
        if now < self.due {
            return;
        }
        self.due = now + self.interval;
        let line: String = text().chars().map(printable).take(WIDTH).collect();
        // A terminal that cannot be written to has nobody to tell.
        write!(out, "\r\x1b[K{line}").and_then(|()| out.flush()).unwrap_or_default();
        self.is_shown = true;
    }

    /// Takes the line away, so that something else can be printed.
    pub fn clear(&mut self) {
        if let (Some(out), true) = (&mut self.out, self.is_shown) {
            write!(out, "\r\x1b[K").and_then(|()| out.flush()).unwrap_or_default();
            self.is_shown = false;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// File names may hold what a terminal takes for a command.
fn printable(letter: char) -> char {
    if letter.is_control() { '?' } else { letter }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Screen(Rc<RefCell<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn on(screen: &Screen, patience: Duration, interval: Duration) -> Progress {
        let out: Box<dyn Write> = Box::new(screen.clone());
        Progress { out: Some(out), due: Instant::now() + patience, interval, is_shown: false }
    }

    fn shown(screen: &Screen) -> String {
        String::from_utf8(screen.0.borrow().clone()).unwrap()
    }

    #[test]
    fn a_line_comes_and_goes() {
        let screen = Screen::default();
        let mut progress = on(&screen, Duration::ZERO, Duration::from_secs(3600));
        progress.tell(|| "7 files, a\x1b[2Jb".to_owned());
        progress.tell(|| panic!("too soon"));
        assert_eq!(shown(&screen), "\r\x1b[K7 files, a?[2Jb");
        drop(progress);
        assert!(shown(&screen).ends_with("b\r\x1b[K"));
    }

    #[test]
    fn quick_work_says_nothing() {
        let screen = Screen::default();
        let mut progress = on(&screen, Duration::from_secs(3600), Duration::ZERO);
        progress.tell(|| panic!("too soon"));
        drop(progress);
        assert_eq!(shown(&screen), "");
    }

    #[test]
    fn long_lines_are_cut() {
        let screen = Screen::default();
        on(&screen, Duration::ZERO, Duration::ZERO).tell(|| "é".repeat(500));
        assert_eq!(shown(&screen).matches('é').count(), WIDTH);
    }
}
