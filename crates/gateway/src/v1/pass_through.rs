//! Forwards requests to a v1 registry, links the images that its answers name, and relays the answers.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};

use super::super::cache_control::CacheControl;
use super::super::close_delimited::{self, CompletenessCheck};
use super::super::content_event::ContentEvent;
use super::super::error_response::ErrorResponse;
use super::super::location::is_origin;
use super::super::response::Response;
use super::super::session::Session;
use super::super::{Failure, Gateway, request_body, send};
use super::PermittedRequest;
use super::bridge;
use super::forwarded_headers::upstream_headers;
use super::route::{ImageRequest, RepositoryRequest};
use ::v1::{Claim, V1Pass};
use access::{Action, DockerTokenAccess, Login, Permit};
use mirror::MirrorError;
use oci::cache_status::{CacheStatus, Forward};
use oci::headers::content_length;
use oci::name::Registry;
use oci::v1::{Part, Resource, ids_in_list, ids_of_tags};
use oci::v2;
use upstream::{Body, BodyEnd, Passed};

/// Response header fields that are relayed unchanged: not Content-Encoding, since bytes are relayed as they are and
/// one registry calls every layer gzip.
const RELAYED_HEADERS: &[&str] = &[
    "content-type",
    "etag",
    "pragma",
    "retry-after",
    "warning",
    "x-docker-checksum-payload",
    "x-docker-payload-checksum",
    "x-docker-size",
];
/// Those for caches, relayed from registries that anonymous clients may read.
const CACHE_HEADERS: &[&str] = &["cache-control", "expires", "last-modified"];

impl Gateway {
    /// Forwards a request about a repository.
    pub(super) async fn v1_pass_named(
        &self,
        session: &mut Session,
        request: PermittedRequest<'_>,
    ) -> Result<(), Failure> {
        let PermittedRequest {
            named,
            login,
            permit,
        } = request;
        let mirrored = self.state.v1.v1_is_mirrored(&named.name.registry);
        if mirrored && named.action == Action::Pull {
            return self.v1_mirrored_named(session, request).await;
        }
        let mut headers = upstream_headers(session);
        if named.resource.is_served_by_index() {
            headers.insert("x-docker-token", header::HeaderValue::from_static("true"));
        }
        let v1 = &self.state.v1;
        let passed = self
            .v1_send(session, headers, |pass| {
                v1.v1_repository(permit, &named.resource, pass)
            })
            .await?;
        if self.v1_falls_back(named, passed.status) {
            return Err(bridge::unknown(mirror::ResourceKind::Repository).into());
        }
        let method = session.req_header().method.clone();
        let has_list = passed.status == StatusCode::OK && method == Method::GET;
        let deletes_all = matches!(named.resource, Resource::Repository | Resource::Tags);
        if method == Method::DELETE && deletes_all && passed.status.is_success() {
            v1.v1_unlink_all(permit).await;
        }
        session.content_event = confirmed(&method, &named.resource, passed.status).map(Box::new);
        let mut response =
            self.v1_response(session, &named.name.registry, named.action, &passed)?;
        if passed.status.is_success() && named.resource.is_served_by_index() {
            self.v1_endpoints(session, &mut response, named, login)?;
        }
        let ids: fn(&[u8]) -> Vec<_> = match named.resource {
            Resource::Images => ids_in_list,
            Resource::Tags | Resource::Tag(_) => ids_of_tags,
            _ => return self.v1_relay(session, response, passed).await,
        };
        if !has_list {
            return self.v1_relay(session, response, passed).await;
        }
        let bytes = self.v1_link_list(permit, ids, passed).await?;
        Ok(send::whole(session, response, bytes).await?)
    }

