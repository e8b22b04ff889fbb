use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::*;
use crate::config::MountFlags;
use crate::mount::options::Origin;

fn extents<K: Kind>(raw: &[(u32, u32, u32)]) -> IdMap<K> {
    let list = raw.iter().map(|&(lower, upper, count)| Extent::from_raw(lower, upper, count));
    IdMap::new(list.collect::<Result<_, _>>().unwrap()).unwrap()
}

fn chosen(config: &MountConfig) -> Result<Choice, StartError> {
    choose(config, &Dir::open(&config.lower).unwrap())
}

fn config(lower: PathBuf, mountpoint: PathBuf) -> MountConfig {
    let maps = Maps { uids: extents(&[(0, 100_000, 10)]), gids: extents(&[(0, 200_000, 10)]) };
    let options = Options { backend: Backend::Auto, allow_other: true, ..Options::default() };
    MountConfig::new(lower, mountpoint, maps, options)
}

fn parse(text: &str) -> Options {
    Options::parse(&[text], Origin::Command, MountFlags::default()).unwrap()
}

/// A mount that ends with the test, whatever happens.
struct Mounted(PathBuf);
impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn shows_lower_ids_as_upper_ids_and_stores_them_back() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    std::fs::create_dir(&lower).unwrap();
    std::fs::create_dir(&upper).unwrap();
    std::fs::set_permissions(&lower, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(lower.join("file"), "text").unwrap();
    std::os::unix::fs::chown(lower.join("file"), Some(3), Some(4)).unwrap();
    let mut config = config(lower.clone(), upper.clone());
    config.options.flags.nosuid = true;
    supported(&lower).unwrap();
    assert_eq!(chosen(&config).unwrap(), Choice::Kernel { moot: vec![] });
    mount(&config).unwrap();
    let mounted = Mounted(upper.clone());
    let seen = std::fs::metadata(upper.join("file")).unwrap();
    assert_eq!((seen.uid(), seen.gid()), (100_003, 200_004));
    std::os::unix::fs::chown(upper.join("file"), Some(100_007), Some(200_008)).unwrap();
    let stored = std::fs::metadata(lower.join("file")).unwrap();
    assert_eq!((stored.uid(), stored.gid()), (7, 8));
    let error = std::os::unix::fs::chown(upper.join("file"), Some(5), None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOVERFLOW));
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(upper.to_str().unwrap())).unwrap();
    assert!(line.contains("nosuid"), "{line}");
    drop(mounted);
}

#[test]
fn says_why_a_file_system_cannot_be_idmapped() {
    if !is_root() {
        return;
    }
    let why = supported(Path::new("/proc")).unwrap_err();
    assert!(why.contains("(proc)") && why.contains("no idmapped mounts"), "{why}");
    let choice = chosen(&config("/proc".into(), "/nowhere".into())).unwrap();
    assert!(
        choice.to_string().starts_with("backend: fuse, not the kernel's: the file system (proc)")
    );
    let error = mount(&config("/proc".into(), std::env::temp_dir())).unwrap_err();
    assert_eq!(error.exit_code(), 32);
}

#[test]
fn options_without_a_counterpart_are_named() {
    let mut config = config("/".into(), "/nowhere".into());
    config.options.flags.sync = true;
    let choice = chosen(&config).unwrap();
    assert_eq!(
        choice.to_string(),
        "backend: fuse, not the kernel's: sync has no counterpart there"
    );
    config.options.backend = Backend::Kernel;
    let error = chosen(&config).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("cannot do sync;"), "{error}");
    config.options.flags.sync = false;
    for (text, part) in [
        ("fsname=another", "cannot do fsname=another;"),
        ("restart=on,restart=off,threads=3", "no server that threads=3 could be about"),
    ] {
        config.options = Options { allow_other: true, backend: Backend::Kernel, ..parse(text) };
        let error = chosen(&config).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    config.options.backend = Backend::Fuse;
    assert_eq!(chosen(&config).unwrap(), Choice::Fuse(None));
}

#[test]
fn the_kernels_limit_on_a_map_is_named() {
    let many: Vec<_> = (0..341).map(|n| (n * 2, n * 2, 1)).collect();
    let why = map_lines::<Uid>(&extents(&many)).err().unwrap().to_string();
    assert!(why.contains("the uid map has 341 extents") && why.contains("at most 340"), "{why}");
    let long: Vec<_> =
        (0..300).map(|n| (1_000_000_000 + n * 2, 2_000_000_000 + n * 2, 1)).collect();
    let why = map_lines::<Gid>(&extents(&long)).err().unwrap().to_string();
    assert!(why.contains("the gid map has 300 extents in 7200 bytes"), "{why}");
    let fits: Vec<_> = (0..340).map(|n| (n * 2, n * 2, 1)).collect();
    assert!(map_lines::<Uid>(&extents(&fits)).is_ok());
}

#[test]
fn access_time_options_clear_the_field_that_they_set() {
    let mut both = Options::default();
    (both.flags.noatime, both.flags.strictatime) = (true, true);
    assert_eq!(attributes(&both), (MountAttrs::NOATIME, MountAttrs::ATIME));
    assert_eq!(attributes(&parse("relatime")), (MountAttrs::empty(), MountAttrs::ATIME));
    assert_eq!(attributes(&parse("rw")), (MountAttrs::empty(), MountAttrs::empty()));
}
