//! Requests that pass through to a registry: bodies stream both ways, a piece at a time.

use std::pin::pin;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use pingora_core::Result;

use super::close_delimited::{self, CompletenessCheck};
use super::error_response::ErrorResponse;
use super::location::{leading_here, next_link};
use super::login::scope_of;
use super::pass_through::{self, PassThrough};
use super::respond::{self, RequestOptions};
use super::response::Response;
use super::send;
use super::session::Session;
use super::{Failure, Gateway, request_body};
use access::{Login, Permit};
use mirror::{self, Body, BodyEnd, Passed};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::error::ErrorCode;
use oci::headers::content_length;
use oci::manifest::MAX_MANIFEST;
use oci::page;
use oci::schema1;
use oci::v2::{Endpoint, Resource};

/// Response headers that go back as they are.
const COMING_BACK: &[&str] = &[
    "accept-ranges",
    "cache-control",
    "content-range",
    "content-type",
    "docker-content-digest",
    "docker-upload-uuid",
    "etag",
    "oci-chunk-min-length",
    "oci-filters-applied",
    "oci-subject",
    "oci-tag",
    "range",
    "retry-after",
    "warning",
];

impl Gateway {
    /// Decides, then lets a request through.
    pub(super) async fn pass(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        mut pass: PassThrough,
        login: &Login,
    ) -> Result<()> {
        let permit = match self.decide(session, login, &pass.target, pass.action) {
            Ok(permit) => permit,
            Err(denied) => {
                let denial = self.denial(session, denied, &scope_of(&pass.target, pass.action));
                return respond::refuse(session, options, &denial).await;
            }
        };
        if let Some(mount) = pass.mount.take()
            && let Some(from) = self.mount_source(session, login, &pass, &mount).await
        {
            pass.mount_from(mount.digest, from);
        }
        match self.forward(session, options, &pass, &permit).await {
            Ok(()) => Ok(()),
            Err(Failure::Mirror(error)) => {
                self.failure(session, options, error).await?;
                request_body::drain(session).await;
                Ok(())
            }
            Err(Failure::Connection(error)) => Err(error),
        }
    }

    /// Passes a request on and its answer back, and lets the cache know.
    pub(super) async fn forward(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        pass: &PassThrough,
        permit: &Permit,
    ) -> Result<(), Failure> {
        let resource = &pass.target.resource;
        let method = session.req_header().method.clone();
        let received = &session.req_header().headers;
        let media_type = media_type(received);
        let headers = match pass_through::headers(&method, resource, received) {
            Ok(headers) => headers,
            Err(refused) => return Ok(respond::refuse(session, options, &refused).await?),
        };
        request_body::send_continue(session).await?;
        let manifest = if method == Method::PUT && matches!(resource, Resource::Manifest(_)) {
            let Some(bytes) = request_body::read_manifest(session, self.state.idle_timeout).await?
            else {
                let refused = ErrorResponse::with_status(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    ErrorCode::ManifestInvalid,
                    "a manifest has at most 4 MiB",
                );
                return Ok(respond::refuse(session, options, &refused).await?);
            };
            Some(bytes)
        } else {
            None
        };
        let mirror = &self.state.mirror;
        let writing = mirror.begin_write(permit, resource, manifest.as_ref(), pass.digest);
        let passed = self
            .send(session, pass, permit, headers, manifest.clone())
            .await;
        let written = mirror::WriteRequest {
            method: method.clone(),
            endpoint: Endpoint {
                repository: permit.repository().clone(),
                resource: resource.clone(),
            },
            blob: pass.digest,
            manifest: manifest.map(|bytes| (media_type, bytes)),
        };
        let answer = passed.as_ref().ok();
        let answer = answer.map(|passed| (passed.status, &passed.headers));
        let write_outcome = mirror::write_outcome(written, answer);
        // Before the client hears of it: what it asks for next must not be what was.
        mirror
            .apply_write(permit, write_outcome, writing, &pass.tags)
            .await;
        let passed = passed?;
        if method != Method::GET {
            tracing::debug!(%method, status = passed.status.as_u16(), "passed through");
        }
        let answered = self.give_back(session, options, pass, passed).await;
        request_body::drain(session).await;
        answered
    }

