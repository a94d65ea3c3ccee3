//! The dry run of a manifest by its tag.

use std::time::Duration;

use super::{DryManifest, DryRun, RequestReason};
use crate::MirrorError;
use crate::error::ResourceKind;
use crate::freshness::{
    CheckedAnswer, Freshness, KnownAnswer, Stale, fresh_for, stale_age, stale_or_error,
};
use crate::gate::Via;
use crate::manifest::{ReadMethod, negative_key};
use oci::digest::Digest;
use oci::manifest::{AcceptClass, default_image, is_index, is_signed_schema1};
use oci::name::{Reference, Tag};
use oci::v2::Resource;
use store::{Pointer, TagKey};
use upstream::{ManifestHead, Read};

/// What the cache has of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTag {
    /// The clients that share the pointer.
    pub class: AcceptClass,
    /// Where it points, if that is stored.
    pub pointer: Option<Pointer>,
    /// Whether it is trusted.
    pub freshness: TagFreshness,
    /// How long a pointer is trusted, by the pulls that are left.
    pub ttl: Duration,
}

/// Whether a tag's pointer is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagFreshness {
    /// For so long.
    Fresh(Duration),
    /// For so long, since few pulls are left.
    Stretched(Duration),
    /// It has this age, and is served if the upstream cannot be asked.
    Stale(Duration),
    /// It is too old to be served without the upstream.
    Expired,
    /// None is stored.
    Absent,
    /// The upstream's 404 is remembered.
    NotFound,
}

/// Where a tag points, as far as it is known.
#[derive(Clone, Debug)]
struct Target {
    pointer: Option<Pointer>,
    /// The manifest has been fetched with the tag.
    is_fetched: bool,
}

impl Target {
    const fn of(pointer: Option<Pointer>) -> Self {
        Self {
            pointer,
            is_fetched: false,
        }
    }

    /// The pointer, if its manifest has not been fetched with the tag.
    fn unfetched(&self) -> Option<&Pointer> {
        self.pointer.as_ref().filter(|_| !self.is_fetched)
    }
}

impl DryRun {
    /// What the cache has of a tag.
    pub fn known_tag(&self, tag: &Tag, class: AcceptClass) -> KnownTag {
        let class = class.request_class();
        let key = TagKey::new(self.name(), class, tag);
        let pointer = self.inspect(&key).map(|found| found.value);
        let (tag_ttl, max_stale) = (self.origin.tag_ttl(), self.origin.max_stale());
        let ttl = self.origin.tag_ttl_at(self.instant);
        let freshness = match &pointer {
            None if self.remembers_not_found(tag, class) => TagFreshness::NotFound,
            None => TagFreshness::Absent,
            Some(known) => {
                let at = known.checked_at;
                let fresh = fresh_for(at, tag_ttl, self.now).map(TagFreshness::Fresh);
                let stretched = || {
                    let left = fresh_for(at, ttl, self.now);
                    let left = left.filter(|_| self.is_manifest_stored(&known.digest));
                    left.map(TagFreshness::Stretched)
                };
                let stale = || stale_age(at, max_stale, self.now);
                let stale = || stale().map_or(TagFreshness::Expired, TagFreshness::Stale);
                fresh.or_else(stretched).unwrap_or_else(stale)
            }
        };
        KnownTag {
            class,
            pointer,
            freshness,
            ttl,
        }
    }

    /// The manifest that a tag points at, for clients of a class.
    ///
    /// # Errors
    /// The error of such a read.
    pub fn manifest_by_tag(
        &mut self,
        tag: &Tag,
        class: AcceptClass,
        method: ReadMethod,
    ) -> Result<DryManifest, MirrorError> {
        self.admit(&Resource::Manifest(Reference::Tag(tag.clone())))?;
        let answer = match self.pinned(tag) {
            Some(digest) => self.pinned_manifest(&digest)?,
            None => self.read_tag(tag, class, method)?,
        };
        let is_list = answer.media_type.as_deref().is_some_and(is_index);
        if class == AcceptClass::NoList && is_list {
            let image = answer.bytes.as_deref().and_then(default_image);
            if let Some(image) = image {
                let gated = self.judge_manifest(&image, Via::default())?;
                let image = self.linked_manifest(&image)?;
                return Ok(DryManifest {
                    cache: answer.cache.or(image.cache),
                    stale: answer.stale,
                    gate: gated.outcome,
                    ..image
                });
            }
        }
        Ok(answer)
    }

