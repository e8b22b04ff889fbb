//! `ownership=xattr` beside the tools whose format it is: each reads what the other has written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::mount::{free, is_mounted, temp_dir};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{
    self, Mount, chown, get_xattr, mkdir, mode, owner, put_dir, put_file, set_mode, set_xattr,
};

crate::common::tests!(
    fuse_overlayfs_reads_it,
    fuse_overlayfs_has_written_it,
    containers_storage_has_written_it,
);

const ATTRIBUTE: &str = "user.containers.override_stat";
const OPTIONS: &str = "map=b:0:0:60000,ownership=xattr,cache=none";

/// A mount of fuse-overlayfs.
struct Overlay(PathBuf);

impl Overlay {
    fn new(point: PathBuf, options: &str) -> Self {
        needs_program("fuse-overlayfs");
        fs::create_dir(&point).unwrap();
        let done = Command::new("fuse-overlayfs").args(["-o", options]).arg(&point).output();
        let done = done.unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && is_mounted(&point), "{said}");
        Self(point)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        free(&self.0);
    }
}

/// Name, owner and mode of what a tree has, without links and nodes, which that version of
/// fuse-overlayfs does not know in attributes.
fn owners(root: &Path) -> Vec<(PathBuf, u32, u32, u32)> {
    let mut found = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let seen = fs::symlink_metadata(&path).unwrap();
        if seen.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let name = path.strip_prefix(root).unwrap().to_owned();
        found.push((name, seen.uid(), seen.gid(), seen.mode()));
    }
    found.sort();
    found
}

fn fuse_overlayfs_reads_it() {
    needs_real_root("what fuse-overlayfs shows in a user namespace depends on its version");
    needs_idshift();
    let dir = temp_dir();
    let lower = dir.path().join("lower");
    put_dir(&lower, 0o755, 0, 0);
    let mount = Mount::of(dir, lower, OPTIONS);
    for (name, uid, gid, bits) in
        [("a", 0, 42, 0o640), ("b", 1000, 1000, 0o4755), ("c", 33, 7, 0o2711)]
    {
        fs::write(mount.up(name), name).unwrap();
        mkdir(&mount.up(format!("dir-{name}")), 0o700).unwrap();
        for path in [mount.up(name), mount.up(format!("dir-{name}"))] {
            chown(&path, Some(uid), Some(gid)).unwrap();
            set_mode(&path, bits).unwrap();
        }
    }
    let options = format!("lowerdir={}", mount.low("").display());
    let overlay = Overlay::new(mount.beside().join("overlay"), &options);
    assert_eq!(owners(&overlay.0), owners(&mount.up("")));
    assert_eq!(fs::read(overlay.0.join("b")).unwrap(), b"b");
}

fn fuse_overlayfs_has_written_it() {
    needs_idshift();
    needs_real_root("what fuse-overlayfs writes in a user namespace depends on its version");
    let dir = temp_dir();
    let [lower, work, base] = ["lower", "work", "base"].map(|name| {
        let path = dir.path().join(name);
        put_dir(&path, 0o755, 0, 0);
        path
    });
    // A tree that it takes for one with attributes of the container tools.
    set_xattr(&lower, ATTRIBUTE, b"0:0:0755:dir").unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},xattr_permissions=2",
        base.display(),
        lower.display(),
        work.display()
    );
    let overlay = Overlay::new(dir.path().join("overlay"), &options);
    fs::write(overlay.0.join("file"), "from there").unwrap();
    fs::create_dir(overlay.0.join("dir")).unwrap();
    for (name, uid, gid, bits) in [("file", 7, 8, 0o4750), ("dir", 9, 10, 0o1777)] {
        chown(&overlay.0.join(name), Some(uid), Some(gid)).unwrap();
        set_mode(&overlay.0.join(name), bits).unwrap();
    }
    let theirs = owners(&overlay.0);
    drop(overlay);
    if get_xattr(&lower.join("file"), ATTRIBUTE).is_err() {
        common::skip("needs a fuse-overlayfs that writes user.containers.override_stat");
    }
    let mount = Mount::of(dir, lower, OPTIONS);
    assert_eq!(owners(&mount.up("")), theirs);
}

/// Builds an image of one layer, as `docker save` writes it, and has buildah store it with
/// `force_mask`, by which the library below keeps owners in attributes.
const STORE: &str = "\
    cd \"$0\"; mkdir image; tar --numeric-owner -C tree -cf image/layer.tar .\n\
    sum=$(sha256sum image/layer.tar | cut -d' ' -f1)\n\
    printf '{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},\"rootfs\":\
        {\"type\":\"layers\",\"diff_ids\":[\"sha256:%s\"]}}' $sum > image/config.json\n\
    printf '[{\"Config\":\"config.json\",\"RepoTags\":[\"localhost/t:1\"],\
        \"Layers\":[\"layer.tar\"]}]' > image/manifest.json\n\
    tar -C image -cf image.tar manifest.json config.json layer.tar\n\
    printf '{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}' > policy.json\n\
    printf '[storage]\\ndriver=\"overlay\"\\nrunroot=\"%s/run\"\\ngraphroot=\"%s/graph\"\\n\
[storage.options.overlay]\\nmount_program=\"/usr/bin/fuse-overlayfs\"\\n\
force_mask=\"private\"\\n' \"$0\" \"$0\" > storage.conf\n\
    export CONTAINERS_STORAGE_CONF=\"$0/storage.conf\"\n\
    exec unshare --mount buildah pull -q --signature-policy policy.json \
docker-archive:image.tar\n";

fn containers_storage_has_written_it() {
    needs_idshift();
    needs_real_root("storing an image of many owners");
    needs_program("buildah");
    needs_program("fuse-overlayfs");
    let dir = temp_dir();
    let tree = dir.path().join("tree");
    put_dir(&tree, 0o755, 0, 0);
    put_dir(&tree.join("srv"), 0o750, 33, 33);
    put_file(&tree.join("shadow"), b"secret", 0o640, 0, 42);
    put_file(&tree.join("srv/page"), b"page", 0o604, 33, 1000);
    let mut store = Command::new("sh");
    let done = store.args(["-e", "-c", STORE]).arg(dir.path()).output().unwrap();
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        common::skip(format!("needs a buildah that works here: {}", said.trim()));
    }
    let layers = fs::read_dir(dir.path().join("graph/overlay")).unwrap();
    let mut layers = layers.map(|entry| entry.unwrap().path().join("diff"));
    let layer = layers.find(|path| path.join("shadow").exists()).unwrap();
    assert_eq!(owner(&layer.join("shadow")), (0, 0), "it keeps owners in attributes");
    let mount = Mount::of(dir, layer, OPTIONS);
    for (path, ids, bits) in
        [("shadow", (0, 42), 0o640), ("srv", (33, 33), 0o750), ("srv/page", (33, 1000), 0o604)]
    {
        assert_eq!((owner(&mount.up(path)), mode(&mount.up(path))), (ids, bits), "{path}");
    }
    assert_eq!(fs::read(mount.up("srv/page")).unwrap(), b"page");
}
