//! Changes of records: answers, writes and removals, each an atomic decision and change.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use runtime::generation;

use super::files::LockedRecord;
use super::{Question, RecordStore};
use crate::degraded::warn_degraded;
use crate::durable::is_absent;
use crate::record::{Outcome, Reach, Record, RecordKey, TypedKey};

/// How far the confirmation on disk may lag behind, in seconds.
const CONFIRMED_WITHIN: u64 = 3600;

/// Whether the record in memory is also on disk.
#[derive(Clone, Copy)]
pub(super) enum Persisted {
    Yes,
    No,
}

/// Whether there is a record after a change.
#[derive(Clone, Copy)]
enum Presence {
    Present,
    Absent,
}

/// A value and its encoding for the disk.
struct Encoded<V> {
    record: Arc<V>,
    json: Vec<u8>,
}

impl RecordStore {
    /// Stores an upstream's answer, if its question is current. A write error is only logged: it costs a request
    /// after a restart. An answer that is too long, since an upstream may send anything, is not stored, and the
    /// outdated record is removed.
    pub async fn answer<V: Record>(
        &self,
        question: &Question<V>,
        record: V,
        reach: Reach,
    ) -> Outcome<V> {
        let record = Arc::new(record);
        let outcome = match self.confirm(&question.inner, &record, reach) {
            Some(outcome) => outcome,
            None => self.store_answer(question, record, reach).await,
        };
        self.update_lists(question.inner.key(), Presence::Present);
        outcome
    }

    async fn store_answer<V: Record>(
        &self,
        question: &Question<V>,
        record: Arc<V>,
        reach: Reach,
    ) -> Outcome<V> {
        let Some(encoded) = encode(question.inner.key(), record.clone()) else {
            self.answer_absent(question).await;
            return Outcome::Current(record);
        };
        let (records, question) = (self.clone(), question.inner.clone());
        let store = move || records.answer_now(&question, &encoded, reach);
        if tokio::task::spawn_blocking(store).await.unwrap_or(false) {
            Outcome::Current(record)
        } else {
            Outcome::Outdated(record)
        }
    }

