//! Origins: the registries whose content is mirrored, each as one caller may ask it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::caller::CallerKey;
use super::freshness::{WaitLimits, is_fresh, unix_seconds};
use super::manifest::UNCACHED_DEADLINE;
use super::{Mirror, MirrorError};
use ::gate::Gate;
use access::{ForwardedAuthorization, Permit};
use oci::name::Registry;
use telemetry::metrics;
use upstream::{SetUpError, Upstream, UpstreamError};

/// The settings of one registry.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    /// The configured name.
    pub registry: Registry,
    /// `None` where clients get only the fallback's content.
    pub upstream: Option<upstream::Settings>,
    /// How long a tag is fresh.
    pub tag_ttl: Duration,
    /// How long a 404 is remembered.
    pub missing_ttl: Duration,
    /// How long a link is fresh; after that it is revalidated behind the answer.
    pub link_ttl: Duration,
    /// The age up to which a stale tag is served while the upstream is unavailable; `None`: any age.
    pub max_stale: Option<Duration>,
    /// How long a request for a cached tag waits for the upstream before the stale tag is served.
    pub stale_after: Duration,
    /// The right to read that decides what is served: the account's or the caller's.
    pub content_scope: ContentScope,
    /// Whether the cache may answer a HEAD.
    pub heads: HeadPolicy,
    /// The most connections of one fill.
    pub connections_per_fill: u32,
    /// Which content is served; `None`: all.
    pub gate: Option<Arc<Gate>>,
}

/// Which content of a registry is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentScope {
    /// All that the gateway's account may read.
    Account,
    /// Only what an anonymous client may read, though the gateway's account may read more.
    PublicOnly,
    /// What the caller may read: the registry is asked with the caller's login, never with the gateway's.
    Caller,
}

/// How a HEAD of cached content is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPolicy {
    /// From the cache.
    Cached,
    /// By the upstream, each time: a pusher skips the upload of content that a HEAD finds, and the upstream may have
    /// lost it.
    Revalidated,
}

/// A registry with its client, shared by all requests.
#[derive(Debug)]
pub(super) struct OriginState {
    registry: Registry,
    upstream: Option<Upstream>,
    /// What `upstream` was made with.
    upstream_settings: Option<upstream::Settings>,
    tag_ttl: Duration,
    missing_ttl: Duration,
    link_ttl: Duration,
    max_stale: Option<Duration>,
    stale_after: Duration,
    content_scope: ContentScope,
    heads: HeadPolicy,
    connections_per_fill: u32,
    gate: Option<Arc<Gate>>,
    /// When something was last written through this node, in seconds since 1970: peers' older records may be outdated.
    written_at: Arc<AtomicU64>,
}

impl OriginState {
    /// `before` is the registry before a change of the configuration: if its upstream is the same, its connections, logins,
    /// limits and health remain.
    ///
    /// # Errors
    /// When the upstream's client cannot be set up.
    pub fn new(settings: OriginSettings, before: Option<&Self>) -> Result<Self, SetUpError> {
        if let Some(gate) = &settings.gate {
            let (registry, mode) = (settings.registry.as_str(), gate.mode().as_str());
            for rule in gate.rules() {
                metrics::with_gate(registry, rule.as_str(), mode);
            }
        }
        let same = before.filter(|before| before.upstream_settings == settings.upstream);
        let upstream = match same {
            Some(same) => same.upstream.clone(),
            None => settings.upstream.clone().map(Upstream::new).transpose()?,
        };
        Ok(Self {
            registry: settings.registry,
            upstream,
            upstream_settings: settings.upstream,
            tag_ttl: settings.tag_ttl,
            missing_ttl: settings.missing_ttl,
            link_ttl: settings.link_ttl,
            max_stale: settings.max_stale,
            stale_after: settings.stale_after,
            content_scope: settings.content_scope,
            heads: settings.heads,
            connections_per_fill: settings.connections_per_fill,
            gate: settings.gate,
            written_at: before.map_or_else(Arc::default, |before| before.written_at.clone()),
        })
    }

    /// Whether answers of the other one, of the same name, hold for this one too.
    pub fn shares_answers(&self, other: &Self) -> bool {
        self.upstream_settings == other.upstream_settings
            && self.content_scope == other.content_scope
            // Lists are cached as the rules of a gate leave them.
            && self.gate.is_none()
            && other.gate.is_none()
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn content_scope(&self) -> ContentScope {
        self.content_scope
    }

    pub fn is_per_caller(&self) -> bool {
        self.content_scope == ContentScope::Caller
    }

    /// Scheme and authority of the upstream, for the log.
    pub fn upstream_name(&self) -> Option<&str> {
        self.upstream.as_ref().map(Upstream::origin)
    }

    /// The client of the upstream, with the gateway's account.
    pub fn client(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }

    /// How long a tag is fresh by the pulls that are left at `now`.
    pub fn tag_ttl_at(&self, now: Instant) -> Duration {
        let pulls = self.upstream.as_ref().and_then(|one| one.pulls(now));
        pulls.map_or(self.tag_ttl, |pulls| {
            pulls.stretch(self.tag_ttl, self.max_stale)
        })
    }

    /// Notes a write or purge at `now`: peers' older records are no longer accepted.
    pub fn record_write(&self, now: SystemTime) {
        self.written_at
            .fetch_max(unix_seconds(now), Ordering::SeqCst);
    }
}

/// A registry as one caller may ask it: with the gateway's account, or with the caller's own login. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct OriginView {
    origin: Arc<OriginState>,
    /// Of a registry that decides for each caller.
    caller: Option<Arc<CallerOrigin>>,
}

