//! `ownership=xattr` beside the tools whose format it is: each reads what the other has written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::common::debian::run;
use crate::common::mount::{free, is_mounted, temp_dir};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{
    self, Caller, Mount, chown, get_xattr, mkdir, mode, owner, put_dir, put_file, raw, set_mode,
    set_xattr,
};

crate::common::tests!(
    fuse_overlayfs_reads_it,
    fuse_overlayfs_has_written_it,
    containers_storage_has_written_it,
    bindfs_side_by_side,
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

/// What people use bindfs for, and what says the same here.
struct Recipe {
    name: &'static str,
    /// Stored owner of the directory.
    lower: (u32, u32),
    bindfs: &'static str,
    idshift: &'static str,
    /// Who makes a file, as user and group.
    maker: (u32, u32),
    shown: (u32, u32),
    stored: (u32, u32),
}

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "a developer's web site, as the web server's",
        lower: (1000, 1000),
        bindfs: "force-user=33,force-group=33,create-for-user=1000,create-for-group=1000,chown-ignore,chgrp-ignore",
        idshift: "owned-by=33:33",
        maker: (33, 33),
        shown: (33, 33),
        stored: (1000, 1000),
    },
    Recipe {
        name: "a team's share",
        lower: (1000, 50),
        bindfs: "force-user=1000,force-group=50,create-for-user=1000,create-for-group=50,chown-ignore,chgrp-ignore",
        idshift: "owned-by=1000:50",
        maker: (7, 50),
        shown: (1000, 50),
        stored: (1000, 50),
    },
    Recipe {
        name: "Vagrant: a Mac's files in the guest",
        lower: (501, 20),
        bindfs: "force-user=1000,force-group=1000,create-for-user=501,create-for-group=20,chown-ignore,chgrp-ignore",
        idshift: "owned-by=1000:1000",
        maker: (0, 0),
        shown: (1000, 1000),
        stored: (501, 20),
    },
    Recipe {
        name: "uploads by FTP",
        lower: (1000, 1000),
        bindfs: "create-for-user=1000,create-for-group=1000,chown-ignore,chgrp-ignore",
        idshift: "map=b:1000:1000:1,unmapped=squash:1000:1000,creators=squash,chown=ignore",
        maker: (14, 14),
        shown: (1000, 1000),
        stored: (1000, 1000),
    },
    Recipe {
        name: "a NAS's media in an unprivileged container",
        lower: (1000, 1000),
        bindfs: "force-user=101000,force-group=101000,create-for-user=1000,create-for-group=1000,chown-ignore,chgrp-ignore",
        idshift: "owned-by=101000:101000",
        maker: (101_000, 101_000),
        shown: (101_000, 101_000),
        stored: (1000, 1000),
    },
];

/// Both show, store and refuse the same, but for set-user-ID programs.
fn bindfs_side_by_side() {
    needs_program("bindfs");
    needs_real_root("callers of many ids");
    needs_idshift();
    for recipe in RECIPES {
        let place = temp_dir();
        for tool in ["bindfs", "idshift"] {
            let (lower, point) = (place.path().join(tool), place.path().join(format!("{tool}-up")));
            put_dir(&lower, 0o777, recipe.lower.0, recipe.lower.1);
            put_dir(&lower.join("closed"), 0o700, recipe.lower.0, recipe.lower.1);
            put_file(&lower.join("there"), b"x", 0o644, recipe.lower.0, recipe.lower.1);
            mkdir(&point, 0o755).unwrap();
            let mut command = if tool == "bindfs" {
                let mut command = Command::new("bindfs");
                command.args(["-o", recipe.bindfs]);
                command
            } else {
                let mut command = Command::new(&crate::common::machine().binary);
                command.args(["mount", "-o", recipe.idshift]);
                command
            };
            run(command.arg(&lower).arg(&point));
            let mounted = Overlay(point);
            let (up, name) = (&mounted.0, recipe.name);
            assert_eq!(owner(&up.join("there")), recipe.shown, "{tool}: {name}");
            Caller::user(recipe.maker.0)
                .gid(recipe.maker.1)
                .run(|| fs::write(up.join("new"), "y"))
                .unwrap_or_else(|error| panic!("{tool}: {name}: {error}"));
            assert_eq!(owner(&lower.join("new")), recipe.stored, "{tool}: {name}");
            assert_eq!(owner(&up.join("new")), recipe.shown, "{tool}: {name}");
            for id in [0, 33, 12_345] {
                chown(&up.join("there"), Some(id), Some(id)).unwrap();
                assert_eq!(owner(&lower.join("there")), recipe.lower, "{tool}: {name}: {id}");
            }
            let stranger = Caller::user(4242);
            stranger.run(|| {
                assert!(fs::write(up.join("there"), "z").is_err(), "{tool}: {name}");
                assert!(fs::write(up.join("closed/new"), "z").is_err(), "{tool}: {name}");
            });
            let program = set_mode(&up.join("there"), 0o4755);
            assert_eq!(program.is_ok(), tool == "bindfs", "{tool}: {name}");
            // A file of root's in the tree is the user's to write, and stays root's.
            put_file(&lower.join("roots"), b"x", 0o644, 0, 0);
            let keeps = tool == "bindfs" && !recipe.bindfs.contains("force-user");
            let shown = if keeps { (0, 0) } else { recipe.shown };
            assert_eq!(owner(&up.join("roots")), shown, "{tool}: {name}");
            let as_shown = Caller::user(recipe.shown.0).gid(recipe.shown.1);
            let written = as_shown.run(|| fs::write(up.join("roots"), "y"));
            assert_eq!(written.is_ok(), shown == recipe.shown, "{tool}: {name}");
            assert_eq!(owner(&lower.join("roots")), (0, 0), "{tool}: {name}");
            let device = raw::mknod(&up.join("null"), 0o020_666, rustix::fs::makedev(1, 3));
            assert_eq!(device.is_ok(), tool == "bindfs", "{tool}: {name}");
            if tool == "idshift" {
                let wrong = wrong_for_a_moment(recipe, &lower, up, Duration::from_millis(300));
                assert!(!wrong, "{tool}: {name}");
            } else if recipe.stored.0 != 0 && recipe.name == RECIPES[0].name {
                assert!(wrong_for_a_moment(recipe, &lower, up, Duration::from_secs(20)));
            }
        }
    }
}

/// Whether files that are made through the mount belong to somebody else for a moment. Looked for
/// until it is seen, or for this long.
fn wrong_for_a_moment(recipe: &Recipe, lower: &Path, up: &Path, longest: Duration) -> bool {
    let done = AtomicBool::new(false);
    let seen = AtomicBool::new(false);
    let number = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let next = lower.join(format!("made-{}", number.load(Ordering::Relaxed)));
                let found = fs::symlink_metadata(next);
                if found.is_ok_and(|found| (found.uid(), found.gid()) != recipe.stored) {
                    seen.store(true, Ordering::Relaxed);
                }
            }
        });
        let start = Instant::now();
        let maker = Caller::user(recipe.maker.0).gid(recipe.maker.1);
        maker.run(|| {
            while start.elapsed() < longest && !seen.load(Ordering::Relaxed) {
                let name = format!("made-{}", number.load(Ordering::Relaxed));
                fs::write(up.join(name), "").unwrap();
                number.fetch_add(1, Ordering::Relaxed);
            }
        });
        done.store(true, Ordering::Relaxed);
    });
    assert!(number.load(Ordering::Relaxed) > 0);
    seen.load(Ordering::Relaxed)
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