    /// Sends the request and its body until there is an answer.
    async fn send(
        &self,
        session: &mut Session,
        pass: &PassThrough,
        permit: &Permit,
        headers: HeaderMap,
        manifest: Option<Bytes>,
    ) -> Result<Passed, Failure> {
        let method = session.req_header().method.clone();
        let (feed, body) = if let Some(manifest) = manifest {
            let (feed, body) = Body::new(Some(manifest.len() as u64));
            let whole = tokio::spawn(async move {
                if feed.send(manifest).await {
                    feed.end().await;
                }
            });
            drop(whole);
            (None, Some(body))
        } else if !pass_through::has_body(&method) || session.is_body_empty() {
            (None, None)
        } else {
            let length = content_length(&session.req_header().headers);
            let (feed, body) = Body::new(length);
            (Some(feed), Some(body))
        };
        let sending = self.state.mirror.pass(
            permit,
            mirror::PassThroughRequest {
                method,
                resource: pass.target.resource.clone(),
                query: pass.query.clone(),
                from: pass.from.clone(),
                headers,
                body,
            },
        );
        let mut sending = pin!(sending);
        if let Some(feed) = feed {
            tokio::select! {
                biased;
                passed = &mut sending => return Ok(passed?),
                outcome = request_body::feed_body(session, feed, self.state.idle_timeout) => outcome?,
            }
        }
        let answer = tokio::time::timeout(request_body::ANSWER_TIMEOUT, sending).await;
        Ok(answer.map_err(|_| mirror::MirrorError::timed_out())??)
    }

    /// What the client calls us: scheme and authority. Empty where it does not say; what leads here is
    /// relative then.
    pub(super) fn external_url(&self, session: &Session) -> String {
        if let Some(url) = &self.listener.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let host = super::host::host(session.req_header()).ok().flatten();
        let host = host.filter(|host| !host.is_empty());
        host.map_or_else(String::new, |host| {
            format!("{}://{host}", self.listener.scheme)
        })
    }

