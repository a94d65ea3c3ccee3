//! `/api/v1/pins`: images that are never evicted. Their list is a file of the store; what they lead to is looked up
//! again every minute.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::audit::OperatorRequest;
use super::error::{Problem, ProblemCode};
use super::query::Parameters;
use super::report::Page;
use super::time::rfc3339;
use super::{Admin, CurrentAdmin, api, target};
use events::EventAction;
use mirror::ImageReference;
use oci::name::{Reference, Registry, RepositoryName};
use store::{HeldImages, PurgeTarget, Store};

/// The state file of the list.
const FILE: &str = "pins.json";
/// The most pinned images: all of them are looked up every minute.
const MOST: usize = 1000;
/// The longest note, in characters.
const LONGEST_NOTE: usize = 200;
/// The longest interval between two looks at what the images lead to.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// The body of `POST /api/v1/pins`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// An image, as `roadstead warm` takes it.
    pub image: String,
    /// Why it is pinned.
    #[serde(default)]
    pub note: String,
}

/// An item of `GET /api/v1/pins`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// `registry/repository:tag` or `…@digest`
    pub image: String,
    /// RFC 3339
    pub pinned_at: String,
    /// What the operator wrote.
    pub note: String,
    /// The size of the image, as far as it is known, in bytes.
    pub total_bytes: u64,
    /// How much of it is stored.
    pub cached_bytes: u64,
}

/// A pinned image, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PinRecord {
    registry: String,
    repository: String,
    /// A tag or a digest.
    reference: String,
    pinned_at: String,
    note: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PinnedImage {
    image: ImageReference,
    pinned_at: String,
    note: String,
}

/// By the image as the API writes it.
type PinnedImages = BTreeMap<String, PinnedImage>;

/// The pinned images, and the blobs that are held for them.
#[derive(Debug)]
pub(super) struct Pins {
    store: Arc<Store>,
    list: Mutex<PinList>,
}

#[derive(Debug, Default)]
struct PinList {
    images: PinnedImages,
    held: HeldImages,
}

impl Pins {
    /// Reads the list. Blocks on the disk.
    pub fn open(store: Arc<Store>) -> Self {
        let records: Vec<PinRecord> = store.read_state(FILE).unwrap_or_default();
        let stored = records.len();
        let images = records.into_iter().filter_map(PinnedImage::of);
        let images: PinnedImages = images
            .map(|pinned| (pinned.image.to_string(), pinned))
            .collect();
        if images.len() < stored {
            store.set_state_aside(FILE, &"an entry names no image, or one twice");
            if let Err(error) = write(&store, &images) {
                store::warn_degraded("the list of pinned images cannot be written", &error);
            }
        }
        let list = PinList {
            images,
            held: HeldImages::default(),
        };
        let pins = Self {
            store,
            list: Mutex::new(list),
        };
        pins.refresh();
        pins
    }

    /// The bytes of all pinned content.
    pub fn bytes(&self) -> u64 {
        self.list().held.bytes()
    }

    /// Whether an image is pinned.
    pub fn contains(&self, image: &str) -> bool {
        self.list().images.contains_key(image)
    }

    /// Whether any image of a repository is pinned.
    pub fn any_of(&self, name: &RepositoryName) -> bool {
        let list = self.list();
        list.images
            .values()
            .any(|pinned| pinned.image.name == *name)
    }

    /// Looks up what the images lead to now. Blocks on the disk.
    pub fn refresh(&self) {
        let images: Vec<ImageReference> = {
            let list = self.list();
            list.images.values().map(|one| one.image.clone()).collect()
        };
        let held = self
            .store
            .hold(images.iter().map(|image| (&image.name, &image.reference)));
        let mut list = self.list();
        let is_current = list.images.values().map(|one| &one.image).eq(images.iter());
        // Otherwise whoever changed the list refreshes it.
        if is_current {
            let before = std::mem::replace(&mut list.held, held);
            drop(list);
            drop(before);
        }
    }

