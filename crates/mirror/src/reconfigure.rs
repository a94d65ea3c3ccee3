//! Changes the registries while requests are served.
//!
//! A request keeps the [`Mirror`] that it began with. What outlives a change (the store, fills, what is remembered of
//! answers) is shared by both.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::caller::AdmittedCallers;
use super::deferred_moves::DeferredMoves;
use super::fallback::Fallback;
use super::origin::OriginState;
use super::{Mirror, MirrorState, Settings, catalogue};
use oci::name::Registry;
use runtime::single_flight::SingleFlight;
use upstream::SetUpError;

type Origins = BTreeMap<Registry, Arc<OriginState>>;

impl Mirror {
    /// The same mirror with other registries. A registry whose upstream is the same keeps its connections, logins, limits
    /// and health. Call [`Mirror::succeed`] once it is in use.
    ///
    /// # Errors
    /// If an upstream's client cannot be set up; nothing has changed then.
    pub fn reconfigured(
        &self,
        settings: Settings,
        fallback: Option<Arc<dyn Fallback>>,
    ) -> Result<Self, SetUpError> {
        let before = &*self.state;
        let mut origins = Origins::new();
        for settings in settings.origins {
            let known = before.origins.get(&settings.registry);
            let origin = OriginState::new(settings, known.map(|known| &**known))?;
            origins.insert(origin.registry().clone(), Arc::new(origin));
        }
        let is_changed = !changed(&before.origins, &origins).is_empty();
        let state = before.with(origins, fallback);
        let state = if is_changed {
            state.without_requests_in_flight()
        } else {
            state
        };
        Ok(Self {
            state: Arc::new(state),
        })
    }

    /// Forgets what `before` remembers of registries that have changed since, and of `others`, and drops their answers in
    /// flight.
    pub fn succeed(&self, before: &Self, others: &[Registry]) {
        let mut changed = changed(&before.state.origins, &self.state.origins);
        changed.extend_from_slice(others);
        if changed.is_empty() {
            return;
        }
        let state = &self.state;
        state.store.end_generations();
        state
            .missing
            .remove_where(|(name, ..)| changed.contains(&name.registry));
        state
            .list_generations
            .write_where(|name| changed.contains(&name.registry), || ());
        for (key, _) in &state.pages {
            if changed.contains(&key.0.registry) {
                state.pages.invalidate(&*key);
            }
        }
    }
}

impl MirrorState {
    /// The same with other registries.
    fn with(&self, origins: Origins, fallback: Option<Arc<dyn Fallback>>) -> Self {
        Self {
            contents: self.contents.clone(),
            store: self.store.clone(),
            origins,
            fallback,
            missing: self.missing.clone(),
            gate: self.gate.without_verdicts(),
            pages: self.pages.clone(),
            list_generations: self.list_generations.clone(),
            page_requests: self.page_requests.clone(),
            tag_requests: self.tag_requests.clone(),
            deferred_moves: self.deferred_moves.clone(),
            callers: self.callers.clone(),
            names: self.names.clone(),
            name_requests: self.name_requests.clone(),
            manifest_requests: self.manifest_requests.clone(),
            blob_requests: self.blob_requests.clone(),
            public_checks: self.public_checks.clone(),
        }
    }

    /// The same where no request joins one that was sent before a registry changed, and no caller counts as admitted.
    fn without_requests_in_flight(self) -> Self {
        Self {
            page_requests: SingleFlight::default(),
            tag_requests: SingleFlight::default(),
            deferred_moves: DeferredMoves::new(),
            callers: AdmittedCallers::new(),
            names: catalogue::name_cache(),
            name_requests: SingleFlight::default(),
            manifest_requests: SingleFlight::default(),
            blob_requests: SingleFlight::default(),
            public_checks: SingleFlight::default(),
            ..self
        }
    }
}

/// The registries whose former answers no longer hold: they are gone, or have another upstream.
fn changed(before: &Origins, after: &Origins) -> Vec<Registry> {
    let is_changed = |(registry, origin): &(&Registry, &Arc<OriginState>)| {
        let same = after.get(*registry);
        !same.is_some_and(|same| same.shares_answers(origin))
    };
    let changed = before.iter().filter(is_changed);
    changed.map(|(registry, _)| registry.clone()).collect()
}
