//! Id maps for C and Go. What each function does, and what it asks of its caller, stands in
//! `include/idmap.h` and idmap(3); everything here only translates between C and [`idmap`].
//!
//! Handles are boxes whose contents never change, so that one may be used by several threads.

// The whole package is a C interface.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt::Display;
use std::ptr;

use idmap::error::RawExtent;
use idmap::id::{Gid, Id, Kind, Uid};
use idmap::map::{Extent, IdMap, Maps};
use idmap::parse::Spec;
use idmap::sources::parse_proc_map;
use idmap::{MapError, Split, algebra};

const EINVAL: c_int = 22;
const EOVERFLOW: c_int = 75;
const ENOTSUP: c_int = 95;

const UID: c_int = 0;
const GID: c_int = 1;

/// What C calls `idmap`.
pub struct Handle(Maps);

/// What C calls `idmap_split`.
pub struct SplitHandle {
    uids: Split<Uid>,
    gids: Split<Gid>,
}

/// `struct idmap_extent`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CExtent {
    lower: u32,
    upper: u32,
    count: u32,
}

/// Why a call fails: the errno, and the words for `char **error`.
struct Failure {
    errno: c_int,
    words: String,
}

impl From<MapError> for Failure {
    fn from(error: MapError) -> Self {
        Self::invalid(error)
    }
}

impl Failure {
    fn invalid(words: impl Display) -> Self {
        Self { errno: EINVAL, words: words.to_string() }
    }

    fn null() -> Self {
        Self::invalid("a pointer that is needed is NULL")
    }
}

/// Sets `*out` to what is made, or to NULL, and `*error` to NULL, or to why.
///
/// # Safety
///
/// `out` and `error` are NULL or may be written to.
unsafe fn hand_out<T>(
    out: *mut *mut T,
    error: *mut *mut c_char,
    make: impl FnOnce() -> Result<*mut T, Failure>,
) -> c_int {
    // SAFETY: as promised.
    let (out, error) = unsafe { (out.as_mut(), error.as_mut()) };
    let result = if out.is_some() { make() } else { Err(Failure::null()) };
    let (value, failure) = match result {
        Ok(value) => (value, None),
        Err(failure) => (ptr::null_mut(), Some(failure)),
    };
    if let Some(out) = out {
        *out = value;
    }
    let errno = failure.as_ref().map_or(0, |failure| failure.errno);
    if let Some(error) = error {
        *error = failure.map_or(ptr::null_mut(), |failure| string(failure.words));
    }
    errno
}

/// A handle for C.
fn boxed<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// A string for C. What came from C holds no NUL, and nothing that is put around it does.
fn string(text: String) -> *mut c_char {
    CString::new(text).unwrap_or_default().into_raw()
}

/// # Safety
///
/// `text` is NULL or ends with a NUL, and stays as it is for `'a`.
unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::null());
    }
    // SAFETY: as promised.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::invalid("the text is not valid UTF-8"))
}

/// # Safety
///
/// `maps` is NULL or a handle that lives for `'a`.
unsafe fn maps<'a>(maps: *const Handle) -> Result<&'a Maps, Failure> {
    // SAFETY: as promised.
    unsafe { maps.as_ref() }.map(|handle| &handle.0).ok_or_else(Failure::null)
}

/// A map of each kind out of two others.
fn both(
    one: &Maps,
    other: &Maps,
    uids: impl FnOnce(&IdMap<Uid>, &IdMap<Uid>) -> IdMap<Uid>,
    gids: impl FnOnce(&IdMap<Gid>, &IdMap<Gid>) -> IdMap<Gid>,
) -> Handle {
    Handle(Maps { uids: uids(&one.uids, &other.uids), gids: gids(&one.gids, &other.gids) })
}

fn map_of<K: Kind>(extents: &[CExtent]) -> Result<IdMap<K>, MapError> {
    let checked = extents.iter().map(|e| Extent::from_raw(e.lower, e.upper, e.count));
    IdMap::new(checked.collect::<Result<_, _>>()?)
}

/// # Safety
///
/// `extents` is NULL or `count` extents that stay as they are for `'a`.
unsafe fn extents<'a>(extents: *const CExtent, count: usize) -> Result<&'a [CExtent], Failure> {
    match (extents.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::null()),
        // SAFETY: as promised.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(extents, count) }),
    }
}

