//! The job that idshift is for: a Debian root file system, owned by 0… on disk, is shown with the
//! ids of a container, which installs software, adds users and writes files in it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::common::debian::{pristine, run};
use crate::common::mount::temp_dir;
use crate::common::runner::needs_program;
use crate::common::{self, Mount, kernel, machine, owner, put_dir};
use tempfile::TempDir;

crate::common::tests!(
    container_installs_and_adds_users,
    read_only_layer_for_two_namespaces,
    set_user_id_programs_in_the_shadow,
    unprivileged_server_gives_a_full_root_file_system,
);

const COUNT: u32 = 65_536;

/// A copy to work on, with what a container needs to reach the mirror.
fn copy() -> (TempDir, PathBuf) {
    let pristine = pristine();
    let dir = temp_dir();
    let lower = dir.path().join("lower");
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(pristine).arg(&lower));
    fs::copy("/etc/resolv.conf", lower.join("etc/resolv.conf")).ok();
    let settings = Command::new("apt-config").arg("dump").output().unwrap().stdout;
    let mut file = File::create(lower.join("etc/apt/apt.conf.d/99host")).unwrap();
    for line in String::from_utf8_lossy(&settings).lines() {
        // How the host reaches the mirror, and whether it trusts its clock.
        if line.starts_with("Acquire::http") || line.starts_with("Acquire::Check") {
            writeln!(file, "{line}").unwrap();
        }
    }
    (dir, lower)
}

/// A user namespace whose ids 0… are the host's `first`….
struct Namespace(Child);

impl Namespace {
    fn new(first: u32) -> Self {
        let map = format!("0 {first} {COUNT}\n");
        Self(kernel::user_namespace(&map, &map).0)
    }

    /// Runs a script as root of the namespace, with `root` as its root directory, /proc mounted
    /// and /dev bound inside.
    fn run(&self, root: &Path, script: &str) -> String {
        let root = root.display();
        let outer = format!(
            "set -e\n\
             mount -t proc proc {root}/proc\n\
             mount --rbind /dev {root}/dev\n\
             exec chroot {root} /bin/sh -e -c \"$0\""
        );
        self.enter(&["--mount", "--pid", "--fork"], &["-c", &outer, script])
    }