    /// The manifest or index that a tag points at.
    fn read_tag(
        &mut self,
        tag: &Tag,
        class: AcceptClass,
        method: ReadMethod,
    ) -> Result<DryManifest, MirrorError> {
        let before = self.known_digest(tag, class);
        let checked = self.resolve(tag, class.request_class())?;
        let (cache, stale) = (checked.cache_status(), checked.freshness.stale());
        let Target {
            pointer,
            is_fetched,
        } = checked.answer;
        let Some(pointer) = pointer else {
            if !is_fetched && method == ReadMethod::Get {
                self.fetch_unknown(tag, class)?;
            }
            return Ok(DryManifest {
                digest: None,
                media_type: None,
                bytes: None,
                cache,
                stale,
                gate: self.judge_unknown(tag)?,
            });
        };
        let asked = (tag, class.request_class());
        let (answered, gated) = self.judge_tag(asked, pointer.digest, before)?;
        if answered != pointer.digest {
            return self.held_back(&answered, gated, (cache, stale));
        }
        let mut answer = DryManifest {
            digest: Some(pointer.digest),
            media_type: Some(pointer.media_type.clone()),
            bytes: None,
            cache,
            stale,
            gate: gated.outcome,
        };
        if !is_fetched && (method == ReadMethod::Get || pointer.size.is_none()) {
            let by_digest = self.linked_manifest(&pointer.digest)?;
            answer.bytes = by_digest.bytes;
            answer.cache = answer.cache.or(by_digest.cache);
        }
        Ok(answer)
    }

    /// Where a tag points as far as the cache knows.
    pub(super) fn known_digest(&self, tag: &Tag, class: AcceptClass) -> Option<Digest> {
        let known = self.known_tag(tag, class).pointer;
        known.map(|pointer| pointer.digest)
    }

    /// Where a tag points once it is resolved, as far as that is known.
    ///
    /// # Errors
    /// The error of such a read.
    pub(super) fn target(
        &mut self,
        tag: &Tag,
        class: AcceptClass,
    ) -> Result<Option<Digest>, MirrorError> {
        let target = self.resolve(tag, class)?.answer.pointer;
        Ok(target.map(|pointer| pointer.digest))
    }

    /// Where a tag points, as `Mirror::resolve_tag` finds it.
    fn resolve(
        &mut self,
        tag: &Tag,
        class: AcceptClass,
    ) -> Result<CheckedAnswer<Target>, MirrorError> {
        let KnownTag {
            pointer, freshness, ..
        } = self.known_tag(tag, class);
        if self.origin.caller_key().is_some() {
            return self.resolve_for_caller(tag, class);
        }
        if let (TagFreshness::Fresh(left), Some(known)) = (freshness, &pointer)
            && self.is_available_by_digest(known)
        {
            return Ok(from_cache(pointer, Freshness::Fresh { left }));
        }
        if let (TagFreshness::Stretched(left), Some(_)) = (freshness, &pointer) {
            return Ok(from_cache(pointer, Freshness::Stretched { left }));
        }
        if self.remembers_not_found(tag, class) {
            return Err(ResourceKind::Manifest.remembered_unknown());
        }
        let age = pointer.as_ref().map(|known| {
            let age = stale_age(known.checked_at, None, self.now);
            age.unwrap_or_default()
        });
        let usable = pointer.clone().and_then(|known| {
            let age = stale_age(known.checked_at, self.origin.max_stale(), self.now)?;
            let answer = Target::of(Some(known));
            Some(KnownAnswer { answer, age })
        });
        let reason = age.map_or(RequestReason::TagUnknown, RequestReason::TagStale);
        let replaced = pointer
            .as_ref()
            .filter(|known| usable.is_some() && self.is_manifest_stored(&known.digest));
        if let (Some(replaced), Some(KnownAnswer { age, .. })) = (replaced, &usable) {
            let moved = (TagKey::new(self.name(), class, tag), replaced.digest);
            let deferred = self.state.deferred_moves.reason(&moved, self.instant);
            if let Some(reason) = deferred {
                let stale = Freshness::Stale(Stale { age: *age, reason });
                return Ok(from_cache(pointer, stale));
            }
        }
        let asked = self.ask_tag(tag, class, pointer.as_ref(), reason);
        let followed = asked.and_then(|target| {
            self.plan_move(tag, replaced, target.unfetched())?;
            Ok(target)
        });
        match followed {
            Ok(target) => Ok(CheckedAnswer {
                freshness: compare(pointer.as_ref(), target.pointer.as_ref()),
                answer: target,
                collapsed: false,
            }),
            Err(error) => stale_or_error(usable, error.stale_reason(), error),
        }
    }

