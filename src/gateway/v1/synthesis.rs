//! Images that only the v2 API has, for clients of v1. A registry's own v1 side comes first: what it does not
//! know is made up.
//!
//! Old daemons give a connection up on which nothing moves for a minute. Most layers are ready at once; while
//! one has to be looked through, its answer begins with empty members of gzip, which every reader passes over,
//! and goes on with the layer. Such an answer has no length and no ranges; the next one has.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::super::respond::Wanted;
use super::super::route::{Refusal, fixed};
use super::super::{Gateway, host, measure, send};
use super::route::{Image, Named, speaks_v1};
use super::{Failed, respond};
use crate::access::{Action, Login, Permit};
use crate::mirror::{
    Asked, MadeUp, MirrorError, SynthesisFailure, SynthesisLayer, SynthesisedImage, V1Pass,
};
use crate::spec::cache_status::CacheStatus;
use crate::spec::error::ErrorCode;
use crate::spec::name::Registry;
use crate::spec::range::{self, Selection, Span};
use crate::spec::synthesis::{EMPTY_LAYER, Platform};
use crate::spec::v1::{Part, Resource};

/// How long a description waits to say how long its layer is. It may leave that out.
const SIZE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a layer waits to be answered with its length.
const LAYER_PATIENCE: Duration = Duration::from_secs(10);
/// How often something is sent while a layer is not ready.
const FILLER_EVERY: Duration = Duration::from_secs(15);
/// A member of gzip with nothing in it (RFC 1952).
const FILLER: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 0, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

