//! The kernel's rules for sticky directories (`fs.protected_*`), which judge ids too: on while the
//! trials run.

use std::path::Path;

const NAMES: &[&str] =
    &["protected_symlinks", "protected_hardlinks", "protected_regular", "protected_fifos"];

/// What they were before; set again in the end.
pub struct Protected(Vec<(&'static str, String)>);

impl Protected {
    pub fn on() -> Self {
        let known = NAMES.iter().filter_map(|&name| {
            let path = Path::new("/proc/sys/fs").join(name);
            let before = std::fs::read_to_string(&path).ok()?;
            std::fs::write(&path, "1").ok()?;
            Some((name, before))
        });
        Self(known.collect())
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        for (name, before) in &self.0 {
            let _restored = std::fs::write(Path::new("/proc/sys/fs").join(name), before.trim());
        }
    }
}
