//! Why something could not be measured, for the person who reads it.

use std::fmt::{Debug, Display};

/// The result of a step; the error says what failed and why.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Says what was tried when it failed.
pub(crate) trait Say<T> {
    /// Puts `what` before the reason.
    fn say(self, what: impl Display) -> Result<T>;
}

impl<T, E: Debug + Display> Say<T> for std::result::Result<T, E> {
    fn say(self, what: impl Display) -> Result<T> {
        self.map_err(|why| format!("{what}: {why}"))
    }
}