impl From<SynthesisFailure> for Failed {
    fn from(failure: SynthesisFailure) -> Self {
        let status = match &failure {
            SynthesisFailure::Mirror(error) => return Self::Mirror(error.clone()),
            SynthesisFailure::Image(_) => StatusCode::NOT_FOUND,
            SynthesisFailure::Archive(_) => StatusCode::BAD_GATEWAY,
            SynthesisFailure::Keep(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        if status.is_server_error() {
            tracing::warn!(
                error = crate::telemetry::chain(&failure),
                "an image cannot be shown to a client of v1"
            );
        }
        let refusal = Refusal {
            status,
            code: ErrorCode::ManifestUnknown,
            message: failure.to_string().into(),
        };
        refusal.into()
    }
}

impl Gateway {
    /// Whether a request is one that is answered for images of v2.
    fn v1_may_synthesise(&self, named: &Named) -> bool {
        let read = matches!(
            named.resource,
            Resource::Images | Resource::Tags | Resource::Tag(_)
        );
        read && named.action == Action::Pull && self.house.mirror.synthesises(&named.registry)
    }

    /// Whether a registry itself speaks v1.
    fn v1_has_own(&self, registry: &Registry) -> bool {
        let mut entries = self.house.table.entries.iter();
        entries.any(|entry| entry.registry == *registry && entry.v1)
    }

    /// Answers for something of a repository: as the registry's v1 side does, or where that does not know
    /// the name, from what its v2 side has.
    pub(super) async fn v1_either(
        &self,
        session: &mut Session,
        named: &Named,
        login: &Login,
        permit: &Permit,
    ) -> Result<(), Failed> {
        if !self.v1_may_synthesise(named) {
            return if self.v1_has_own(&named.registry) {
                self.v1_pass_named(session, named, login, permit).await
            } else {
                Err(unknown(Asked::Repository).into())
            };
        }
        if self.v1_has_own(&named.registry) {
            match self.v1_pass_named(session, named, login, permit).await {
                Err(Failed::Mirror(MirrorError::Unknown { .. })) => {}
                answered => return answered,
            }
            if matches!(named.resource, Resource::Tag(_)) && self.v1_knows(session, permit).await? {
                return Err(tag_unknown());
            }
        }
        self.v1_synthesise(session, named, login, permit).await
    }

    /// Whether what the v1 side says of this request is to be told to the client, or what v2 has.
    pub(super) fn v1_is_elsewhere(&self, named: &Named, status: StatusCode) -> bool {
        status == StatusCode::NOT_FOUND && self.v1_may_synthesise(named)
    }

    /// Whether the registry's v1 side has a repository.
    async fn v1_knows(&self, session: &Session, permit: &Permit) -> Result<bool, Failed> {
        let pass = V1Pass {
            method: Method::GET,
            headers: self.v1_headers(session),
            body: None,
        };
        let tags = self
            .house
            .mirror
            .v1_repository(permit, &Resource::Tags, pass);
        Ok(tags.await?.status == StatusCode::OK)
    }

    async fn v1_synthesise(
        &self,
        session: &mut Session,
        named: &Named,
        login: &Login,
        permit: &Permit,
    ) -> Result<(), Failed> {
        let mirror = &self.house.mirror;
        let everybody = self.house.policy.is_open(permit.registry());
        let platform = Platform::of_agent(agent(session));
        let mut response = respond::own(StatusCode::OK)?;
        let body = match &named.resource {
            Resource::Images => {
                mirror.synthesised_repository(permit).await?;
                // Clients fill it from the tags.
                self.v1_endpoints(session, &mut response, named, login)?;
                "[]".to_owned()
            }
            Resource::Tag(tag) => {
                let id = mirror
                    .synthesised_tag(permit, everybody, tag, &platform)
                    .await;
                let id = id.map_err(|error| match error {
                    MirrorError::Unknown { .. } => tag_unknown(),
                    error => error.into(),
                })?;
                serde_json::json!(id.as_str()).to_string()
            }
            _ => {
                let tags = mirror
                    .synthesised_tags(permit, everybody, &platform)
                    .await?;
                let tags = tags
                    .iter()
                    .map(|(tag, id)| (tag.clone(), id.as_str().into()));
                serde_json::Value::Object(tags.collect()).to_string()
            }
        };
        let head = session.req_header().method == Method::HEAD;
        Ok(send::whole(session, response, head, body.into()).await?)
    }

    /// Answers for an image that was made up here, with a right to its repository; `false` where there is
    /// none of this id.
    pub(super) async fn v1_synthesised(
        &self,
        session: &mut Session,
        image: &Image,
        permit: &Permit,
    ) -> Result<bool, Failed> {
        let registry = permit.registry();
        if !is_read(image) || !self.house.mirror.synthesises(registry) {
            return Ok(false);
        }
        if let Some(open) = self.house.policy.open(registry) {
            return self
                .v1_synthesised_openly(session, image, open.registry())
                .await;
        }
        let repository = Some(permit.repository());
        let known = self
            .house
            .mirror
            .synthesised_id(registry, repository, &image.id)
            .await?;
        let Some(known) = known else {
            return Ok(false);
        };
        self.v1_image_of(session, image, permit, false, &known)
            .await?;
        Ok(true)
    }

    /// [`Gateway::v1_synthesised`] for who names no repository: of the registries that everybody may read.
    pub(super) async fn v1_synthesised_by_id(
        &self,
        session: &mut Session,
        image: &Image,
    ) -> Result<bool, Failed> {
        if !is_read(image) {
            return Ok(false);
        }
        for registry in self.v1_registries(session)? {
            let answers = self.house.policy.is_open(&registry)
                && self
                    .v1_synthesised_openly(session, image, &registry)
                    .await?;
            if answers {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn v1_synthesised_openly(
        &self,
        session: &mut Session,
        image: &Image,
        registry: &Registry,
    ) -> Result<bool, Failed> {
        let mirror = &self.house.mirror;
        if !mirror.synthesises(registry) {
            return Ok(false);
        }
        let Some(known) = mirror.synthesised_id(registry, None, &image.id).await? else {
            return Ok(false);
        };
        let Ok(repository) = known.repository.parse() else {
            return Ok(false);
        };
        let nobody = crate::access::Caller::Anonymous;
        let permit = self.v1_decide(&nobody, Action::Pull, registry, &repository)?;
        self.v1_image_of(session, image, &permit, true, &known)
            .await?;
        Ok(true)
    }

    /// The registries that a request without a name may mean.
    fn v1_registries(&self, session: &Session) -> Result<Vec<Registry>, Failed> {
        let host = host(session.req_header()).ok().flatten();
        let table = &self.house.table;
        if let Some(entry) = fixed(table, &self.listener, None, host)? {
            return Ok(vec![entry.registry.clone()]);
        }
        let speaking = table.entries.iter().filter(|entry| speaks_v1(entry));
        Ok(speaking.map(|entry| entry.registry.clone()).collect())
    }

    async fn v1_image_of(
        &self,
        session: &mut Session,
        image: &Image,
        permit: &Permit,
        everybody: bool,
        known: &SynthesisedImage,
    ) -> Result<(), Failed> {
        let mirror = &self.house.mirror;
        let made = mirror.synthesised_image(permit, &image.id, known).await?;
        let head = session.req_header().method == Method::HEAD;
        let mut response = respond::own(StatusCode::OK)?;
        let body = match image.part {
            Part::Layer => return self.v1_made_layer(session, permit, everybody, &made).await,
            Part::Ancestry => {
                mirror.note_ancestry(permit, everybody, known, &made).await;
                serde_json::json!(made.ancestry()).to_string()
            }
            _ => {
                let layer = mirror.synthesised_layer(permit, &made);
                let layer = tokio::time::timeout(SIZE_PATIENCE, layer).await;
                // What is wrong with it is said where it is asked for.
                let size = layer.ok().and_then(|layer| layer.ok()?.size());
                if let Some(size) = size {
                    response.insert_header("X-Docker-Size", size)?;
                }
                made.json().to_owned()
            }
        };
        Ok(send::whole(session, response, head, body.into()).await?)
    }

    async fn v1_made_layer(
        &self,
        session: &mut Session,
        permit: &Permit,
        everybody: bool,
        made: &MadeUp,
    ) -> Result<(), Failed> {
        let request = session.req_header();
        let wanted = Wanted::of(&request.method, &request.headers);
        let mut layer = pin!(self.house.mirror.synthesised_layer(permit, made));
        match tokio::time::timeout(LAYER_PATIENCE, &mut layer).await {
            Ok(layer) => made_layer(session, &wanted, everybody, layer?).await,
            Err(_) if wanted.head => {
                let response = layer_response(StatusCode::OK, UNREADY, everybody)?;
                Ok(send::head(session, response, None).await?)
            }
            // A part of what has no length yet.
            Err(_) if wanted.range.is_some() => Err(MirrorError::late().into()),
            Err(_) => {
                let response = layer_response(StatusCode::OK, UNREADY, everybody)?;
                let body = async {
                    let SynthesisLayer::Blob(answer) = layer.await? else {
                        return Err(MirrorError::Lost.into());
                    };
                    Ok::<_, SynthesisFailure>(answer.open(None).await?)
                };
                let filler = Bytes::from_static(FILLER);
                Ok(send::filled(session, response, filler, FILLER_EVERY, body).await?)
            }
        }
    }
}

/// How a layer is called of which nothing is known yet.
const UNREADY: CacheStatus = CacheStatus::own("preparing");

/// Sends a layer that is ready, or a part of it.
async fn made_layer(
    session: &mut Session,
    wanted: &Wanted,
    everybody: bool,
    layer: SynthesisLayer,
) -> Result<(), Failed> {
    let size = layer.size();
    let cache = match &layer {
        SynthesisLayer::Empty => CacheStatus::own("v1"),
        SynthesisLayer::Blob(answer) => answer.cache,
    };
    measure::blob(cache);
    // Layers have no validator here, so that a condition never holds; several parts are no part of this API.
    let ranges = wanted
        .range
        .as_deref()
        .filter(|_| wanted.if_range.is_none() && !wanted.head);
    let selected = size.map(|size| {
        (
            size,
            range::select(ranges.and_then(range::parse).as_deref(), size),
        )
    });
    let part: Option<(Span, u64)> = match selected {
        Some((size, Selection::Unsatisfiable)) => {
            return Ok(respond::nothing_left(session, size, cache).await?);
        }
        Some((size, Selection::Part(span))) => Some((span, size)),
        Some((_, Selection::Whole | Selection::Parts(_))) | None => None,
    };
    let status = if part.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let mut response = layer_response(status, cache, everybody)?;
    if size.is_some() {
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
    }
    if let Some((span, size)) = part {
        response.insert_header(header::CONTENT_RANGE, span.content_range(size))?;
    }
    if wanted.head {
        return Ok(send::head(session, response, size).await?);
    }
    let span = part.map(|(span, _)| span);
    match layer {
        SynthesisLayer::Empty => {
            let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
            let whole = Bytes::from_static(EMPTY_LAYER);
            let bytes = span.map_or(whole.clone(), |span| {
                whole.slice(at(span.first)..at(span.end))
            });
            Ok(send::whole(session, response, false, bytes).await?)
        }
        SynthesisLayer::Blob(answer) => {
            let length = span.map(|span| span.len()).or(size);
            let reader = answer.open(span).await?;
            Ok(send::stream(session, response, length, reader).await?)
        }
    }
}

fn layer_response(
    status: StatusCode,
    cache: CacheStatus,
    everybody: bool,
) -> pingora::Result<ResponseHeader> {
    let mut response = respond::response(status, cache)?;
    response.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
    let keeping = if everybody {
        "public, max-age=31536000, immutable"
    } else {
        "private, no-store"
    };
    response.insert_header(header::CACHE_CONTROL, keeping)?;
    Ok(response)
}

fn is_read(image: &Image) -> bool {
    image.action == Action::Pull && matches!(image.part, Part::Json | Part::Ancestry | Part::Layer)
}

fn agent(session: &Session) -> &str {
    let agent = session.req_header().headers.get(header::USER_AGENT);
    agent
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default()
}

/// What is not there.
pub fn unknown(asked: Asked) -> MirrorError {
    MirrorError::Unknown {
        asked,
        remembered: false,
    }
}

fn tag_unknown() -> Failed {
    Refusal {
        status: StatusCode::NOT_FOUND,
        code: ErrorCode::ManifestUnknown,
        message: "Tag not found".into(),
    }
    .into()
}
