//! Forwards requests to a registry and relays its answers: bodies stream both ways, a chunk at a time.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::close_delimited::{self, CompletenessCheck};
use super::content_event::confirmed;
use super::error_response::ErrorResponse;
use super::location::{local_location, next_link};
use super::pass_through::{self, PassThrough};
use super::request_options::RequestOptions;
use super::response::Response;
use super::session::Session;
use super::target::RequestTarget;
use super::{Failure, Gateway, request_body, respond, send};
use access::{Login, Permit};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::error::ErrorCode;
use oci::forwarded::Scheme;
use oci::headers::content_length;
use oci::manifest::MAX_MANIFEST;
use oci::page;
use oci::schema1;
use oci::v2::{Endpoint, Resource};
use upstream::{Body, BodyEnd, Passed};

/// Response header fields that are relayed unchanged.
const RELAYED_HEADERS: &[&str] = &[
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
    /// Authorises a request and forwards it.
    pub(super) async fn pass_through(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        mut pass: PassThrough,
        login: &Login,
    ) -> Result<(), Failure> {
        let permit = self.authorise(session, login, &pass.target, pass.action)?;
        if let Some(mount) = pass.mount.take()
            && let Some(from) = self.mount_source(session, login, &pass, &mount).await
        {
            pass.mount_from(mount.digest, from);
        }
        self.forward(session, options, &pass, &permit).await
    }

    /// Forwards a request, updates the cache with its outcome, and relays the answer.
    async fn forward(
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
            Err(refused) => return Err(refused.into()),
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
                return Err(refused.into());
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
        let answer = passed.as_ref().ok();
        let answer = answer.map(|passed| (passed.status, &passed.headers));
        let event = answer.and_then(|answer| {
            confirmed(&method, pass, Some(&media_type), manifest.as_ref(), answer)
        });
        session.content_event = event.map(Box::new);
        let write_request = mirror::WriteRequest {
            method: method.clone(),
            endpoint: Endpoint {
                repository: permit.repository().clone(),
                resource: resource.clone(),
            },
            blob: pass.digest,
            manifest: manifest.map(|bytes| (media_type, bytes)),
        };
        let write_outcome = mirror::write_outcome(write_request, answer);
        // Before the client sees the answer: its next request must not get the content of before.
        mirror
            .apply_write(permit, write_outcome, writing, &pass.tags)
            .await;
        let passed = passed?;
        if method != Method::GET {
            tracing::debug!(%method, status = passed.status.as_u16(), "forwarded a request");
        }
        let relayed = self.relay(session, options, pass, passed).await;
        request_body::drain(session).await;
        relayed
    }

    /// Sends the request and its body, and waits for the answer.
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
        let answer = self.state.mirror.pass(
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
        request_body::forward(session, feed, self.state.idle_timeout, answer).await
    }

    /// The URL that the client uses: scheme and authority. Empty without a Host, which makes locations relative.
    pub(super) fn external_url(&self, session: &Session) -> String {
        if let Some(url) = &self.listener.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let host = super::host::host(session.req_header()).ok().flatten();
        let host = host.filter(|host| !host.is_empty());
        let forwarded = session.forwarded_scheme.map(Scheme::as_str);
        let scheme = forwarded.unwrap_or(self.listener.scheme);
        host.map_or_else(String::new, |host| format!("{scheme}://{host}"))
    }

    /// Relays an answer.
    async fn relay(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        pass: &PassThrough,
        passed: Passed,
    ) -> Result<(), Failure> {
        let cache = CacheStatus::forward(Forward::Bypass);
        let mut response = respond::response(passed.status, options, cache)?;
        if let Some(code) = code_of(&passed, &pass.target.resource) {
            // A proxy in front of the registry answers HTML, which no client can show.
            let message = match code {
                ErrorCode::Denied => "denied by a proxy in front of the registry",
                _ => "rejected by a proxy in front of the registry",
            };
            if let Some(wait) = passed.headers.get(header::RETRY_AFTER) {
                response.insert_header(header::RETRY_AFTER, wait.clone())?;
            }
            return Ok(respond::finish_error(session, response, code, message).await?);
        }
        for name in RELAYED_HEADERS {
            for value in passed.headers.get_all(*name) {
                response.append_header(*name, value.clone())?;
            }
        }
        if let Some(location) = passed.headers.get(header::LOCATION) {
            let redirected = passed.status.is_redirection() && pass.action == access::Action::Pull;
            match self.local_url(session, &pass.target, location) {
                Some(local) => response.insert_header(header::LOCATION, local)?,
                // The client fetches from the storage that the registry redirects to, without credentials.
                None if redirected => response.insert_header(header::LOCATION, location.clone())?,
                None => {
                    let refused = foreign_location(&pass.target);
                    return Ok(respond::error(session, options, &refused).await?);
                }
            }
        }
        match self.next_page(session, &pass.target, &passed.headers) {
            Ok(Some(link)) => response.insert_header(header::LINK, link)?,
            Ok(None) => {}
            Err(refused) => return Ok(respond::error(session, options, &refused).await?),
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
                .relay_close_delimited(session, options, pass, response, passed)
                .await;
        }
        Ok(send::relay(session, response, length, passed).await?)
    }

    /// A location of the registry as one of the gateway; `None` if it is outside the registry.
    fn local_url(
        &self,
        session: &Session,
        target: &RequestTarget,
        location: &HeaderValue,
    ) -> Option<String> {
        let upstream = self.state.mirror.upstream_of(&target.name.registry);
        let external = self.external_url(session);
        let origins = [upstream, external.as_str()];
        local_location(location.to_str().ok()?, &origins, target, &external)
    }

    /// The `Link` to the next page at the gateway.
    fn next_page(
        &self,
        session: &Session,
        target: &RequestTarget,
        headers: &HeaderMap,
    ) -> Result<Option<String>, ErrorResponse> {
        let links = headers.get_all(header::LINK).iter();
        let links = links.filter_map(|link| link.to_str().ok());
        match page::next(&target.resource, links) {
            Ok(Some(next)) => Ok(Some(next_link(target, &next, &self.external_url(session)))),
            Err(_) if is_list(&target.resource) => Err(ErrorResponse::bad_gateway(
                "the registry's link to the next page is unusable",
            )),
            Ok(None) | Err(_) => Ok(None),
        }
    }

    /// Relays an answer that is delimited by the close of its connection.
    async fn relay_close_delimited(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        pass: &PassThrough,
        response: Response,
        mut passed: Passed,
    ) -> Result<(), Failure> {
        let resource = &pass.target.resource;
        let method = session.req_header().method.clone();
        let body = match (close_delimited::of_v2(&method, resource, &passed), resource) {
            (None, _) => Err(close_delimited::UNPROVEN),
            (Some(CompletenessCheck::Status), _) => {
                Ok(close_delimited::json(passed).await.unwrap_or_default())
            }
            (Some(CompletenessCheck::Json), _) => close_delimited::json(passed)
                .await
                .ok_or(close_delimited::TRUNCATED),
            (Some(CompletenessCheck::Digest(digest)), Resource::Blob(_)) => {
                return Ok(send::relay_verified(session, response, digest, passed).await?);
            }
            // A signed manifest is digested by its payload, so that it must be read whole.
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
                    .ok_or(close_delimited::TRUNCATED)
            }
        };
        match body {
            Ok(bytes) => Ok(send::whole(session, response, bytes).await?),
            Err(message) => {
                Ok(respond::error(session, options, &ErrorResponse::bad_gateway(message)).await?)
            }
        }
    }
}

/// Refuses an upload location outside the registry.
fn foreign_location(target: &RequestTarget) -> ErrorResponse {
    tracing::error!(
        registry = %target.name.registry,
        repository = %target.name.repository,
        "the registry sent an upload location outside itself, which is not supported; if it is known by another \
         name, configure it to send relative URLs (distribution: http.relativeurls)"
    );
    ErrorResponse::bad_gateway("the registry sent an upload location outside itself")
}

fn is_list(resource: &Resource) -> bool {
    matches!(resource, Resource::Tags | Resource::Referrers(_))
}

/// The specification's code for an error without its JSON; `None` for an answer that can be relayed unchanged.
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
            // After NAME_UNKNOWN clients would not look for the referrers tag.
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