    /// Forwards a request for a part of an image.
    pub(super) async fn v1_pass_image(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        claim: Claim<'_>,
        login: &Login,
    ) -> Result<(), Failure> {
        let ImageRequest {
            id, part, action, ..
        } = image;
        let method = session.req_header().method.clone();
        let mirrored = self.state.v1.v1_is_mirrored(claim.registry());
        let is_cached = matches!(part, Part::Json | Part::Ancestry | Part::Layer);
        if mirrored && is_cached && *action == Action::Pull {
            return self.v1_mirrored_image(session, image, claim, login).await;
        }
        let headers = upstream_headers(session);
        if *part == Part::Layer && *action == Action::Pull {
            return self.v1_layer(session, image, claim, headers).await;
        }
        let v1 = &self.state.v1;
        let passed = self
            .v1_send(session, headers, |pass| v1.v1_image(claim, id, *part, pass))
            .await?;
        let permit = match claim {
            Claim::Repository(permit) => Some(permit),
            Claim::OpenRegistry(_) => None,
        };
        let registry = claim.registry();
        let response = self.v1_response(session, registry, *action, &passed)?;
        let (Some(permit), true) = (permit, passed.status == StatusCode::OK) else {
            return self.v1_relay(session, response, passed).await;
        };
        if method == Method::PUT && *part == Part::Json {
            // The caller may push here and has created the image: it is linked to the repository.
            v1.v1_link(permit, std::slice::from_ref(id)).await?;
        } else if method == Method::GET && *part == Part::Ancestry {
            let bytes = self.v1_link_list(permit, ids_in_list, passed).await?;
            return Ok(send::whole(session, response, bytes).await?);
        }
        self.v1_relay(session, response, passed).await
    }

    /// Reads a list, and links the images that it names.
    async fn v1_link_list(
        &self,
        permit: &Permit,
        ids: fn(&[u8]) -> Vec<oci::v1::ImageId>,
        mut passed: Passed,
    ) -> Result<Bytes, MirrorError> {
        let bytes = ::v1::v1_list(&mut passed).await?;
        self.state.v1.v1_link(permit, &ids(&bytes)).await?;
        Ok(bytes)
    }

    /// Adds what clients need to continue with a repository: the endpoint of its images, and a token for it.
    pub(super) fn v1_endpoints(
        &self,
        session: &Session,
        response: &mut Response,
        named: &RepositoryRequest,
        login: &Login,
    ) -> pingora_core::Result<()> {
        let external = self.external_url(session);
        let authority = external.split_once("://").map_or("", |(_, rest)| rest);
        response.insert_header("X-Docker-Endpoints", authority)?;
        let access = match named.action {
            Action::Pull => DockerTokenAccess::Read,
            Action::Push => DockerTokenAccess::Write,
            Action::Delete => DockerTokenAccess::Delete,
        };
        let token = self.state.authenticator.as_ref().and_then(|authenticator| {
            authenticator.docker_token(login, &named.client_name, access, SystemTime::now())
        });
        if let Some(token) = token {
            response.insert_header("X-Docker-Token", token)?;
        }
        Ok(())
    }

    /// Sends a request and its body, and waits for the answer.
    async fn v1_send<F, A>(
        &self,
        session: &mut Session,
        headers: HeaderMap,
        ask: F,
    ) -> Result<Passed, Failure>
    where
        F: FnOnce(V1Pass) -> A,
        A: Future<Output = Result<Passed, MirrorError>>,
    {
        let method = session.req_header().method.clone();
        let bodiless = matches!(method, Method::GET | Method::HEAD) || session.is_body_empty();
        let (feed, body) = if bodiless {
            (None, None)
        } else {
            request_body::send_continue(session).await?;
            let length = content_length(&session.req_header().headers);
            let (feed, body) = Body::new(length);
            (Some(feed), Some(body))
        };
        let answer = ask(V1Pass {
            method,
            headers,
            body,
        });
        request_body::forward(session, feed, self.state.idle_timeout, answer).await
    }

    /// The head of a relayed answer, with a `Location` at the registry rewritten to the gateway.
    pub(super) fn v1_response(
        &self,
        session: &Session,
        registry: &Registry,
        action: Action,
        passed: &Passed,
    ) -> Result<Response, Failure> {
        let cache = CacheStatus::forward(Forward::Bypass);
        let mut response = Response::new(passed.status, cache)?;
        let names = RELAYED_HEADERS.iter().chain(
            CACHE_HEADERS
                .iter()
                .filter(|_| self.state.policy.is_open(registry)),
        );
        for name in names {
            for value in passed.headers.get_all(*name) {
                response.append_header(*name, value.clone())?;
            }
        }
        if !self.state.policy.is_open(registry) {
            response.set_cache_control(CacheControl::PrivateNoStore)?;
        }
        let Some(location) = passed.headers.get(header::LOCATION) else {
            return Ok(response);
        };
        let external = self.external_url(session);
        let mut own = self.state.v1.v1_upstreams_of(registry);
        own.push(&external);
        let here = location.to_str().ok();
        match here.and_then(|location| local_location(location, &own, &external)) {
            Some(here) => response.insert_header(header::LOCATION, here)?,
            // The client fetches from the storage that the registry redirects to, without credentials.
            None if action == Action::Pull => {
                response.insert_header(header::LOCATION, location.clone())?;
            }
            None => {
                return Err(ErrorResponse::bad_gateway(
                    "the registry redirects the push elsewhere, which is not supported",
                )
                .into());
            }
        }
        Ok(response)
    }