/// A caller's own way to a registry.
#[derive(Debug)]
struct CallerOrigin {
    key: CallerKey,
    /// The registry's client, with the caller's `Authorization`.
    upstream: Option<Upstream>,
}

impl OriginView {
    /// The registry as the gateway's account sees it.
    pub fn of_account(origin: Arc<OriginState>) -> Self {
        let caller = None;
        Self { origin, caller }
    }

    /// The registry as one caller sees it. An answer to a caller is not cached for longer than the request.
    fn of_caller(
        origin: Arc<OriginState>,
        forwarded: &ForwardedAuthorization,
        key: CallerKey,
    ) -> Self {
        let upstream = origin.upstream.as_ref();
        let upstream = upstream.map(|upstream| upstream.for_caller(forwarded.value().cloned()));
        Self {
            origin,
            caller: Some(Arc::new(CallerOrigin { key, upstream })),
        }
    }

    pub fn registry(&self) -> &Registry {
        &self.origin.registry
    }

    pub fn content_scope(&self) -> ContentScope {
        self.origin.content_scope
    }

    pub fn heads(&self) -> HeadPolicy {
        self.origin.heads
    }

    pub fn connections_per_fill(&self) -> u32 {
        self.origin.connections_per_fill
    }

    /// Which content is served; `None`: all.
    pub fn gate(&self) -> Option<&Gate> {
        self.origin.gate.as_deref()
    }

    /// The caller, where the registry decides for each.
    pub fn caller_key(&self) -> Option<CallerKey> {
        self.caller.as_ref().map(|caller| caller.key)
    }

    pub fn is_per_caller(&self) -> bool {
        self.origin.is_per_caller()
    }

    /// See [`OriginState::record_write`].
    pub fn record_write(&self, now: SystemTime) {
        self.origin.record_write(now);
    }

    pub fn has_upstream(&self) -> bool {
        self.origin.upstream.is_some()
    }

    /// The client of the upstream.
    ///
    /// # Errors
    /// [`UpstreamError::NotFound`] where the registry has a fallback only.
    pub fn upstream(&self) -> Result<&Upstream, UpstreamError> {
        let upstream = match &self.caller {
            Some(caller) => &caller.upstream,
            None => &self.origin.upstream,
        };
        upstream.as_ref().ok_or(UpstreamError::NotFound)
    }

    /// How long a tag is fresh at least.
    pub fn tag_ttl(&self) -> Duration {
        self.unless_per_caller(self.origin.tag_ttl)
    }

    /// How long a tag is fresh by the pulls that are left at `now`: the fewer there are, the longer.
    pub fn tag_ttl_at(&self, now: Instant) -> Duration {
        self.unless_per_caller(self.origin.tag_ttl_at(now))
    }

    /// Whether a pull may be spent at `now` to replace what is cached by something newer.
    pub fn allows_replacing(&self, now: Instant) -> bool {
        let pulls = self.upstream().ok().and_then(|one| one.pulls(now));
        pulls.is_none_or(|pulls| pulls.allow_replacing())
    }

    pub fn missing_ttl(&self) -> Duration {
        self.unless_per_caller(self.origin.missing_ttl)
    }

    pub fn link_ttl(&self) -> Duration {
        self.origin.link_ttl
    }

    /// The age up to which a stale answer is served; `None`: any age.
    pub fn max_stale(&self) -> Option<Duration> {
        match self.caller {
            Some(_) => Some(Duration::ZERO),
            None => self.origin.max_stale,
        }
    }

    /// How long a request waits for the upstream.
    pub fn wait_limits(&self) -> WaitLimits {
        WaitLimits {
            with_known: self.origin.stale_after,
            without_known: UNCACHED_DEADLINE,
        }
    }

    /// Whether a peer's record is accepted that was checked at a given time: if it is fresh by `ttl`, not from the
    /// future, and from after the last write through this node.
    pub fn accepts_peer_record(&self, ttl: Duration) -> impl Fn(u64) -> bool + use<> {
        let written_at = self.origin.written_at.load(Ordering::SeqCst);
        move |checked_at| checked_at > written_at && is_fresh(checked_at, ttl, SystemTime::now())
    }

    fn unless_per_caller(&self, ttl: Duration) -> Duration {
        if self.caller.is_some() {
            Duration::ZERO
        } else {
            ttl
        }
    }
}

impl Mirror {
    /// The registry of a permit, as its bearer may ask it.
    pub(super) fn origin(&self, permit: &Permit) -> Result<OriginView, MirrorError> {
        self.origin_for(permit.registry(), permit.forwarded())
    }

    /// A registry as the sender of `forwarded` may ask it.
    pub(super) fn origin_for(
        &self,
        registry: &Registry,
        forwarded: Option<&ForwardedAuthorization>,
    ) -> Result<OriginView, MirrorError> {
        let state = &self.state;
        let origin = state.origins.get(registry).ok_or(MirrorError::NotServed)?;
        match forwarded {
            None if !origin.is_per_caller() => Ok(OriginView::of_account(origin.clone())),
            Some(forwarded) if origin.is_per_caller() => {
                let key = state.callers.caller_key(forwarded);
                Ok(OriginView::of_caller(origin.clone(), forwarded, key))
            }
            _ => Err(MirrorError::NotServed),
        }
    }
}
