//! Owners in an attribute reply.

use crate::shift::id::{INVALID, Id, Upper};

/// An owner as the kernel expects it in a reply: an unmapped one is the invalid id.
///
/// The kernel then shows 65534 and refuses writes, deletes and changes of ownership, as on an
/// idmapped mount. It must never be the number 65534: a caller with that id would own the file.
///
/// ```
/// use idshift::shift::attr::shown;
/// use idshift::shift::id::UpperUid;
/// assert_eq!(shown(UpperUid::new(1000)), 1000);
/// assert_eq!(shown(None::<UpperUid>), u32::MAX);
/// ```
pub fn shown<K>(id: Option<Id<K, Upper>>) -> u32 {
    id.map_or(INVALID, Id::raw)
}
