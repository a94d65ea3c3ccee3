//! The sweep: what nobody asked for goes, slowly and in slices.
//!
//! A record goes when its registry's `unused_ttl` has passed since its last use. A blob lives by the longest
//! of the registries that have a record leading to it: a link, a pointer of the v1 API, a derived layer, a
//! conversion. One that none leads to cannot be asked for without a question upstream, and lives by the
//! shortest of all. Last uses are known by the hour, so everything lives that much longer at most. What is
//! damaged stays for a week.
//!
//! Conversions know no time. Of too many records they give up the least used as others do, but only what they
//! take beyond half of what records may take: they neither crowd out links nor are they crowded out. What led
//! to them goes as well then, all of it, so that what was lost is made anew.

#![allow(
    clippy::disallowed_methods,
    reason = "sleeps on a thread of the store, which holds no event loop"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::beside::Room;
use super::files::Files;
use super::records::component;
use super::scan::read_dir;
use super::space::{blocks, unix};
use super::trouble::trouble;
use super::{Conversions, Settings, Store};

/// How many entries are looked at without a pause, and how long that is.
const SLICE: usize = 512;
const PAUSE: Duration = Duration::from_millis(2);
/// How long damaged files stay.
const QUARANTINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The configured times, and who has which.
#[derive(Debug)]
pub(super) struct Lives {
    /// From the shortest on; `None` is for ever.
    times: Vec<Option<Duration>>,
    /// By the folder of a registry: a place among the times.
    registries: HashMap<String, u8>,
    /// Of registries that are not configured.
    others: u8,
    /// How much longer everything lives, since last uses are written that seldom.
    grace: u64,
}

impl Lives {
    pub fn new(settings: &Settings) -> Self {
        let own = settings.unused_ttls.iter().map(|(_, ttl)| *ttl);
        let mut times: Vec<_> = own.chain([settings.unused_ttl]).collect();
        times.sort_by_key(|time| time.unwrap_or(Duration::MAX));
        times.dedup();
        let place = |ttl: &Option<Duration>| {
            let at = times.iter().position(|time| time == ttl);
            at.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
        };
        let registries = settings.unused_ttls.iter();
        Self {
            registries: registries
                .map(|(registry, ttl)| (component(registry.as_str()), place(ttl)))
                .collect(),
            others: place(&settings.unused_ttl),
            grace: settings.persist_after().into(),
            times,
        }
    }

    /// The shortest time there is; `None` where everything stays.
    pub fn shortest(&self) -> Option<Duration> {
        self.times.first().copied().flatten()
    }

    /// By place: what was last used before that goes, in seconds since 1970. One more than there are times,
    /// for more of them than a byte can tell apart: that stays.
    fn cutoffs(&self, now: SystemTime) -> Vec<u64> {
        let cutoff = |time: &Option<Duration>| {
            let time = time.map_or(u64::MAX, |time| time.as_secs().saturating_add(self.grace));
            unix(now).saturating_sub(time)
        };
        self.times.iter().map(cutoff).collect()
    }
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub records: u64,
    pub blobs: u64,
    /// Of those blobs.
    pub bytes: u64,
}

/// One walk through the records.
struct Walk<'a> {
    store: &'a Store,
    room: Room,
    act: &'a mut dyn FnMut(&Store, Found<'_>),
    seen: usize,
}

/// A record on the way.
struct Found<'a> {
    room: Room,
    /// Below the room's folder.
    path: &'a str,
    file: &'a Path,
    life: u8,
    /// Last used, in seconds since 1970.
    used: u64,
    /// What it takes.
    blocks: u64,
}

impl Found<'_> {
    fn is_conversion(&self) -> bool {
        self.room == Room::Conversions
    }
}

impl Store {
    /// Removes what nobody asked for long enough before `now`, and records of which there are too many.
    /// Blocks, and takes its time.
    pub fn sweep(&self, now: SystemTime) -> Swept {
        let mut swept = Swept::default();
        self.limit_records(&mut swept);
        let cutoffs = self.lives.cutoffs(now);
        let cutoff = |life: u8| cutoffs.get(usize::from(life)).copied().unwrap_or(0);
        if self.lives.shortest().is_some() {
            self.in_slices(|slots| self.space.index(|index| index.unmark(slots)));
            self.walk(&mut |store, found| {
                if let Some(digest) = found.room.leads_to(found.path, found.file) {
                    store.space.index(|index| index.mark(&digest, found.life));
                }
                let cutoff = cutoff(found.life);
                if !found.is_conversion()
                    && found.used < cutoff
                    && store.remove_record(&found, cutoff)
                {
                    swept.records += 1;
                }
            });
            self.in_slices(|slots| {
                let unused = self.space.index(|index| index.pop_unused(slots, &cutoffs));
                if !unused.is_empty() {
                    swept.blobs += unused.len() as u64;
                    swept.bytes += unused.iter().map(|(_, bytes)| bytes).sum::<u64>();
                    // What the disk does not let go is counted again.
                    let _ = self.space.remove_blobs(unused);
                }
            });
        }
        self.remove_damaged(unix(now).saturating_sub(QUARANTINE.as_secs()));
        swept
    }

