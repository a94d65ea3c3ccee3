//! Explains pulls by v1 clients.

use std::time::SystemTime;

use super::super::explain::{
    ApiVersion, ExplainedPart, ExplainedPull, PullQuestion, PullSource, Routed, SpokenBecause,
};
use super::super::resolver::ResolveError;
use super::super::route::unknown_path;
use super::super::table::RequestParts;
use super::super::target::RequestTarget;
use super::super::{AppState, Gateway};
use super::route::{V1Route, route};
use ::v1::{PlannedImage, V1Source};
use access::Permit;
use mirror::{DryRun, MirrorError, PlannedRequest};
use oci::name::Reference;
use oci::v1::plain;
use oci::v2::{Query, Resource};
use oci::v2_to_v1::ClientPlatform;

/// Routes the first request of a pull by a v1 client: for the list of images.
///
/// # Errors
/// Why the name is no repository's.
pub fn routed(
    gateway: &Gateway,
    parts: RequestParts<'_>,
    name: &str,
    reference: &Reference,
    because: SpokenBecause,
) -> Result<Routed, ResolveError> {
    let (table, listener) = (&gateway.state.table, &gateway.listener);
    let context = listener.name_context(None, parts.host);
    let chosen = table.resolver.choose(context, plain(name));
    if let Ok(chosen) = chosen {
        chosen.entry.repository(plain(chosen.rest))?;
    }
    let target = match route(table, listener, &parts) {
        Some(V1Route::Named(named)) => Ok(RequestTarget {
            name: named.name,
            resource: Resource::Manifest(reference.clone()),
            client_name: named.client_name,
            query: Query::default(),
            namespace: None,
        }),
        Some(V1Route::Refused(refusal)) => Err(refusal),
        _ => Err(unknown_path()),
    };
    Ok(Routed {
        api: ApiVersion::V1,
        because,
        target,
        chosen_by: chosen.ok().map(|chosen| chosen.chosen_by),
        is_cached: chosen.is_ok_and(|chosen| chosen.entry.cached),
    })
}

/// What a v1 client's pull would do, and the requests upstream.
pub fn explained(
    state: &AppState,
    run: Result<&mut DryRun, &mut MirrorError>,
    permit: &Permit,
    question: &PullQuestion,
    now: SystemTime,
) -> (Result<ExplainedPull, MirrorError>, Vec<PlannedRequest>) {
    let Reference::Tag(tag) = &question.reference else {
        // The v1 API has no digests.
        let kind = mirror::ResourceKind::Image;
        return (Err(super::bridge::unknown(kind)), Vec::new());
    };
    let platform = ClientPlatform::of_agent(question.client.agent());
    let run = run.map_err(|error| error.clone());
    let (planned, requests) = state.v1.dry_run(run, permit, (tag, &platform), now);
    let pull = planned.map(|planned| {
        let source = match planned.source {
            V1Source::PassThrough => PullSource::V1PassThrough,
            V1Source::Cached => PullSource::V1,
            V1Source::Bridge => PullSource::Bridge,
        };
        ExplainedPull {
            manifest: planned.manifest,
            cache: planned.cache,
            gate: planned.gate,
            stale: planned.stale,
            freshness: (source != PullSource::V1PassThrough).then_some(planned.tags),
            is_incomplete: planned.is_incomplete,
            image_id: planned.image.map(|id| id.to_string()),
            parts: planned.images.iter().flat_map(parts).collect(),
            ..ExplainedPull::of(source)
        }
    });
    (pull, requests)
}

fn parts(image: &PlannedImage) -> [ExplainedPart; 2] {
    let json = ExplainedPart {
        name: format!("{}/json", image.id),
        digest: None,
        size: None,
        is_stored: image.has_json,
    };
    let layer = ExplainedPart {
        name: format!("{}/layer", image.id),
        digest: image.layer.digest,
        size: image.layer.size,
        is_stored: image.layer.is_stored,
    };
    [json, layer]
}