    /// Changes the list, on disk first. Blocks on the disk.
    fn change(&self, change: impl FnOnce(&mut PinnedImages)) -> io::Result<()> {
        let mut list = self.list();
        let mut images = list.images.clone();
        change(&mut images);
        if images == list.images {
            return Ok(());
        }
        write(&self.store, &images)?;
        list.images = images;
        drop(list);
        self.refresh();
        Ok(())
    }

    /// Removes the pins of what a purge has removed. Blocks on the disk.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub fn remove_purged(&self, target: &PurgeTarget) -> io::Result<()> {
        // What is held counts as taken until it is let go, also if it is gone.
        let held = std::mem::take(&mut self.list().held);
        drop(held);
        let changed =
            self.change(|images| images.retain(|_, pinned| !is_purged(&pinned.image, target)));
        self.refresh();
        changed
    }

    fn page(&self, limit: usize, after: Option<&str>) -> Page<Pin> {
        let list = self.list();
        let images = list.images.iter().enumerate();
        let is_after = |image: &str| after.is_none_or(|after| image > after);
        let mut items = images.filter(|(_, (image, _))| is_after(image));
        let page: Vec<Pin> = items
            .by_ref()
            .take(limit)
            .map(|(index, (_, pinned))| pinned.item(index, &list.held))
            .collect();
        let has_more = items.next().is_some();
        let end = page.last().filter(|_| has_more);
        Page {
            next: end.map(|pin| pin.image.clone()),
            items: page,
            total: Some(list.images.len() as u64),
        }
    }

    fn list(&self) -> MutexGuard<'_, PinList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admin {
    /// # Errors
    /// 400 for a wrong `limit`.
    pub(super) fn pinned(&self, parameters: &Parameters) -> Result<Page<Pin>, Problem> {
        let (limit, after) = (parameters.limit()?, parameters.text("after"));
        Ok(self.pins.page(limit, after))
    }

    /// # Errors
    /// 400 for a body that names no image, 404 for one that is not stored, 503 if the disk refuses.
    pub(super) async fn pin(
        self: Arc<Self>,
        operator: OperatorRequest,
        body: Incoming,
    ) -> Result<Pin, Problem> {
        let invalid = |detail| Problem::new(ProblemCode::InvalidBody, detail);
        let request: PinRequest = api::read(body).await?;
        let image = target::image(&request.image, &self.settings.resolver)
            .map_err(|error| invalid(error.to_string()))?;
        if request.note.chars().count() > LONGEST_NOTE {
            let detail = format!("the note is longer than {LONGEST_NOTE} characters");
            return Err(invalid(detail));
        }
        let work = tokio::task::spawn_blocking(move || {
            let name = image.to_string();
            if !self.store.has_image(&image.name, &image.reference) {
                let detail = format!("{name} is not in the cache; warm it first");
                return Err(Problem::new(ProblemCode::NotFound, detail));
            }
            if self.pins.list().images.len() >= MOST {
                return Err(invalid(format!("{MOST} images are pinned already")));
            }
            let pinned = PinnedImage {
                image,
                pinned_at: rfc3339(SystemTime::now()),
                note: request.note,
            };
            let changed = self.pins.change(|images| {
                images.insert(name.clone(), pinned);
            });
            changed.map_err(|error| failed(&error))?;
            tracing::info!(image = name, "pinned");
            self.audit(operator, EventAction::Pin, Some(&name));
            self.pins.item(&name)
        });
        work.await.unwrap_or_else(|_| Err(internal()))
    }

    /// # Errors
    /// 400 without an image, 404 for one that is not pinned, 503 if the disk refuses.
    pub(super) async fn unpin(
        self: Arc<Self>,
        operator: OperatorRequest,
        parameters: &Parameters,
    ) -> Result<(), Problem> {
        let name = parameters.required("image")?.to_owned();
        let work = tokio::task::spawn_blocking(move || {
            if !self.pins.contains(&name) {
                let detail = format!("{name} is not pinned");
                return Err(Problem::new(ProblemCode::NotFound, detail));
            }
            let changed = self.pins.change(|images| drop(images.remove(&name)));
            changed.map_err(|error| failed(&error))?;
            tracing::info!(image = name, "unpinned");
            self.audit(operator, EventAction::Unpin, Some(&name));
            Ok(())
        });
        work.await.unwrap_or_else(|_| Err(internal()))
    }

    /// Looks up for ever what the pinned images lead to.
    pub async fn keep_pins(current: CurrentAdmin) {
        let every = current.borrow().store.hold_every().min(REFRESH_EVERY);
        loop {
            let admin = current.borrow().clone();
            let _ = tokio::task::spawn_blocking(move || admin.pins.refresh()).await;
            tokio::time::sleep(every).await;
        }
    }
}

