//! What a container runtime has to work out about ids, with the library: `cargo run --example
//! two_containers`. It does no I/O and needs no rights.
//!
//! A user has a namespace in which it is root and has 65536 further ids. In it run two containers,
//! side by side, of one image whose files are stored as 0, 1, 2, …. For each the program says which
//! lines the kernel takes, which ids the host sees, and with which map idshift shows it the image.

use idmap::algebra::{compose, intersect, invert, split};
use idmap::id::{LowerUid, Uid};
use idmap::{Extent, IdMap, MapError};

/// Ids that one container has.
const SIZE: u32 = 1000;

type UidMap = IdMap<Uid>;

fn map(extents: &[(u32, u32, u32)]) -> Result<UidMap, MapError> {
    let extents =
        extents.iter().map(|&(lower, upper, count)| Extent::from_raw(lower, upper, count));
    UidMap::new(extents.collect::<Result<_, _>>()?)
}

/// The user's namespace as `/proc/PID/uid_map` shows it: it is 1000 on the host, and /etc/subuid
/// grants it 100000 to 165535.
fn namespace() -> Result<UidMap, MapError> {
    map(&[(0, 1000, 1), (1, 100_000, 65_536)])
}

/// What a container is to have: its ids 0 to 999 are the namespace's from `first` on.
fn container(first: u32) -> Result<UidMap, MapError> {
    map(&[(0, first, SIZE)])
}

fn tell(name: &str, first: u32) -> Result<UidMap, MapError> {
    let namespace = namespace()?;
    let wanted = container(first)?;
    // The kernel takes a line only if all its ids lie in one line of the parent's map.
    let split = split(&wanted, &namespace)?;
    let on_host = compose(&split.written(), &namespace);
    println!("container {name}");
    println!("  lines for its uid_map{}:", if split.is_split() { " (cut)" } else { "" });
    for extent in split.written().extents() {
        println!("    {} {} {}", extent.lower_first(), extent.upper_first(), extent.count());
    }
    let spec = |extent: &Extent<Uid>| {
        format!("u:{}:{}:{}", extent.lower_first(), extent.upper_first(), extent.count())
    };
    let specs: Vec<String> = on_host.extents().iter().map(spec).collect();
    println!("  the image is mounted for it with --map '{}', and the same for g:", specs.join(" "));
    Ok(on_host)
}

fn main() -> Result<(), MapError> {
    let one = tell("one", 0)?;
    let two = tell("two", 10_000)?;
    // Turned around, the maps go from ids of the host to those of the containers, and to the
    // namespace: an id in both containers would be in both of these.
    let hosts = |map: &UidMap| compose(&invert(map), map);
    let common = intersect(&hosts(&one), &hosts(&two));
    println!(
        "ids of the host that both have: {}",
        if common.is_empty() { "none" } else { "some!" }
    );
    if let Some(shown) = one.up(LowerUid::ROOT) {
        println!("a file of the image's root is {shown}'s for container one");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn the_first_container_is_cut_at_the_users_own_id() {
        let split = split(&container(0).unwrap(), &namespace().unwrap()).unwrap();
        assert_eq!(split.written(), map(&[(0, 0, 1), (1, 1, SIZE - 1)]).unwrap());
        let on_host = compose(&split.written(), &namespace().unwrap());
        assert_eq!(on_host, map(&[(0, 1000, 1), (1, 100_000, SIZE - 1)]).unwrap());
    }

    #[test]
    fn containers_that_share_ids_are_found() {
        let hosts = |map: &UidMap| compose(&invert(map), map);
        let (one, near) = (container(0).unwrap(), container(SIZE - 1).unwrap());
        assert!(!intersect(&hosts(&one), &hosts(&near)).is_empty());
        let far = container(SIZE).unwrap();
        assert!(intersect(&hosts(&one), &hosts(&far)).is_empty());
        main().unwrap();
    }
}