    /// What the upstream would answer: the HEAD that an operator has sent, else what is known.
    fn ask_tag(
        &mut self,
        tag: &Tag,
        class: AcceptClass,
        known: Option<&Pointer>,
        reason: RequestReason,
    ) -> Result<Target, MirrorError> {
        let reference = Reference::Tag(tag.clone());
        match self.send(Read::ManifestHead(&reference, class), reason, None) {
            Err(MirrorError::Unknown { .. }) => return self.ask_fallback(tag, class, known),
            sent => sent?,
        }
        let pointer = match self.said_of(&reference, class) {
            Some(Err(MirrorError::Unknown { .. })) => {
                return self.ask_fallback(tag, class, known);
            }
            Some(head) => pointer_of(head?, known),
            None if known.is_some_and(|known| self.is_converted(&known.digest)) => {
                return self.ask_fallback(tag, class, known);
            }
            None => known.cloned(),
        };
        // A manifest that the registry generates for schema 1 clients exists under its tag alone.
        let is_by_tag = match &pointer {
            Some(pointer) => !self.is_available_by_digest(pointer),
            None => class == AcceptClass::Schema1,
        };
        if is_by_tag {
            let size = pointer.as_ref().and_then(|pointer| pointer.size);
            let read = Read::Manifest(&reference, class);
            self.send(read, RequestReason::ByTagAlone, size)?;
            let fetched = pointer.iter().map(|pointer| pointer.digest);
            self.fetched.extend(fetched);
        }
        self.linked
            .extend(pointer.iter().map(|pointer| pointer.digest));
        Ok(Target {
            pointer,
            is_fetched: is_by_tag,
        })
    }

    /// What the fallback would answer after the upstream's 404.
    fn ask_fallback(
        &mut self,
        tag: &Tag,
        class: AcceptClass,
        known: Option<&Pointer>,
    ) -> Result<Target, MirrorError> {
        let unknown = MirrorError::Unknown {
            kind: ResourceKind::Manifest,
            remembered: false,
        };
        if class == AcceptClass::Schema1 {
            return Err(unknown);
        }
        let fallback = self.state.fallback(&self.origin).cloned();
        let planned = fallback.and_then(|fallback| fallback.plan_tag(self.name(), tag));
        match planned.ok_or(unknown)? {
            Ok(request) => self.requests.push(request),
            Err(error) => return Err(error),
        }
        let converted = known.filter(|known| self.is_converted(&known.digest));
        self.linked.extend(converted.map(|known| known.digest));
        Ok(Target {
            pointer: converted.cloned(),
            // What would be fetched to convert it is not known.
            is_fetched: converted.is_none(),
        })
    }

    /// A registry that decides for each caller is asked for each tag, with the caller's login.
    fn resolve_for_caller(
        &mut self,
        tag: &Tag,
        class: AcceptClass,
    ) -> Result<CheckedAnswer<Target>, MirrorError> {
        let reason = RequestReason::CallerCheck;
        let target = self.ask_tag(tag, class, None, reason)?;
        self.is_admitted = true;
        Ok(CheckedAnswer {
            answer: target,
            freshness: Freshness::Revalidated,
            collapsed: false,
        })
    }

    /// Plans the GET of a manifest whose digest only the registry knows.
    fn fetch_unknown(&mut self, tag: &Tag, class: AcceptClass) -> Result<(), MirrorError> {
        let reference = Reference::Tag(tag.clone());
        let read = Read::Manifest(&reference, class.request_class());
        self.send(read, RequestReason::TargetUnknown, None)?;
        if let Some(request) = self.requests.last_mut() {
            let end = request.url.len() - tag.as_str().len();
            request.url.replace_range(end.., "sha256:…");
        }
        Ok(())
    }

    fn remembers_not_found(&self, tag: &Tag, class: AcceptClass) -> bool {
        let reference = Reference::Tag(tag.clone());
        let missing = negative_key(self.name(), &reference, class);
        self.state.missing.contains(&missing)
    }

    /// As `MirrorState::is_available_by_digest`.
    fn is_available_by_digest(&self, pointer: &Pointer) -> bool {
        if !is_signed_schema1(&pointer.media_type) {
            return true;
        }
        self.is_manifest_stored(&pointer.digest)
    }

    fn is_converted(&self, digest: &Digest) -> bool {
        let fallback = self.state.fallback(&self.origin);
        fallback.is_some_and(|fallback| fallback.plan_content(self.name(), digest).is_some())
    }
}

/// The answer of a cached pointer.
fn from_cache(pointer: Option<Pointer>, freshness: Freshness) -> CheckedAnswer<Target> {
    CheckedAnswer {
        answer: Target::of(pointer),
        freshness,
        collapsed: false,
    }
}

/// The pointer that a HEAD names; `None` if it does not name the digest or the type.
fn pointer_of(head: ManifestHead, known: Option<&Pointer>) -> Option<Pointer> {
    Some(Pointer {
        digest: head.digest?,
        media_type: head.media_type?,
        size: head.size,
        checked_at: known.map_or(0, |known| known.checked_at),
    })
}

/// How a new answer relates to the known one.
fn compare(known: Option<&Pointer>, found: Option<&Pointer>) -> Freshness {
    match (known, found) {
        (Some(known), Some(found)) if known.digest == found.digest => Freshness::Revalidated,
        (Some(_), Some(_)) => Freshness::Moved,
        _ => Freshness::Fetched,
    }
}
