//! What all subjects show, and where they show it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use crate::args::Args;
use crate::failure::{Result, Say};
use crate::sandbox::UserNamespace;
use crate::tree;

/// What is added to a lower id to get the shown one.
pub(crate) const OFFSET: u32 = 100_000;
/// Entries of the directory that is listed.
pub(crate) const MANY: usize = 10_000;
/// Files of the large tree.
pub(crate) const LARGE: usize = 200_000;

/// The files of a run, made once, and removed with this.
pub(crate) struct Stage {
    base: PathBuf,
    // Dropped in this order: the mount goes before the directory that it is in.
    _image: Option<Image>,
    _dir: TempDir,
    /// Root here is root of the lower tree: for subjects that shift nothing.
    plain: UserNamespace,
    /// Root here is the mapped root.
    shifted: UserNamespace,
}

impl Stage {
    /// Makes the lower tree: `tree`, the usual one; `many`, a long directory; `large`, if wanted;
    /// `scratch`, empty. Beside it: an archive of `tree`, an empty directory, mount points.
    pub(crate) fn build(args: &Args) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("idshift-compare-");
        let dir = match &args.dir {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let dir = dir.say("a directory for the lower tree")?;
        let all_enter = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), all_enter.clone()).say("its mode")?;
        let image = match &args.dir {
            Some(_) => None,
            None => Some(Image::mount(dir.path(), &args.image, args.image_size())?),
        };
        let base = image.as_ref().map_or(dir.path(), |image| &image.point).to_owned();
        fs::set_permissions(&base, all_enter).say("its mode")?;
        let stage = Self {
            base,
            _image: image,
            _dir: dir,
            plain: UserNamespace::new(0)?,
            shifted: UserNamespace::new(OFFSET)?,
        };
        for name in ["lower", "empty", "work", "home"] {
            fs::create_dir(stage.base().join(name)).say(name)?;
        }
        eprintln!("making a tree of {} files", args.files());
        tree::make(&stage.lower().join("tree"), args.files())?;
        let many = stage.lower().join("many");
        fs::create_dir(&many).say("many")?;
        for number in 0..MANY {
            fs::File::create(many.join(format!("entry{number}"))).say("many")?;
        }
        if args.large {
            eprintln!("making a tree of {LARGE} files");
            tree::make_flat(&stage.lower().join("large"), LARGE)?;
        }
        stage.clean()?;
        run(Command::new("tar")
            .args(["--numeric-owner", "-cf"])
            .arg(stage.base().join("tree.tar"))
            .arg("-C")
            .arg(stage.lower())
            .arg("tree"))?;
        Ok(stage)
    }

    /// The directory that holds all of it.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// The lower directory.
    pub(crate) fn lower(&self) -> PathBuf {
        self.base().join("lower")
    }

    /// The user namespace whose root owns the tree as a subject shows it.
    pub(crate) fn namespace(&self, shifts: bool) -> PathBuf {
        if shifts { self.shifted.path() } else { self.plain.path() }
    }

    /// Makes `scratch` anew: every measurement begins with an empty one.
    pub(crate) fn clean(&self) -> Result<()> {
        let scratch = self.lower().join("scratch");
        if scratch.exists() {
            fs::remove_dir_all(&scratch).say("removing what the workload left")?;
        }
        fs::create_dir(&scratch).say("scratch")
    }

    /// Writes everything out, so that no subject pays for the one before, and drops what the
    /// kernel has cached.
    pub(crate) fn drop_caches() -> Result<()> {
        rustix::fs::sync();
        for _ in 0..2 {
            // Twice: the first round makes FUSE servers forget, which lets lower inodes go.
            fs::write("/proc/sys/vm/drop_caches", "3").say("/proc/sys/vm/drop_caches")?;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }
}

/// A file system of its own in a file. The loop device goes with its mount, and the mount with this
/// or, at the latest, with the run's mount namespace.
struct Image {
    point: PathBuf,
}

impl Image {
    fn mount(dir: &Path, kind: &str, size: u64) -> Result<Self> {
        let (file, point) = (dir.join("image"), dir.join("fs"));
        fs::create_dir(&point).say("fs")?;
        fs::File::create(&file).and_then(|image| image.set_len(size)).say("the image")?;
        let mut make = Command::new(format!("mkfs.{kind}"));
        match kind {
            // Written at once, not by a kernel thread while something is measured.
            "ext4" => make.args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
            _ => make.arg("-q"),
        };
        run(make.arg(&file))?;
        // Direct I/O: what is dropped from the cache is not to sit in the image file's cache.
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--direct-io=on"]).arg(&file);
        let output = attach.output().say("losetup")?;
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if device.is_empty() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(format!("losetup: {}; --dir DIR does without", words.trim()));
        }
        let mounted = run(Command::new("mount").args(["-t", kind, &device]).arg(&point));
        // From here on the device lives as long as its mount.
        run(Command::new("losetup").args(["--detach", &device]))?;
        mounted?;
        Ok(Self { point })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if rustix::mount::unmount(&self.point, UnmountFlags::DETACH).is_err() {
            eprintln!("{} stays mounted", self.point.display());
        }
    }
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().say(&name)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first: Vec<&str> = words.lines().take(2).collect();
    Err(format!("{name} ended with {}: {}", output.status, first.join("; ")))
}
