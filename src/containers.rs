//! What container engines call: an OCI runtime in front of another ([`runtime`]), and a volume plugin ([`volumes`]). Both decide
//! what is to be mounted where, and start `idshift mount` for it ([`shifted`]).

pub mod runtime;
pub mod shifted;
pub mod volumes;

/// What is wrong, in words for the person who starts the container.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Problem(String);

impl Problem {
    /// With these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}
