//! Set-user-ID programs (`suid=`): what becomes of S_ISUID, S_ISGID and file capabilities that are
//! set through the mount.

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
