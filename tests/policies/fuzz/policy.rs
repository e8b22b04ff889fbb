//! Random policies of a mount: the options, and what the judgement needs of them.

use std::fmt::Write;

use crate::common::dice::Dice;
use crate::common::{BASE, UNMAPPED, lo, machine};

/// Extents of one kind: stored first, shown first, count.
type Map = &'static [(u32, u32, u32)];

struct Maps {
    users: Map,
    groups: Map,
}

/// All show the stored owner of the lower directory, and 1000.
const MAPS: &[Maps] = &[
    // An offset.
    Maps { users: &[(20_000, 0, 20_000)], groups: &[(20_000, 0, 20_000)] },
    Maps { users: &[(20_000, 0, 20_000)], groups: &[(20_000, 0, 20_000)] },
    // All ids as they are.
    Maps { users: &[(0, 0, 65_534)], groups: &[(0, 0, 65_534)] },
    // A hole where some callers are.
    Maps { users: &[(20_000, 0, 1002)], groups: &[(20_000, 0, 1002)] },
    // Two users changed places.
    Maps {
        users: &[(20_000, 0, 1000), (21_000, 1001, 1), (21_001, 1000, 1), (21_002, 1002, 18_000)],
        groups: &[(20_000, 0, 20_000)],
    },
    // Without root.
    Maps {
        users: &[(20_000, 5, 1), (21_000, 1000, 1000)],
        groups: &[(20_000, 5, 1), (21_000, 1000, 1000)],
    },
    // Users unlike groups.
    Maps { users: &[(20_000, 0, 20_000)], groups: &[(20_000, 2000, 1), (21_000, 1000, 1)] },
    // Real root is shown as somebody.
    Maps { users: &[(0, 1001, 1), (20_000, 0, 1001)], groups: &[(0, 1001, 1), (20_000, 0, 1001)] },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmapped {
    Overflow,
    Restrict,
    Owner(u32, u32),
    Squash(u32, u32),
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DenyGroups {
    Off,
    Group,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetId {
    Pass,
    Deny,
    Shadow,
}

#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // options that do not depend on each other
pub(super) struct Policy {
    pub(super) options: String,
    users: Vec<(u32, u32, u32)>,
    groups: Vec<(u32, u32, u32)>,
    pub(super) unmapped: Unmapped,
    pub(super) deny_groups: DenyGroups,
    pub(super) set_id: SetId,
    pub(super) creators_squash: bool,
    pub(super) chown_ignore: bool,
    pub(super) no_devices: bool,
    pub(super) read_only: bool,
    /// Owners are kept in attributes.
    pub(super) recorded: bool,
    /// What is changed below counts at once.
    pub(super) changes_below: bool,
    /// Writes may be gathered.
    pub(super) gathers: bool,
    pub(super) restarts: bool,
}

fn through(extents: &[(u32, u32, u32)], id: u32) -> Option<u32> {
    let extent = extents.iter().find(|(from, _, count)| id >= *from && id - from < *count);
    extent.map(|(from, to, _)| to + (id - from))
}

fn back(extents: &[(u32, u32, u32)], id: u32) -> Option<u32> {
    let turned: Vec<_> = extents.iter().map(|&(from, to, count)| (to, from, count)).collect();
    through(&turned, id)
}

impl Policy {
    pub(super) fn shown_user(&self, stored: u32) -> Option<u32> {
        through(&self.users, stored)
    }

    pub(super) fn shown_group(&self, stored: u32) -> Option<u32> {
        through(&self.groups, stored)
    }

    pub(super) fn stored_user(&self, shown: u32) -> Option<u32> {
        back(&self.users, shown)
    }

    pub(super) fn stored_group(&self, shown: u32) -> Option<u32> {
        back(&self.groups, shown)
    }

    pub(super) fn is_unmapped(&self, uid: u32, gid: u32) -> bool {
        self.shown_user(uid).is_none() || self.shown_group(gid).is_none()
    }

    /// Some stored ids: shown ones and, each with a chance of one in `odd`, ones that nobody has here,
    /// and real root's.
    pub(super) fn some_owner(&self, odd: u64, dice: &mut Dice) -> (u32, u32) {
        let callers = [0, 1000, 1000, 1001, 1002];
        let strange = [0, UNMAPPED, lo(1002)];
        let uid = self.stored_user(dice.of(&callers));
        let gid = self.stored_group(dice.of(&callers));
        let odd = [dice.below(odd) == 0, dice.below(odd) == 0];
        let other = [dice.of(&strange), dice.of(&strange)];
        (uid.filter(|_| !odd[0]).unwrap_or(other[0]), gid.filter(|_| !odd[1]).unwrap_or(other[1]))
    }

    pub(super) fn random(dice: &mut Dice) -> Self {
        let maps = &MAPS[dice.size(MAPS.len() as u64)];
        let mut policy = Self {
            options: String::new(),
            users: maps.users.to_vec(),
            groups: maps.groups.to_vec(),
            unmapped: Unmapped::Overflow,
            deny_groups: DenyGroups::Off,
            set_id: SetId::Pass,
            creators_squash: false,
            chown_ignore: false,
            no_devices: false,
            read_only: false,
            recorded: false,
            changes_below: false,
            gathers: false,
            restarts: false,
        };
        if machine().kernel_backend {
            policy.changes_below = true;
        } else if dice.below(6) == 0 {
            policy.owned_by(dice);
        } else {
            policy.choose(dice);
        }
        policy.write_map();
        policy.service(dice);
        policy
    }

    fn add(&mut self, option: &str) {
        if !self.options.is_empty() {
            self.options.push(',');
        }
        self.options.push_str(option);
    }

    fn write_map(&mut self) {
        if self.options.contains("owned-by") {
            return;
        }
        for (kind, extents) in [('u', self.users.clone()), ('g', self.groups.clone())] {
            for (stored, shown, count) in extents {
                self.add(&format!("map={kind}:{stored}:{shown}:{count}"));
            }
        }
    }

    /// `owned-by=`, which stands for others.
    fn owned_by(&mut self, dice: &mut Dice) {
        let (uid, gid) = dice.of(&[(1000, 1000), (1000, 1001), (1001, 1000)]);
        self.add(&format!("owned-by={uid}:{gid}"));
        self.users = vec![(BASE, uid, 1)];
        self.groups = vec![(BASE, gid, 1)];
        self.unmapped = Unmapped::Squash(uid, gid);
        (self.creators_squash, self.chown_ignore, self.no_devices) = (true, true, true);
        self.set_id = SetId::Deny;
        self.choose_deny_groups(dice);
    }

    fn choose(&mut self, dice: &mut Dice) {
        self.choose_deny_groups(dice);
        if dice.below(6) == 0 {
            self.recorded = true;
            self.add("ownership=xattr");
            if dice.below(2) == 0 {
                self.unmapped = Unmapped::Restrict;
                self.add("unmapped=restrict");
            }
            return;
        }
        self.choose_unmapped(dice);
        match dice.below(4) {
            0 => {
                self.set_id = SetId::Deny;
                self.add("suid=deny");
            }
            1 if machine().real_root => {
                self.set_id = SetId::Shadow;
                self.add("suid=shadow");
            }
            2 if dice.below(3) == 0 => {
                (self.chown_ignore, self.set_id) = (true, SetId::Deny);
                self.add("chown=ignore");
            }
            _ => {}
        }
    }

    fn choose_deny_groups(&mut self, dice: &mut Dice) {
        self.deny_groups = dice.of(&[DenyGroups::Off, DenyGroups::Group, DenyGroups::All]);
        match self.deny_groups {
            DenyGroups::Off => {}
            DenyGroups::Group => self.add("deny_groups=group"),
            DenyGroups::All => self.add("deny_groups=all"),
        }
    }

    fn choose_unmapped(&mut self, dice: &mut Dice) {
        let pairs = [(1000, 1000), (1000, 1001), (1001, 1000), (0, 0), (1002, 1002)];
        let (uid, gid) = dice.of(&pairs);
        let is_shown = self.stored_user(uid).is_some() && self.stored_group(gid).is_some();
        let (uid, gid) = if is_shown { (uid, gid) } else { (1000, 1000) };
        match dice.below(6) {
            0 => {
                self.unmapped = Unmapped::Restrict;
                self.add("unmapped=restrict");
            }
            1 => {
                self.unmapped = Unmapped::Owner(uid, gid);
                self.add(&format!("unmapped=owner:{uid}:{gid}"));
            }
            2 => {
                self.unmapped = Unmapped::Deny;
                self.add("unmapped=deny");
            }
            3 | 4 => {
                self.unmapped = Unmapped::Squash(uid, gid);
                self.add(&format!("unmapped=squash:{uid}:{gid}"));
                if dice.below(2) == 0 {
                    self.creators_squash = true;
                    self.add("creators=squash");
                }
            }
            _ => {}
        }
    }

    /// How it is served, which must make no difference.
    fn service(&mut self, dice: &mut Dice) {
        if dice.below(12) == 0 {
            self.read_only = true;
            self.add("ro");
        }
        if dice.below(4) == 0 && !self.options.contains("owned-by") {
            self.add(dice.of(&["nosuid", "nodev", "noexec"]));
        }
        if machine().kernel_backend {
            return;
        }
        let cache = dice.of(&["none", "none", "coherent", "ttl:1", "exclusive"]);
        let io = dice.of(&["passthrough", "passthrough", "cached"]);
        let mut words = String::new();
        write!(words, "cache={cache},io={io}").unwrap();
        self.add(&words);
        self.changes_below = cache == "none";
        self.gathers = cache == "exclusive" && io == "cached";
        if machine().real_root && dice.below(4) == 0 {
            self.restarts = true;
            self.add("restart=on");
        }
    }
}