    /// Removes a record after an upstream's 404, if its question is current.
    pub async fn answer_absent<V: Record>(&self, question: &Question<V>) {
        let (records, question) = (self.clone(), question.inner.clone());
        let remove = move || {
            let (key, inner) = (question.key(), &records.inner);
            let path = key.path();
            let locked = inner.files.lock(&path);
            if question.is_current() {
                records.withdraw(key);
                warn_unless_removed(locked.remove_durably());
                question.answer(|| inner.cache.remove(key));
                records.update_lists(key, Presence::Absent);
            }
        };
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Stores a record that was written to the upstream through this gateway since `question` was asked. If another
    /// write ended meanwhile, the record is removed, and the next request asks the upstream which of the two won.
    pub async fn write<V: Record>(&self, question: &Question<V>, record: V) {
        let key = question.inner.key().clone();
        let Some(encoded) = encode(&key, Arc::new(record)) else {
            return self.remove_key(key).await;
        };
        let (records, question) = (self.clone(), question.inner.clone());
        let write = move || records.write_now(&question, &encoded);
        let _ = tokio::task::spawn_blocking(write).await;
        self.update_lists(&key, Presence::Present);
    }

    /// Changes a record that only this gateway maintains: `change` maps the current record to the new one, or to
    /// `None` to leave it. Updates of a record are serialized.
    ///
    /// # Errors
    /// When the record cannot be read; it is not changed then.
    pub async fn update<K, F>(&self, key: &K, change: F) -> io::Result<()>
    where
        K: TypedKey,
        F: FnOnce(Option<&K::Value>) -> Option<K::Value> + Send + 'static,
    {
        let (records, key) = (self.clone(), key.clone().into());
        let update = move || records.update_now(&key, change);
        let updated = tokio::task::spawn_blocking(update).await;
        updated.map_err(io::Error::other)?
    }

    /// Removes a record; no answer to an earlier question is stored.
    pub async fn remove<K: TypedKey>(&self, key: &K) {
        self.remove_key(key.clone().into()).await;
    }

    async fn remove_key(&self, key: RecordKey) {
        let records = self.clone();
        let remove = move || {
            records.withdraw(&key);
            let (inner, path) = (&records.inner, key.path());
            let locked = inner.files.lock(&path);
            warn_unless_removed(locked.remove_durably());
            inner.generations.write(&key, || inner.cache.remove(&key));
            drop(locked);
            records.update_lists(&key, Presence::Absent);
        };
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Confirms the record in memory if the answer equals it and the disk needs no write; `None` otherwise.
    fn confirm<V: Record>(
        &self,
        question: &generation::Question<RecordKey>,
        record: &Arc<V>,
        reach: Reach,
    ) -> Option<Outcome<V>> {
        let key = question.key();
        let same = question.answer(|| {
            let known = self.inner.cache.entry(key)?;
            let persisted_check = known.persisted_check?;
            // A confirmation older than the one on disk must be written, or a restart would take it for fresher.
            let since = record
                .checked_at()
                .unwrap_or(persisted_check)
                .checked_sub(persisted_check)?;
            let same = known.record::<V>()?.has_same_content(record) && since < CONFIRMED_WITHIN;
            same.then(|| self.inner.cache.insert(key, known.confirmed(record)))
        });
        match same {
            None => Some(Outcome::Outdated(record.clone())),
            Some(None) => None,
            Some(Some(())) => {
                self.publish(key, record.as_ref(), reach);
                Some(Outcome::Current(record.clone()))
            }
        }
    }

    /// Stores an answer on disk and in memory, if its question is current; returns whether it is. Blocks.
    fn answer_now<V: Record>(
        &self,
        question: &generation::Question<RecordKey>,
        encoded: &Encoded<V>,
        reach: Reach,
    ) -> bool {
        let key = question.key();
        let path = key.path();
        let locked = self.inner.files.lock(&path);
        if !question.is_current() {
            return false;
        }
        let in_memory = self.inner.answers_in_memory.load(Ordering::SeqCst);
        let persisted = if in_memory {
            Persisted::No
        } else {
            self.write_file(&locked, key, encoded)
        };
        let (record, length) = (&encoded.record, encoded.json.len());
        let stored = question.answer(|| self.cache(key, record, length, persisted));
        if stored.is_none() {
            if !in_memory {
                warn_unless_removed(locked.remove());
            }
            return false;
        }
        self.publish(key, record.as_ref(), reach);
        drop(locked);
        self.inner.files.retry_deletions();
        true
    }

    /// Stores a written record, or removes it if another write ended meanwhile. Blocks.
    fn write_now<V: Record>(
        &self,
        question: &generation::Question<RecordKey>,
        encoded: &Encoded<V>,
    ) {
        let key = question.key();
        let path = key.path();
        let locked = self.inner.files.lock(&path);
        let persisted = self.write_file(&locked, key, encoded);
        let (record, length) = (&encoded.record, encoded.json.len());
        let is_alone = question.write(|is_alone| {
            if is_alone {
                self.cache(key, record, length, persisted);
            } else {
                self.inner.cache.remove(key);
            }
            is_alone
        });
        if is_alone {
            self.publish(key, record.as_ref(), Reach::Shared);
        } else {
            self.withdraw(key);
            warn_unless_removed(locked.remove_durably());
        }
    }

    fn update_now<V: Record>(
        &self,
        key: &RecordKey,
        update: impl FnOnce(Option<&V>) -> Option<V>,
    ) -> io::Result<()> {
        let (inner, path) = (&self.inner, key.path());
        let locked = inner.files.lock(&path);
        let known = inner.cache.entry(key).and_then(|entry| entry.record());
        let known = match known {
            Some(known) => Some(known),
            None => match inner.files.read(&path) {
                Ok((bytes, _)) => serde_json::from_slice(&bytes).ok().map(Arc::new),
                Err(error) if is_absent(&error) => None,
                Err(error) => return Err(error),
            },
        };
        let Some(new) = update(known.as_deref()) else {
            return Ok(());
        };
        if let Some(encoded) = encode(key, Arc::new(new)) {
            let persisted = if inner.answers_in_memory.load(Ordering::SeqCst) {
                Persisted::No
            } else {
                self.write_file(&locked, key, &encoded)
            };
            let (record, length) = (&encoded.record, encoded.json.len());
            let generations = &inner.generations;
            generations.write(key, || self.cache(key, record, length, persisted));
        } else {
            warn_unless_removed(locked.remove_durably());
            inner.generations.write(key, || inner.cache.remove(key));
        }
        drop(locked);
        inner.files.retry_deletions();
        Ok(())
    }

    /// Writes a record's file. If that fails, removes the previous record unless it has the same content.
    fn write_file<V: Record>(
        &self,
        locked: &LockedRecord<'_>,
        key: &RecordKey,
        encoded: &Encoded<V>,
    ) -> Persisted {
        let Err(error) = locked.write(&encoded.json) else {
            return Persisted::Yes;
        };
        warn_degraded("a record cannot be written", &error);
        let known = self.inner.cache.entry(key);
        let known = known.and_then(|known| known.record::<V>());
        if !known.is_some_and(|known| known.has_same_content(&encoded.record)) {
            warn_unless_removed(locked.remove());
        }
        Persisted::No
    }

    /// Shares a record with other gateways, if it concerns them.
    fn publish<V: Record>(&self, key: &RecordKey, record: &V, reach: Reach) {
        if let (Some(bucket), Reach::Shared) = (self.inner.bucket.get(), reach) {
            bucket.put_record(key, record);
        }
    }

    /// Withdraws a record from other gateways.
    fn withdraw(&self, key: &RecordKey) {
        if let Some(bucket) = self.inner.bucket.get() {
            bucket.remove_record(key);
        }
    }

    /// Updates the lists of repositories after a change.
    fn update_lists(&self, key: &RecordKey, presence: Presence) {
        let lists = &self.inner.lists;
        match (key, presence) {
            (RecordKey::Manifest(key), Presence::Present) => {
                lists.note(&key.name, None);
            }
            (RecordKey::Manifest(_), Presence::Absent) => lists.clear(),
            (RecordKey::Public(key), presence) => {
                let public = matches!(presence, Presence::Present);
                lists.note(&key.name, Some(public));
            }
            (RecordKey::Blob(_) | RecordKey::Tag(_) | RecordKey::Extension(_), _) => {}
        }
    }
}

/// Removal by path, for the sweep and for purges.
impl RecordStore {
    /// Removes the record at a path from the store and the bucket. Blocks on the disk; [`RecordStore::sync`] makes it
    /// durable.
    ///
    /// # Errors
    /// When it cannot be removed; it counts as absent nevertheless.
    pub(crate) fn remove_now(&self, path: &str, key: Option<&RecordKey>) -> io::Result<()> {
        let inner = &self.inner;
        if let Some(key) = key {
            self.withdraw(key);
        }
        let locked = inner.files.lock(path);
        let removed = locked.remove();
        if let Some(key) = key {
            inner.generations.write(key, || inner.cache.remove(key));
            drop(locked);
            self.update_lists(key, Presence::Absent);
        }
        removed
    }

    /// Removes a record if it was last used before `cutoff`, in seconds since 1970; returns whether it did. Blocks on
    /// the disk.
    pub(crate) fn remove_unused(&self, path: &str, key: Option<&RecordKey>, cutoff: u64) -> bool {
        let inner = &self.inner;
        inner.files.remove_unused(path, cutoff, || {
            if let Some(key) = key {
                inner.generations.write(key, || inner.cache.remove(key));
            }
        })
    }

    /// Makes removals durable, given the folders of the removed files below the store's. Blocks on the disk.
    pub(crate) fn sync(&self, folders: &HashSet<&Path>) {
        self.inner.files.sync(folders);
    }
}

/// Encodes a record for the disk; `None` if it is too long.
fn encode<V: Record>(key: &RecordKey, record: Arc<V>) -> Option<Encoded<V>> {
    let json = serde_json::to_vec(record.as_ref()).ok()?;
    let max_bytes = key.max_bytes();
    if json.len() as u64 > max_bytes {
        let bytes = json.len();
        tracing::warn!(record = %key.path(), bytes, max_bytes, "a record is too long and is not stored");
        return None;
    }
    Some(Encoded { record, json })
}

fn warn_unless_removed(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        warn_degraded("a record cannot be removed", &error);
    }
}