    /// Removes what was set aside before `cutoff`, in seconds since 1970. What the disk does not let go stays,
    /// and counts.
    fn remove_damaged(&self, cutoff: u64) {
        for path in self.space.aside() {
            let set_aside = std::fs::metadata(&path).and_then(|meta| meta.modified());
            if set_aside.is_ok_and(|at| unix(at) >= cutoff) {
                continue;
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    trouble("a damaged file cannot be removed", &error);
                }
                _ => self.space.forget_aside(&path),
            }
        }
    }

    /// Removes the records that were not used for the longest time, where they take too much: an eighth more
    /// than that, so that it is not to be done again at once.
    fn limit_records(&self, swept: &mut Swept) {
        let (excess, most) = (self.space.excess_records(), self.space.most_records());
        if excess == 0 {
            return;
        }
        let (mut uses, mut made) = (Vec::new(), Vec::new());
        self.walk(&mut |_, found| {
            let uses = if found.is_conversion() {
                &mut made
            } else {
                &mut uses
            };
            uses.push((found.used, found.blocks));
        });
        let taken = |uses: &[(u64, u64)]| uses.iter().map(|(_, blocks)| blocks).sum::<u64>();
        let all = taken(&uses) + taken(&made);
        let gone = excess + (all / 8).min(most / 4);
        let gone_made = gone.min(taken(&made).saturating_sub(most / 2));
        let (mut made, mut uses) = (
            Least::of(made, gone_made),
            Least::of(uses, gone - gone_made),
        );
        self.walk(&mut |store, found| {
            let least = if found.is_conversion() {
                &mut made
            } else {
                &mut uses
            };
            if least.has(&found) && store.remove_record(&found, least.cutoff) {
                least.left = least.left.saturating_sub(found.blocks);
                swept.records += 1;
            }
        });
        if gone_made > 0 {
            self.walk(&mut |store, found| {
                let leads = found.is_conversion() && Conversions::is_top(found.path);
                swept.records += u64::from(leads && store.remove_record(&found, u64::MAX));
            });
        }
    }

    /// Removes a record unless it was used meanwhile; whether it did.
    fn remove_record(&self, found: &Found<'_>, cutoff: u64) -> bool {
        let forget = || self.forget(found.room, found.path);
        let files = self.files(found.room);
        files.remove_unused(found.path, cutoff, forget)
    }

    pub(super) fn files(&self, room: Room) -> &Files {
        match room {
            Room::Repositories => &self.files,
            Room::V1 => &self.image_files,
            Room::Conversions => &self.conversion_files,
        }
    }

    /// Shows every record, and removes the folders that have none.
    fn walk(&self, act: &mut dyn FnMut(&Self, Found<'_>)) {
        let mut seen = 0;
        for room in [Room::Repositories, Room::V1, Room::Conversions] {
            let mut walk = Walk {
                store: self,
                room,
                act: &mut *act,
                seen,
            };
            for registry in read_dir(self.files(room).root()) {
                let name = registry.file_name().to_string_lossy().into_owned();
                let lives = &self.lives;
                let life = lives.registries.get(&name).copied();
                walk.folder(&registry.path(), &name, life.unwrap_or(lives.others));
            }
            seen = walk.seen;
        }
    }

    /// Acts on all slots of the index, some at a time.
    fn in_slices(&self, mut act: impl FnMut(std::ops::Range<usize>)) {
        let all = self.space.index(|index| index.slots());
        for first in (0..all).step_by(SLICE) {
            act(first..first + SLICE);
        }
    }
}

impl Walk<'_> {
    /// `path` is the folder's below that of all records.
    fn folder(&mut self, folder: &Path, path: &str, life: u8) {
        for entry in read_dir(folder) {
            self.seen += 1;
            if self.seen.is_multiple_of(SLICE) {
                std::thread::sleep(PAUSE);
            }
            let name = entry.file_name();
            // Names are ours: ASCII.
            let path = format!("{path}/{}", name.to_string_lossy());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.folder(&entry.path(), &path, life);
            } else if let Ok(meta) = entry.metadata()
                && let Ok(used) = meta.modified()
            {
                let found = Found {
                    room: self.room,
                    path: &path,
                    file: &entry.path(),
                    life,
                    used: unix(used),
                    blocks: blocks(meta.len()),
                };
                (self.act)(self.store, found);
            }
        }
        // Only an empty one goes.
        let _ = std::fs::remove_dir(folder);
    }
}

/// The least used of some records.
struct Least {
    /// What was used later stays, in seconds since 1970.
    cutoff: u64,
    /// How many blocks are still to go: many may have been used in the same second.
    left: u64,
}

impl Least {
    /// Of uses and blocks, those that take at least so many blocks.
    fn of(mut uses: Vec<(u64, u64)>, gone: u64) -> Self {
        uses.sort_unstable();
        let mut sum = 0;
        let last = uses.iter().find(|(_, blocks)| {
            sum += blocks;
            sum >= gone
        });
        let last = last.or(uses.last()).map_or(0, |(used, _)| *used);
        Self {
            cutoff: last.saturating_add(1),
            left: gone,
        }
    }

    fn has(&self, found: &Found<'_>) -> bool {
        self.left > 0 && found.used < self.cutoff
    }
}

/// What is set aside, for tests and people.
impl Store {
    /// The damaged files that are still there.
    pub fn quarantined(&self) -> Vec<PathBuf> {
        read_dir(&self.root.join("quarantine"))
            .map(|entry| entry.path())
            .collect()
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