/// See `idmap.h`.
///
/// # Safety
///
/// As `idmap.h` says for all functions: pointers are NULL or valid, and handles come from here and have not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_parse(
    specs: *const c_char,
    map: *mut *mut Handle,
    error: *mut *mut c_char,
) -> c_int {
    let parse = || {
        // SAFETY: the caller's promise.
        let specs = Spec::parse_all(unsafe { text(specs) }?)?;
        for spec in &specs {
            if !matches!(spec, Spec::Extent { .. } | Spec::Offset { .. } | Spec::Identity) {
                let words =
                    format!("map spec '{spec}': this library looks up neither files nor names");
                return Err(Failure { errno: ENOTSUP, words });
            }
        }
        let texts: Vec<String> = specs.iter().map(ToString::to_string).collect();
        let nothing = |_: &std::path::Path| Err(std::io::ErrorKind::Unsupported.into());
        Ok(boxed(Handle(Maps::from_partial_specs(&texts, &nothing)?)))
    };
    // SAFETY: the caller's promise.
    unsafe { hand_out(map, error, parse) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_parse`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_parse_proc(
    uid_map: *const c_char,
    gid_map: *const c_char,
    map: *mut *mut Handle,
    error: *mut *mut c_char,
) -> c_int {
    let lines = |lines: *const c_char| -> Result<Vec<CExtent>, Failure> {
        if lines.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: the caller's promise.
        let lines = parse_proc_map(unsafe { text(lines) }?).map_err(Failure::invalid)?;
        let extent = |e: &RawExtent| CExtent { lower: e.lower, upper: e.upper, count: e.count };
        Ok(lines.iter().map(extent).collect())
    };
    let parse = || {
        let (uids, gids) = (lines(uid_map)?, lines(gid_map)?);
        Ok(boxed(Handle(Maps { uids: map_of(&uids)?, gids: map_of(&gids)? })))
    };
    // SAFETY: the caller's promise.
    unsafe { hand_out(map, error, parse) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_parse`]; the arrays are as long as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_new(
    uids: *const CExtent,
    uid_count: usize,
    gids: *const CExtent,
    gid_count: usize,
    map: *mut *mut Handle,
    error: *mut *mut c_char,
) -> c_int {
    let make = || {
        // SAFETY: the caller's promise.
        let (uids, gids) = unsafe { (extents(uids, uid_count)?, extents(gids, gid_count)?) };
        Ok(boxed(Handle(Maps { uids: map_of(uids)?, gids: map_of(gids)? })))
    };
    // SAFETY: the caller's promise.
    unsafe { hand_out(map, error, make) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// `map` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_free(map: *mut Handle) {
    if !map.is_null() {
        // SAFETY: as promised.
        drop(unsafe { Box::from_raw(map) });
    }
}

/// Writes what `translate` finds.
///
/// # Safety
///
/// As [`idmap_parse`].
unsafe fn translate(
    map: *const Handle,
    to: *mut u32,
    translate: impl FnOnce(&Maps) -> Result<Option<u32>, c_int>,
) -> c_int {
    // SAFETY: the caller's promise.
    let (Ok(map), Some(to)) = (unsafe { maps(map) }, unsafe { to.as_mut() }) else {
        return EINVAL;
    };
    *to = 0;
    match translate(map) {
        Ok(Some(id)) => {
            *to = id;
            0
        }
        Ok(None) => EOVERFLOW,
        Err(errno) => errno,
    }
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_parse`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_up(
    map: *const Handle,
    kind: c_int,
    lower: u32,
    upper: *mut u32,
) -> c_int {
    let up = |maps: &Maps| match kind {
        UID => Ok(Id::new(lower).and_then(|id| maps.up_uid(id)).map(Id::raw)),
        GID => Ok(Id::new(lower).and_then(|id| maps.up_gid(id)).map(Id::raw)),
        _ => Err(EINVAL),
    };
    // SAFETY: the caller's promise.
    unsafe { translate(map, upper, up) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_parse`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_down(
    map: *const Handle,
    kind: c_int,
    upper: u32,
    lower: *mut u32,
) -> c_int {
    let down = |maps: &Maps| match kind {
        UID => Ok(Id::new(upper).and_then(|id| maps.down_uid(id)).map(Id::raw)),
        GID => Ok(Id::new(upper).and_then(|id| maps.down_gid(id)).map(Id::raw)),
        _ => Err(EINVAL),
    };
    // SAFETY: the caller's promise.
    unsafe { translate(map, lower, down) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_parse`]; `to` has room for `capacity` extents.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_extents(
    map: *const Handle,
    kind: c_int,
    to: *mut CExtent,
    capacity: usize,
) -> usize {
    fn raw<K>(map: &IdMap<K>) -> Vec<RawExtent> {
        map.extents().iter().map(Extent::raw).collect()
    }
    // SAFETY: the caller's promise.
    let Ok(map) = (unsafe { maps(map) }) else { return 0 };
    let found = match kind {
        UID => raw(&map.uids),
        GID => raw(&map.gids),
        _ => return 0,
    };
    if !to.is_null() {
        for (at, &RawExtent { lower, upper, count }) in found.iter().take(capacity).enumerate() {
            // SAFETY: the caller has promised room for `capacity`; it need not be initialized.
            unsafe { to.add(at).write(CExtent { lower, upper, count }) };
        }
    }
    found.len()
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_parse`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_invert(map: *const Handle, result: *mut *mut Handle) -> c_int {
    let invert = || {
        // SAFETY: the caller's promise.
        let map = unsafe { maps(map) }?;
        Ok(boxed(Handle(Maps {
            uids: algebra::invert(&map.uids),
            gids: algebra::invert(&map.gids),
        })))
    };
    // SAFETY: the caller's promise.
    unsafe { hand_out(result, ptr::null_mut(), invert) }
}

macro_rules! out_of_two {
    ($name:ident, $operation:path) => {
        /// See `idmap.h`.
        ///
        /// # Safety
        ///
        /// As [`idmap_parse`].
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            one: *const Handle,
            other: *const Handle,
            result: *mut *mut Handle,
        ) -> c_int {
            let make = || {
                // SAFETY: the caller's promise.
                let (one, other) = unsafe { (maps(one)?, maps(other)?) };
                Ok(boxed(both(one, other, $operation, $operation)))
            };
            // SAFETY: the caller's promise.
            unsafe { hand_out(result, ptr::null_mut(), make) }
        }
    };
}

out_of_two!(idmap_compose, algebra::compose);
out_of_two!(idmap_intersect, algebra::intersect);
out_of_two!(idmap_subtract, algebra::subtract);

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_parse`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_split_new(
    wanted: *const Handle,
    parent: *const Handle,
    split: *mut *mut SplitHandle,
    error: *mut *mut c_char,
) -> c_int {
    let make = || {
        // SAFETY: the caller's promise.
        let (wanted, parent) = unsafe { (maps(wanted)?, maps(parent)?) };
        let uids = algebra::split(&wanted.uids, &parent.uids)?;
        let gids = algebra::split(&wanted.gids, &parent.gids)?;
        Ok(boxed(SplitHandle { uids, gids }))
    };
    // SAFETY: the caller's promise.
    unsafe { hand_out(split, error, make) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// `split` is NULL or a handle that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_split_is_split(split: *const SplitHandle) -> c_int {
    // SAFETY: as promised.
    let split = unsafe { split.as_ref() };
    split.is_some_and(|split| split.uids.is_split() || split.gids.is_split()).into()
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_split_is_split`], and `map` as in [`idmap_parse`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_split_written(
    split: *const SplitHandle,
    map: *mut *mut Handle,
) -> c_int {
    let make = || {
        // SAFETY: the caller's promise.
        let split = unsafe { split.as_ref() }.ok_or_else(Failure::null)?;
        Ok(boxed(Handle(Maps { uids: split.uids.written(), gids: split.gids.written() })))
    };
    // SAFETY: the caller's promise.
    unsafe { hand_out(map, ptr::null_mut(), make) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_split_is_split`], and `text` as in [`idmap_parse`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_split_text(
    split: *const SplitHandle,
    kind: c_int,
    text: *mut *mut c_char,
) -> c_int {
    let make = || {
        // SAFETY: the caller's promise.
        let split = unsafe { split.as_ref() }.ok_or_else(Failure::null)?;
        match kind {
            UID => Ok(string(split.uids.to_string())),
            GID => Ok(string(split.gids.to_string())),
            _ => Err(Failure::invalid("no such kind of id")),
        }
    };
    // SAFETY: the caller's promise.
    unsafe { hand_out(text, ptr::null_mut(), make) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// `split` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_split_free(split: *mut SplitHandle) {
    if !split.is_null() {
        // SAFETY: as promised.
        drop(unsafe { Box::from_raw(split) });
    }
}

/// See `idmap.h`.
///
/// # Safety
///
/// As [`idmap_parse`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_proc_text(
    map: *const Handle,
    kind: c_int,
    page_size: usize,
    text: *mut *mut c_char,
    error: *mut *mut c_char,
) -> c_int {
    let make = || {
        // SAFETY: the caller's promise.
        let map = unsafe { maps(map) }?;
        match kind {
            UID => Ok(string(algebra::proc_text(&map.uids, page_size)?)),
            GID => Ok(string(algebra::proc_text(&map.gids, page_size)?)),
            _ => Err(Failure::invalid("no such kind of id")),
        }
    };
    // SAFETY: the caller's promise.
    unsafe { hand_out(text, error, make) }
}

/// See `idmap.h`.
///
/// # Safety
///
/// `string` is NULL or comes from a function of this library, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn idmap_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: as promised.
        drop(unsafe { CString::from_raw(string) });
    }
}
