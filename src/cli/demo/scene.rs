//! The story that the demo tells.

use super::stage::{Stage, failed};
use crate::error::StartError;

/// Who takes part: ids that exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cast {
    /// The first id as shown.
    base: u32,
    /// How many ids the map has.
    count: u32,
    /// A stored id that is not in the map.
    outsider: u32,
}

/// A stored user of the lower tree.
const ALICE: u32 = 1000;

impl Cast {
    /// A cast for a system in which `ids` ids from 0 on exist: the numbers that containers use
    /// where they do, smaller ones in a user namespace, none besides root where there is no other.
    pub(super) fn for_ids(ids: u32) -> Self {
        match ids {
            0..15_001 => Self { base: 0, count: 1, outsider: 0 },
            15_001..=200_000 => Self { base: 10_000, count: 5_000, outsider: 6_000 },
            _ => Self { base: 100_000, count: 65_536, outsider: 70_000 },
        }
    }

    fn map(&self) -> String {
        format!("b:0:{}:{}", self.base, self.count)
    }

    fn alone(&self) -> bool {
        self.count == 1
    }
}

/// Tells the story; an error if a step does not go as it should.
pub(super) fn play(cast: &Cast) -> Result<(), StartError> {
    let mut stage = Stage::set()?;
    if cast.alone() { play_alone(cast, &mut stage) } else { play_all(cast, &mut stage) }
}

fn play_all(cast: &Cast, stage: &mut Stage) -> Result<(), StartError> {
    let shown_root = cast.base;
    let shown_alice = cast.base + ALICE;
    say!(
        "1. A small directory. It is stored with the owners 0 (root) and {ALICE} (alice),\n   as in \
         the root file system of a container. Now it is mounted so that each stored id N\n   is \
         shown as {} + N:\n",
        cast.base
    );
    stage.put("etc", 0, 0o755, None)?;
    stage.put("etc/hostname", 0, 0o644, Some("demo\n"))?;
    stage.put("home", ALICE, 0o700, None)?;
    stage.put("home/diary", ALICE, 0o600, Some("dear diary\n"))?;
    stage.put("tmp", 0, 0o777, None)?;
    stage.put("tmp/stranger", cast.outsider, 0o644, Some("not in the map\n"))?;
    stage.mount(&cast.map())?;

    say!(
        "\n2. Both sides next to each other. Nothing was copied, and nothing was changed on disk:\n"
    );
    stage.compare(&["etc/hostname", "home", "home/diary", "tmp/stranger"])?;
    say!(
        "\n   tmp/stranger belongs to {}, which the map does not have: it is shown as nobody's.",
        cast.outsider
    );

    say!(
        "\n3. The diary, as the two users see it. {ALICE} is its owner on the stored side only:\n"
    );
    stage.expect(ALICE, "cat lower/home/diary", true)?;
    stage.expect(ALICE, "cat mnt/home/diary", false)?;
    say!("\n   and {shown_alice} on the shown side only:\n");
    stage.expect(shown_alice, "cat lower/home/diary", false)?;
    stage.expect(shown_alice, "cat mnt/home/diary", true)?;

    say!("\n4. {shown_alice} writes a file through the mount. It is stored as {ALICE}'s:\n");
    stage.expect(shown_alice, "echo 'a letter' > mnt/home/letter", true)?;
    stage.check_stored("home/letter", ALICE)?;

    say!("\n5. root gives it to {shown_root} through the mount. It is stored as 0's:\n");
    stage.expect(0, &format!("chown {shown_root}:{shown_root} mnt/home/letter"), true)?;
    stage.check_stored("home/letter", 0)?;

    say!(
        "\n6. {ALICE} is not an id of the shown side. Everybody may write in mnt/tmp, and still it \
         can\n   leave nothing there, because there is no id to store it under:\n"
    );
    stage.expect(ALICE, "touch mnt/tmp/mine", false)?;

    say!("\n7. Unmounted. What was written is there, with the stored ids:\n");
    stage.unmount()?;
    stage.expect(0, "ls -ln lower/home", true)?;
    stage.expect(0, "test ! -e lower/tmp/mine", true)
}

/// Where one id exists, there is no second one to show it as; what remains is the rest.
fn play_alone(cast: &Cast, stage: &mut Stage) -> Result<(), StartError> {
    say!(
        "1. A small directory. The only id here is 0, so it can only be shown as itself: the map \
         says\n   that 0 is shown as 0, and that there is no other id.\n"
    );
    stage.put("notes", 0, 0o755, None)?;
    stage.put("notes/today", 0, 0o640, Some("a note\n"))?;
    stage.mount(&cast.map())?;

    say!("\n2. Both sides next to each other:\n");
    stage.compare(&["notes", "notes/today"])?;

    say!("\n3. A file that is written through the mount:\n");
    stage.expect(0, "echo more > mnt/notes/more", true)?;
    stage.check_stored("notes/more", 0)?;

    say!("\n4. An id that the map does not have is refused, and changes nothing:\n");
    stage.expect(0, "chown 1000 mnt/notes/more", false)?;
    stage.check_stored("notes/more", 0)?;

    say!("\n5. Unmounted. What was written is there:\n");
    stage.unmount()?;
    if !stage.act(0, "cat lower/notes/more")? {
        return Err(failed("what was written through the mount is not there"));
    }
    say!(
        "\n   For the whole demo, with a second user, give this user a range of ids (as root:\n   \
         'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME'), or run it as root."
    );
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn everybody_in_a_cast_exists_and_the_outsider_is_outside() {
        for ids in [15_001, 65_537, 200_000, 200_001, u32::MAX] {
            let cast = Cast::for_ids(ids);
            let last = cast.base + cast.count - 1;
            assert!(!cast.alone() && last < ids && cast.outsider < ids, "{ids}");
            assert!(cast.outsider >= cast.count && ALICE < cast.count, "{ids}");
            assert!(ALICE < cast.base, "{ids}: the stored alice is no shown id");
        }
        assert!(Cast::for_ids(1).alone());
    }
}
