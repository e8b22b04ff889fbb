//! Which kernel this is.

/// Its version's first two numbers, by which what it can do is told.
pub fn version() -> (u32, u32) {
    let (major, minor, _) = release();
    (major, minor)
}

/// All three: what is mended, or broken, in a stable kernel shows in the last one.
pub fn release() -> (u32, u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut parts = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}