/// Writes the list. Blocks on the disk.
fn write(store: &Store, images: &PinnedImages) -> io::Result<()> {
    let records: Vec<PinRecord> = images.values().map(PinRecord::of).collect();
    store.write_state(FILE, &serde_json::to_vec_pretty(&records)?)
}

fn failed(error: &io::Error) -> Problem {
    let detail = format!("the list of pinned images cannot be written: {error}");
    Problem::new(ProblemCode::StoreFailed, detail)
}

fn internal() -> Problem {
    Problem::new(ProblemCode::InternalError, "the task has ended")
}

impl Pins {
    fn item(&self, name: &str) -> Result<Pin, Problem> {
        let list = self.list();
        let found = list
            .images
            .iter()
            .enumerate()
            .find(|(_, (one, _))| *one == name);
        let (index, (_, pinned)) = found.ok_or_else(internal)?;
        Ok(pinned.item(index, &list.held))
    }
}

impl PinnedImage {
    fn of(record: PinRecord) -> Option<Self> {
        let repository = record.repository.parse().ok()?;
        let name = RepositoryName::new(&Registry::new(&record.registry), &repository);
        let tag = record.reference.parse().ok().map(Reference::Tag);
        let digest = record.reference.parse().ok().map(Reference::Digest);
        Some(Self {
            image: ImageReference {
                name,
                reference: digest.or(tag)?,
            },
            pinned_at: record.pinned_at,
            note: record.note,
        })
    }

    fn item(&self, index: usize, held: &HeldImages) -> Pin {
        let size = held.size(index);
        Pin {
            image: self.image.to_string(),
            pinned_at: self.pinned_at.clone(),
            note: self.note.clone(),
            total_bytes: size.total,
            cached_bytes: size.stored,
        }
    }
}

impl PinRecord {
    fn of(pinned: &PinnedImage) -> Self {
        let ImageReference { name, reference } = &pinned.image;
        Self {
            registry: name.registry.to_string(),
            repository: name.repository.to_string(),
            reference: reference.to_string(),
            pinned_at: pinned.pinned_at.clone(),
            note: pinned.note.clone(),
        }
    }
}

/// Whether a purge removes this image.
fn is_purged(image: &ImageReference, target: &PurgeTarget) -> bool {
    match (target, &image.reference) {
        (PurgeTarget::Registry(_) | PurgeTarget::Repository(_), _) => target.concerns(&image.name),
        (PurgeTarget::Tag(name, tag), Reference::Tag(own)) => *name == image.name && tag == own,
        (PurgeTarget::Content(name, digest), Reference::Digest(own)) => {
            *name == image.name && digest == own
        }
        (PurgeTarget::Everywhere(digest), Reference::Digest(own)) => digest == own,
        (PurgeTarget::Tag(..), Reference::Digest(_))
        | (PurgeTarget::Content(..) | PurgeTarget::Everywhere(_), Reference::Tag(_)) => false,
    }
}

#[cfg(test)]
#[path = "pins_tests.rs"]
mod tests;
