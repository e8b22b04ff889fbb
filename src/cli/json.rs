//! What `--json` prints. docs/json.md describes each shape, and a test holds the two together.

use serde::Serialize;

use crate::error::StartError;

/// The version of all shapes: it changes when a field is renamed, left out, or means something else.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

/// An object with these fields, and the version of its shape, as text.
pub(super) fn text(body: impl Serialize) -> Result<String, StartError> {
    serde_json::to_string_pretty(&Versioned { version: VERSION, body }).map_err(|error| {
        StartError::System { what: "cannot write JSON".to_owned(), source: error.into() }
    })
}