    /// Runs `sh` with these arguments as root of the namespace, in further namespaces of its own.
    fn enter(&self, unshare: &[&str], arguments: &[&str]) -> String {
        run(Command::new("nsenter")
            .arg(format!("--user=/proc/{}/ns/user", self.0.id()))
            .args(["--setuid", "0", "--setgid", "0", "--", "unshare"])
            .args(unshare)
            .args(["--", "sh"])
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .env("HOME", "/root"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// All users and groups that own something in the tree. An overlay's whiteouts belong to whoever
/// mounted it and are not counted.
fn owners(root: &Path) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.mode() & 0o170_000 == 0o020_000 && stat.rdev() == 0 {
            continue;
        }
        found.extend([stat.uid(), stat.gid()]);
        if stat.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// What dpkg finds changed in the files of its packages, seen from the host.
fn verify(root: &Path) -> String {
    run(Command::new("chroot").arg(root).args(["dpkg", "--verify"]).env("LC_ALL", "C"))
}

const JOB: &str = "\
    test \"$(id -u)\" = 0\n\
    test \"$(stat -c %u:%g /etc/shadow)\" = 0:42\n\
    apt-get update -qq\n\
    apt-get install -qq -y --no-install-recommends hello >/dev/null\n\
    hello\n\
    useradd --create-home --shell /bin/sh tester\n\
    su tester -c 'umask 027; cd; echo mine > file; mkdir -p a/b; ln -s file link; id -un'\n\
    su tester -c 'cd; cp file a/b/copy; chmod 4750 a/b/copy; mv a/b/copy a/renamed; cat link'\n\
    su tester -c 'passwd --status tester'\n\
    if su tester -c 'cat /etc/shadow' 2>/dev/null; then exit 9; fi\n\
    if su tester -c 'touch /etc/not-mine' 2>/dev/null; then exit 9; fi\n\
    chown -R tester:users /home/tester/a\n\
    chown 33:33 /srv\n\
    dpkg --verify\n\
    apt-get remove -qq -y hello >/dev/null\n\
    apt-get install -qq -y --no-install-recommends hello >/dev/null\n";

fn container_installs_and_adds_users() {
    let (dir, lower) = copy();
    let before = owners(&lower);
    assert_eq!(verify(&lower), "", "clean before");
    let mount = Mount::of(dir, lower, "map=b:0:100000:65536");
    assert_eq!(owner(&mount.up("etc/shadow")), (100_000, 100_042));
    let said = Namespace::new(100_000).run(&mount.up(""), JOB);
    assert!(said.contains("Hello, world!"), "{said}");
    assert!(said.contains("tester") && said.contains("mine"), "{said}");
    // The lower tree is as if all this had been done by a root whose number is 0.
    let after = owners(&mount.low(""));
    assert!(!after.contains(&65_534), "{after:?}");
    assert!(after.iter().all(|id| *id < 100_000), "{after:?}");
    let new: Vec<_> = after.difference(&before).copied().collect();
    assert_eq!(new, [4, 33, 100, 1000], "apt's logs are adm's; www-data, users, the new user");
    for name in ["file", "link", "a/b"] {
        let expected = if name == "a/b" { (1000, 100) } else { (1000, 1000) };
        assert_eq!(owner(&mount.low("home/tester").join(name)), expected, "{name}");
    }
    assert_eq!(common::mode(&mount.low("home/tester/file")), 0o640);
    assert_eq!(owner(&mount.low("usr/bin/hello")), (0, 0));
    assert_eq!(owner(&mount.low("etc/shadow")), (0, 42));
    assert_eq!(owner(&mount.low("srv")), (33, 33));
    assert_eq!(owner(&mount.up("usr/bin/hello")), (100_000, 100_000));
    assert_eq!(verify(&mount.low("")), "", "clean afterwards");
}

const LAYER_JOB: &str = "\
    test \"$(stat -c %u:%g /etc/shadow)\" = 0:42\n\
    dpkg --verify\n\
    useradd --create-home --shell /bin/sh tester\n\
    su tester -c 'echo mine > ~/file; id -u'\n\
    echo changed >> /etc/motd\n\
    rm /etc/debian_version\n\
    mv /opt /opt-renamed\n\
    chmod 711 /srv\n\
    if su tester -c 'echo x >> /etc/passwd' 2>/dev/null; then exit 9; fi\n";

/// The same tree, shown twice with different maps, is the lower layer of two containers.
fn read_only_layer_for_two_namespaces() {
    let (dir, lower) = copy();
    fs::create_dir_all(lower.join("opt")).unwrap();
    let motd = fs::read(lower.join("etc/motd")).unwrap();
    let containers: Vec<Container> =
        [100_000, 300_000].into_iter().map(|first| Container::new(first, lower.clone())).collect();
    std::thread::scope(|scope| {
        for container in &containers {
            scope.spawn(|| {
                let namespace = Namespace::new(container.first);
                let said = namespace.run(&container.merged, LAYER_JOB);
                assert!(said.contains("1000"), "{said}");
            });
        }
    });
    for container in &containers {
        let Container { first, layer, merged, .. } = container;
        let ids = owners(layer);
        let range = *first..first + COUNT;
        assert!(ids.iter().all(|id| range.contains(id)), "{first}: {ids:?}");
        assert_eq!(owner(&layer.join("home/tester/file")), (first + 1000, first + 1000));
        assert_eq!(owner(&layer.join("etc/shadow")), (*first, first + 42));
        assert_eq!(owner(&merged.join("usr/bin/dpkg")), (*first, *first));
        assert!(!merged.join("etc/debian_version").exists());
        let changed = fs::read(merged.join("etc/motd")).unwrap();
        assert!(changed.starts_with(&motd) && changed.ends_with(b"changed\n"));
    }
    drop(containers);
    assert_eq!(verify(&lower), "", "the layer below is untouched");
    assert!(!lower.join("home/tester").exists());
    assert!(owners(&lower).iter().all(|id| *id < COUNT));
    drop(dir);
}

/// An overlay of the kernel whose lower layer is a shifted, read-only mount.
struct Container {
    first: u32,
    layer: PathBuf,
    merged: PathBuf,
    _below: Mount,
}

impl Container {
    fn new(first: u32, lower: PathBuf) -> Self {
        let below = Mount::of(temp_dir(), lower, &format!("map=b:0:{first}:{COUNT},ro"));
        let [layer, work, merged] = ["layer", "work", "merged"].map(|name| {
            let path = below.beside().join(name);
            put_dir(&path, 0o755, first, first);
            path
        });
        run(Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o"])
            .arg(format!(
                "lowerdir={},upperdir={},workdir={}",
                below.up("").display(),
                layer.display(),
                work.display()
            ))
            .arg(&merged));
        assert!(machine().real_root);
        Self { first, layer, merged, _below: below }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        common::mount::free(&self.merged);
    }
}

const SHADOW_JOB: &str = "\
    apt-get update -qq\n\
    apt-get install -qq -y --no-install-recommends sudo libcap2-bin >/dev/null\n\
    test \"$(stat -c %a /usr/bin/sudo)\" = 4755\n\
    useradd --create-home --shell /bin/sh tester\n\
    echo tester:Before-77 | chpasswd\n\
    echo root:Secret-88 | chpasswd\n\
    echo 'tester ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/tester\n\
    before=$(getent shadow tester)\n\
    su tester -c 'printf \"Before-77\\nAfter-99-x\\nAfter-99-x\\n\" | passwd' 2>&1\n\
    test \"$before\" != \"$(getent shadow tester)\"\n\
    test \"$(su tester -c 'sudo id -u')\" = 0\n\
    test \"$(su tester -c 'echo Secret-88 | su -c \"id -u\"' 2>/dev/null)\" = 0\n\
    cp /usr/bin/grep /usr/bin/like-ping\n\
    setcap cap_net_raw+ep /usr/bin/like-ping\n\
    getcap /usr/bin/like-ping\n\
    su tester -c 'like-ping CapEff /proc/self/status'\n\
    tar cf /root/all.tar --xattrs --xattrs-include='*' -C / usr/bin/su usr/bin/like-ping\n\
    mkdir /root/out\n\
    tar xpf /root/all.tar --xattrs --xattrs-include='*' -C /root/out\n\
    test \"$(stat -c %a /root/out/usr/bin/su)\" = 4755\n\
    getcap /root/out/usr/bin/like-ping\n\
    apt-get install -qq -y --reinstall --no-install-recommends mount >/dev/null\n\
    test \"$(stat -c %a /usr/bin/mount)\" = 4755\n\
    dpkg --verify\n";

/// Every regular file with set-ID bits or capabilities.
fn privileged(root: &Path) -> BTreeSet<(PathBuf, u32, bool)> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if stat.is_file() {
            let capable = common::get_xattr(&path, "security.capability").is_ok();
            let bits = stat.mode() & 0o6000;
            if bits != 0 || capable {
                found.insert((path.strip_prefix(root).unwrap().into(), bits, capable));
            }
        }
    }
    found
}

/// With `suid=shadow` the programs of a container are set-user-ID inside it and nowhere else.
fn set_user_id_programs_in_the_shadow() {
    let (dir, lower) = copy();
    let at_first = privileged(&lower);
    assert!(at_first.iter().any(|(path, ..)| path.ends_with("su")), "{at_first:?}");
    let moved = common::program::idshift(&[&"shadow", &"import", &lower]);
    assert_eq!(moved.code, 0, "{}", moved.err);
    assert_eq!(privileged(&lower), BTreeSet::new());
    let mount = Mount::of(dir, lower, "map=b:0:100000:65536,suid=shadow");
    assert_eq!(privileged(&mount.up("")), at_first, "shown as they were");
    let said = Namespace::new(100_000).run(&mount.up(""), SHADOW_JOB);
    let capable = said.lines().filter(|line| line.contains("like-ping cap_net_raw=ep")).count();
    assert_eq!(capable, 2, "{said}");
    assert!(said.contains("CapEff:\t0000000000002000"), "{said}");
    assert_eq!(privileged(&mount.low("")), BTreeSet::new(), "nothing of it below");
    let (inside, lower) = (privileged(&mount.up("")), mount.low(""));
    for path in ["usr/bin/sudo", "usr/bin/mount", "root/out/usr/bin/su"] {
        assert!(inside.contains(&(path.into(), 0o4000, false)), "{path}: {inside:?}");
    }
    let moved = common::program::idshift(&[&"shadow", &"export", &lower]);
    assert_eq!(moved.code, 0, "{}", moved.err);
    assert_eq!(privileged(&lower), inside, "made real again");
    assert_eq!(verify(&lower), "", "clean afterwards");
}

/// What a root file system may have and that of Debian has not.
const MANY_OWNERS: &str = "\
    mkdir -p many/deep; cd many\n\
    for id in 0 1 33 999 1000 65534 65535; do\n\
        echo $id > file-$id; chown $id:$((65535 - id)) file-$id; chmod 640 file-$id\n\
        ln -s target link-$id; chown -h $id:7 link-$id; mkdir dir-$id; chown 7:$id dir-$id\n\
    done\n\
    chmod 4755 file-33; chmod 2711 file-999; chmod 6000 file-1; chmod 1777 dir-0; chmod 2770 dir-1\n\
    mkfifo pipe; chown 5:5 pipe; ln file-0 deep/hard; truncate -s 5M sparse; chmod 0 sparse\n\
    mknod disk b 259 1000; chown 0:6 disk; chmod 660 disk; ln -s \"$(printf 'x%.0s' $(seq 900))\" long\n\
    touch -d '1960-01-02 03:04:05' old; touch \"$(printf 'new\\nline \\303\\274')\"\n";

/// As root of a user namespace, which an ordinary user's is: the server may mount, and has no
/// other capability. A device node cannot be made there through any file system (mknod(2) asks for
/// CAP_MKNOD on the host), so they come from below, as container tools store them.
const UNPACK: &str = "\
    cd \"$0\"; archive=$1; idshift=$2\n\
    setpriv --bounding-set=-all,+sys_admin --inh-caps=-all -- \\\n\
        \"$idshift\" mount -o map=b:0:0:65536,ownership=xattr lower upper\n\
    tar -C upper --numeric-owner --anchored --no-wildcards -X devices -xpf $archive\n\
    while read -r path owner mode type seconds; do\n\
        : > lower/$path; touch -d @$seconds lower/$path; chmod 600 lower/$path\n\
        setfattr -n user.containers.override_stat -v $owner:0$mode:$type lower/$path\n\
    done < nodes\n\
    while read -r path seconds; do touch -d @$seconds upper/$path; done < directories\n\
    tar -C upper --numeric-owner --sort=name --format=gnu -cf again.tar .\n\
    mount --rbind /proc upper/proc; mount --rbind /dev upper/dev\n\
    chroot upper sh -e -c '\n\
        dpkg --verify; test \"$(stat -c %u:%g /etc/shadow)\" = 0:42\n\
        useradd --create-home --shell /bin/sh tester\n\
        su tester -c \"cd; echo mine > file; chmod 4750 file; id -u\"\n\
        if su tester -c \"cat /etc/shadow\" 2>/dev/null; then exit 9; fi\n\
        stat -c %u:%g:%a /home/tester/file'\n\
    umount -l upper/dev upper/proc; umount upper\n";

/// A root file system of many owners, unpacked by an ordinary user's root and packed again: the
/// two archives are the same, byte by byte, and every file on the disk is that user's.
fn unprivileged_server_gives_a_full_root_file_system() {
    for program in ["setfattr", "setpriv", "tar"] {
        needs_program(program);
    }
    let (dir, original) = copy();
    run(Command::new("sh").args(["-e", "-c", MANY_OWNERS]).current_dir(&original));
    let archive = dir.path().join("original.tar");
    let tar = ["--numeric-owner", "--sort=name", "--format=gnu"];
    run(Command::new("tar").arg("-C").arg(&original).args(tar).arg("-cf").arg(&archive).arg("."));
    let first = 3_000_000;
    let place = dir.path().join("users");
    for path in [place.clone(), place.join("lower"), place.join("upper")] {
        put_dir(&path, 0o755, first, first);
    }
    list_nodes(&original, &place);
    common::program::copy_program(&machine().binary, place.join("idshift"));
    let namespace = Namespace::new(first);
    let words = [place.clone(), archive.clone(), place.join("idshift")];
    let words: Vec<&str> = words.iter().map(|path| path.to_str().unwrap()).collect();
    let script = [&["-e", "-c", UNPACK], &words[..]].concat();
    let said = namespace.enter(&["--mount"], &script);
    assert_eq!(said, "1000\n1000:1000:4750\n");
    run(Command::new("cmp").arg(&archive).arg(place.join("again.tar")));
    assert_eq!(owners(&place.join("lower")), BTreeSet::from([first]));
    let special = run(Command::new("find")
        .arg(place.join("lower"))
        .args(["!", "-type", "f", "!", "-type", "d", "-o", "-perm", "/7022"]));
    assert_eq!(special, "", "nothing but private files and directories");
}

/// Lists the device nodes of a tree, each with what its attribute says, and the directories that
/// they are in, for [`UNPACK`].
fn list_nodes(original: &Path, place: &Path) {
    let (mut devices, mut nodes, mut directories) = (Vec::new(), Vec::new(), Vec::new());
    let found = run(Command::new("find")
        .arg(original)
        .args(["(", "-type", "c", "-o", "-type", "b", ")", "-printf", "%P\n"]));
    for path in found.lines() {
        let seen = fs::symlink_metadata(original.join(path)).unwrap();
        let kind = if seen.mode() & 0o170_000 == 0o060_000 { "block" } else { "char" };
        let (major, minor) = (rustix::fs::major(seen.rdev()), rustix::fs::minor(seen.rdev()));
        let owner = format!("{}:{}", seen.uid(), seen.gid());
        let mode = seen.mode() & 0o7777;
        writeln!(devices, "./{path}").unwrap();
        let seconds = seen.mtime();
        writeln!(nodes, "{path} {owner} {mode:o} {kind}-{major}-{minor} {seconds}").unwrap();
        let parent = Path::new(path).parent().unwrap();
        let seconds = fs::symlink_metadata(original.join(parent)).unwrap().mtime();
        writeln!(directories, "{} {seconds}", parent.display()).unwrap();
    }
    for (name, text) in [("devices", devices), ("nodes", nodes), ("directories", directories)] {
        fs::write(place.join(name), text).unwrap();
    }
}
