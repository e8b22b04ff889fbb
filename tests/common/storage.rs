//! The lower file systems that are tried: each a loop image, but tmpfs and overlayfs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Enough for mkfs.xfs, which wants 300 MB. The images are sparse.
const IMAGE_SIZE: u64 = 8 << 30;

/// A mounted lower file system, unmounted and deleted at the end.
pub(crate) struct Storage {
    pub(crate) kind: &'static str,
    pub(crate) root: PathBuf,
    image: Option<PathBuf>,
}

/// The kinds that [`Storage::make`] knows, without overlayfs, which has no idmapped mounts.
pub(crate) const KINDS: &[&str] = &["ext4", "xfs", "btrfs", "tmpfs"];

impl Storage {
    /// Makes and mounts it below `place`; the error says what this machine lacks.
    pub(crate) fn make(kind: &'static str, place: &Path) -> Result<Self, String> {
        let root = place.join(format!("storage-{kind}"));
        std::fs::create_dir_all(&root).map_err(|e| format!("{}: {e}", root.display()))?;
        if kind == "tmpfs" {
            run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=2g,mode=0755", "none"])
                .arg(&root))?;
            return Ok(Self { kind, root, image: None });
        }
        if kind == "overlayfs" {
            let layers = ["lower", "upper", "work"].map(|name| place.join(name));
            for layer in &layers {
                std::fs::create_dir(layer).map_err(|e| format!("{}: {e}", layer.display()))?;
            }
            let [below, above, work] = layers.map(|layer| layer.display().to_string());
            let options = format!("lowerdir={below},upperdir={above},workdir={work}");
            run(Command::new("mount").args(["-t", "overlay", "-o", &options, "none"]).arg(&root))?;
            return Ok(Self { kind, root, image: None });
        }
        let image = place.join(format!("{kind}.img"));
        let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(IMAGE_SIZE).map_err(|e| e.to_string())?;
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root))?;
        Ok(Self { kind, root, image: Some(image) })
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
        if let Some(image) = &self.image {
            let _deleted = std::fs::remove_file(image);
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