    /// Gives an answer back.
    async fn give_back(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        pass: &PassThrough,
        passed: Passed,
    ) -> Result<(), Failure> {
        let cache = CacheStatus::forward(Forward::Bypass);
        let mut response = respond::response(passed.status, options, cache)?;
        if let Some(code) = code_of(&passed, &pass.target.resource) {
            // What stands before a registry speaks HTML, which no client can show.
            let message = match code {
                ErrorCode::Denied => "denied by what stands before the registry",
                _ => "what stands before the registry refused the request",
            };
            if let Some(wait) = passed.headers.get(header::RETRY_AFTER) {
                response.insert_header(header::RETRY_AFTER, wait.clone())?;
            }
            return Ok(respond::error(session, response, options, code, message).await?);
        }
        for name in COMING_BACK {
            for value in passed.headers.get_all(*name) {
                response.append_header(*name, value.clone())?;
            }
        }
        if let Some(location) = passed.headers.get(header::LOCATION) {
            let upstream = self.state.mirror.upstream_of(&pass.target.name.registry);
            let external = self.external_url(session);
            let here = location.to_str().ok().and_then(|location| {
                let origins = [upstream, external.as_str()];
                leading_here(location, &origins, &pass.target, &external)
            });
            let elsewhere = passed.status.is_redirection() && pass.action == access::Action::Pull;
            match here {
                Some(here) => response.insert_header(header::LOCATION, here)?,
                // Bytes that a registry keeps elsewhere are fetched there: nobody's login goes along.
                None if elsewhere => response.insert_header(header::LOCATION, location.clone())?,
                None => {
                    tracing::error!(
                        registry = %pass.target.name.registry,
                        repository = %pass.target.name.repository,
                        "the registry wants an upload to go elsewhere; that is not supported. If it is itself \
                         by another name, have it answer with relative URLs (distribution: http.relativeurls)"
                    );
                    let refused =
                        ErrorResponse::bad_gateway("the registry wants the upload to go elsewhere");
                    return Ok(respond::refusal(session, options, &refused).await?);
                }
            }
        }
        let links = passed.headers.get_all(header::LINK).iter();
        let links = links.filter_map(|link| link.to_str().ok());
        match page::next(&pass.target.resource, links) {
            Ok(Some(next)) => {
                let link = next_link(&pass.target, &next, &self.external_url(session));
                response.insert_header(header::LINK, link)?;
            }
            Err(_) if is_list(&pass.target.resource) => {
                let refused =
                    ErrorResponse::bad_gateway("the registry's next page cannot be asked for here");
                return Ok(respond::refusal(session, options, &refused).await?);
            }
            Ok(None) | Err(_) => {}
        }
        let length = content_length(&passed.headers);
        let bodiless = matches!(
            passed.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        if bodiless || options.head || length == Some(0) {
            let length = length.filter(|_| !bodiless);
            return Ok(send::head(session, response, length).await?);
        }
        if passed.end() == BodyEnd::Connection {
            return self
                .give_back_unframed(session, options, pass, response, passed)
                .await;
        }
        Ok(send::relay(session, response, length, passed).await?)
    }

    /// Gives an answer back that only the end of its connection ends.
    async fn give_back_unframed(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        pass: &PassThrough,
        response: Response,
        mut passed: Passed,
    ) -> Result<(), Failure> {
        let refused = |message: &'static str| {
            ErrorResponse::with_status(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
        };
        let resource = &pass.target.resource;
        let method = session.req_header().method.clone();
        let body = match (close_delimited::of_v2(&method, resource, &passed), resource) {
            (None, _) => Err(close_delimited::UNPROVEN),
            (Some(CompletenessCheck::Status), _) => {
                Ok(close_delimited::json(passed).await.unwrap_or_default())
            }
            (Some(CompletenessCheck::Json), _) => close_delimited::json(passed)
                .await
                .ok_or(close_delimited::CUT),
            (Some(CompletenessCheck::Digest(digest)), Resource::Blob(_)) => {
                return Ok(send::relay_verified(session, response, digest, passed).await?);
            }
            // What was signed is named by its payload, so that it must be read whole.
            (Some(CompletenessCheck::Digest(digest)), _) => {
                let whole = close_delimited::whole(&mut passed, MAX_MANIFEST).await;
                let is_it = |bytes: &Bytes| {
                    let algorithm = digest.algorithm();
                    Digest::of(algorithm, bytes) == digest
                        || schema1::digest_of(algorithm, bytes) == digest
                };
                whole
                    .ok()
                    .flatten()
                    .filter(is_it)
                    .ok_or(close_delimited::CUT)
            }
        };
        match body {
            Ok(bytes) => Ok(send::whole(session, response, false, bytes).await?),
            Err(message) => Ok(respond::refusal(session, options, &refused(message)).await?),
        }
    }
}

fn is_list(resource: &Resource) -> bool {
    matches!(resource, Resource::Tags | Resource::Referrers(_))
}

/// The specification's code for an error that is not told in its JSON; `None` for what can go back as it is.
fn code_of(passed: &Passed, resource: &Resource) -> Option<ErrorCode> {
    let kind = passed.headers.get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let is_empty = content_length(&passed.headers) == Some(0);
    if is_json || is_empty || passed.status.as_u16() < 400 {
        return None;
    }
    Some(match passed.status.as_u16() {
        403 => ErrorCode::Denied,
        404 => match resource {
            Resource::Manifest(_) => ErrorCode::ManifestUnknown,
            Resource::Blob(_) => ErrorCode::BlobUnknown,
            // After NAME_UNKNOWN clients do not look for the referrers tag.
            Resource::Referrers(_) => ErrorCode::Unsupported,
            Resource::Tags | Resource::Uploads | Resource::Upload(_) => ErrorCode::NameUnknown,
        },
        405 => ErrorCode::Unsupported,
        413 => ErrorCode::SizeInvalid,
        416 => ErrorCode::RangeInvalid,
        429 => ErrorCode::TooManyRequests,
        502..=504 => ErrorCode::Unavailable,
        _ => ErrorCode::Unknown,
    })
}

fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    kind.unwrap_or_default().to_owned()
}
