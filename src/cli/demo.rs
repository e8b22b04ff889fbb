//! `idshift demo` (being built)

use crate::error::StartError;

/// (being built)
#[derive(Debug, clap::Args)]
pub struct Args {}

/// (being built)
pub fn run(_args: &Args) -> Result<u8, StartError> {
    Err(StartError::Usage("not built yet".to_owned()))
}