    /// Relays an answer.
    pub(super) async fn v1_relay(
        &self,
        session: &mut Session,
        mut response: Response,
        passed: Passed,
    ) -> Result<(), Failure> {
        let length = content_length(&passed.headers);
        let head = session.req_header().method == Method::HEAD;
        let bodiless = head || passed.status == StatusCode::NO_CONTENT;
        if bodiless || length == Some(0) {
            if let Some(length) = length.filter(|_| passed.status != StatusCode::NO_CONTENT) {
                response.insert_header(header::CONTENT_LENGTH, length)?;
            }
            session.write_head(response).await?;
        } else if passed.end() == BodyEnd::Connection {
            let method = session.req_header().method.clone();
            let bytes = match close_delimited::of_v1(&method, &passed) {
                None => return Err(ErrorResponse::bad_gateway(close_delimited::UNPROVEN).into()),
                Some(CompletenessCheck::Status) => {
                    close_delimited::json(passed).await.unwrap_or_default()
                }
                Some(_) => {
                    let whole = close_delimited::json(passed).await;
                    whole.ok_or_else(|| ErrorResponse::bad_gateway(close_delimited::TRUNCATED))?
                }
            };
            send::whole(session, response, bytes).await?;
        } else {
            send::relay(session, response, length, passed).await?;
        }
        request_body::drain(session).await;
        Ok(())
    }
}

/// A `Location` at one of the registry's `origins`, rewritten to the gateway.
fn local_location(location: &str, own: &[&str], external: &str) -> Option<String> {
    let led = v2::Target::split(location)?;
    let is_own = |authority| own.iter().any(|origin| is_origin(origin, authority));
    let segments = v2::segments(led.path).ok()?;
    if !led.authority.is_none_or(is_own) || segments.first().is_none_or(|first| first != "v1") {
        return None;
    }
    let query = led
        .query
        .map_or_else(String::new, |query| format!("?{query}"));
    Some(format!("{external}{}{query}", led.path))
}

/// The change that an answer confirms. A tag is the last of an image that Docker pushes.
fn confirmed(method: &Method, resource: &Resource, status: StatusCode) -> Option<ContentEvent> {
    let (action, tag) = match (method, resource) {
        (&Method::PUT, Resource::Tag(tag)) => (events::EventAction::Push, Some(tag)),
        (&Method::DELETE, Resource::Tag(tag)) => (events::EventAction::Delete, Some(tag)),
        (&Method::DELETE, Resource::Repository | Resource::Tags) => {
            (events::EventAction::Delete, None)
        }
        _ => return None,
    };
    status.is_success().then(|| ContentEvent {
        action,
        tags: tag.cloned().into_iter().collect(),
        digest: None,
        media_type: None,
        size: None,
        from: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_of_the_registry_are_rewritten() {
        let own = ["http://127.0.0.1:6001", "https://gate.example:5000"];
        let here = |location: &str| local_location(location, &own, "https://gate.example:5000");
        let users = Some("https://gate.example:5000/v1/users/".to_owned());
        for (location, expected) in [
            ("http://127.0.0.1:6001/v1/users/", users.clone()),
            ("http://gate.example:5000/v1/users/", users.clone()),
            ("/v1/users/", users),
            ("http://127.0.0.1:6002/v1/users/", None),
            ("https://bucket.example/v1/users/", None),
            ("http://127.0.0.1:6001/elsewhere", None),
            ("//evil.example/v1/", None),
            ("ftp://127.0.0.1:6001/v1/", None),
            ("", None),
        ] {
            assert_eq!(here(location), expected, "{location}");
        }
    }
}
