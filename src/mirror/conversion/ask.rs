//! Questions to the v1 side, as ourselves: tags, ancestries, descriptions, and layers that are gone on with
//! where they were broken off.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::mpsc;

use super::Side;
use super::layer::Piece;
use crate::mirror::error::Asked;
use crate::mirror::v1::{V1Pass, ask, passing};
use crate::mirror::{MirrorError, Passed};
use crate::spec::digest::Digest;
use crate::spec::name::Tag;
use crate::spec::v1::{Endpoint, ImageId, Part, Resource, ids_in_list};
use crate::upstream::UpstreamError;

/// How long a short question may take.
const QUESTION: Duration = Duration::from_secs(8);
/// How long the headers of a layer may take.
const LAYER_HEADERS: Duration = Duration::from_secs(60);
/// The longest description of one image, and the longest list, in bytes.
const MAX_DESCRIPTION: usize = 1 << 20;
const MAX_LIST: usize = 8 << 20;
/// The longest chain of images. Docker makes none of more than 127.
const MAX_CHAIN: usize = 512;
/// How often a layer that was broken off is gone on with, and the wait before.
const RESUMED: u32 = 4;
const RESUME_AFTER: Duration = Duration::from_millis(500);

/// What a registry says of an image.
#[derive(Debug)]
pub(super) struct Description {
    pub json: String,
    /// The length of its layer in bytes, where that is said.
    pub size: Option<u64>,
    /// Of the description, a line's end and the layer.
    pub checksum: Option<Digest>,
}

impl Side {
    /// The image that a tag of the repository stands for; `None` where there is no such tag.
    pub async fn tag(&self, tag: &Tag) -> Result<Option<ImageId>, MirrorError> {
        let endpoint = self.of_repository(Resource::Tag(tag.clone()));
        let id = match self.small(&endpoint, MAX_DESCRIPTION).await {
            Ok((_, bytes)) => serde_json::from_slice::<String>(&bytes).ok(),
            Err(MirrorError::Unknown { .. }) => return Ok(None),
            // Some know no single tags.
            Err(MirrorError::Unusable(error)) if is(&error, StatusCode::METHOD_NOT_ALLOWED) => {
                let tags = self.tags().await?.unwrap_or_default();
                match tags.get(tag.as_str()) {
                    Some(id) => id.as_str().map(str::to_owned),
                    None => return Ok(None),
                }
            }
            Err(error) => return Err(error),
        };
        let id = id.and_then(|id| id.parse().ok());
        id.map(Some).ok_or_else(|| wrong("its tag names no image"))
    }

    /// All tags of the repository; `None` where there is none.
    pub async fn tags(
        &self,
    ) -> Result<Option<serde_json::Map<String, serde_json::Value>>, MirrorError> {
        match self
            .small(&self.of_repository(Resource::Tags), MAX_LIST)
            .await
        {
            Ok((_, bytes)) => {
                let tags = serde_json::from_slice(&bytes);
                tags.map(Some).map_err(|_| wrong("its tags cannot be read"))
            }
            Err(MirrorError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An image and those that it is made on, the root last.
    pub async fn ancestry(&self, top: &ImageId) -> Result<Vec<ImageId>, MirrorError> {
        let (_, bytes) = self.part(top, Part::Ancestry, MAX_LIST).await?;
        let chain = ids_in_list(&bytes);
        let mut seen: Vec<&ImageId> = chain.iter().collect();
        seen.sort();
        seen.dedup();
        if chain.first() != Some(top) || seen.len() != chain.len() || chain.len() > MAX_CHAIN {
            return Err(wrong("its ancestry is none of that image"));
        }
        Ok(chain)
    }

    /// What the registry says of an image.
    pub async fn description(&self, id: &ImageId) -> Result<Description, MirrorError> {
        let (headers, bytes) = self.part(id, Part::Json, MAX_DESCRIPTION).await?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let json = String::from_utf8(bytes.to_vec());
        Ok(Description {
            json: json.map_err(|_| wrong("its description of an image is no text"))?,
            size: text("x-docker-size").and_then(|size| size.parse().ok()),
            checksum: text("x-docker-checksum-payload").and_then(|sum| sum.parse().ok()),
        })
    }

    /// Whether the registry still lets us have an image for this repository.
    pub async fn has(&self, id: &ImageId) -> Result<bool, MirrorError> {
        match self.small(&part(id, Part::Json), MAX_DESCRIPTION).await {
            Ok(_) => Ok(true),
            Err(MirrorError::Unknown { .. } | MirrorError::Denied) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a layer's body down `pieces`, as long as somebody takes them. It is ended there only when it is
    /// whole. `size` is what the registry said that it has.
    pub async fn layer(
        &self,
        id: &ImageId,
        size: Option<u64>,
        pieces: mpsc::Sender<Piece>,
    ) -> Result<(), MirrorError> {
        let mut sent = 0;
        let mut total = None;
        for attempt in 0..=RESUMED {
            if attempt > 0 {
                tokio::time::sleep(RESUME_AFTER * attempt).await;
            }
            let error = match self.layer_from(id, sent, total).await {
                Ok(Body {
                    mut passed,
                    mut skip,
                    length,
                }) => {
                    total = length.or(total);
                    loop {
                        match passed.next().await {
                            Ok(Some(mut bytes)) => {
                                let ahead = usize::try_from(skip).unwrap_or(usize::MAX);
                                let ahead = ahead.min(bytes.len());
                                bytes.advance(ahead);
                                skip -= ahead as u64;
                                sent += bytes.len() as u64;
                                if pieces.send(Piece::Bytes(bytes)).await.is_err() {
                                    // Whoever took them says why not.
                                    return Ok(());
                                }
                            }
                            Ok(None) if total.is_none_or(|total| total == sent) => {
                                if size.is_some_and(|size| size != sent) {
                                    return Err(wrong("a layer is not as long as it said"));
                                }
                                let _ = pieces.send(Piece::End).await;
                                return Ok(());
                            }
                            Ok(None) => {
                                break failed(UpstreamError::Protocol("a layer is cut off"));
                            }
                            Err(error) => break failed(error),
                        }
                    }
                }
                Err(error) => error,
            };
            // Without a length nobody knows what is missing.
            let goes_on = sent == 0 || total.is_some_and(|total| sent < total);
            if attempt == RESUMED || !goes_on || !may_pass(&error) {
                return Err(error);
            }
        }
        Err(MirrorError::Lost)
    }

    /// A layer's body from byte `sent` on, of `total`.
    async fn layer_from(
        &self,
        id: &ImageId,
        sent: u64,
        total: Option<u64>,
    ) -> Result<Body, MirrorError> {
        let endpoint = part(id, Part::Layer);
        let mut headers = headers();
        // An end that is the last byte, which is what docker-registry gives rightly; a single byte it does not.
        let from = match total {
            Some(total) if sent > 0 => sent.min(total.saturating_sub(2)),
            _ => 0,
        };
        if let Some(total) = total.filter(|_| from > 0)
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-{}", total - 1))
        {
            headers.insert(header::RANGE, range);
        }
        let passed = self.get(&endpoint, headers.clone(), LAYER_HEADERS).await?;
        let target = endpoint.path();
        let followed = self
            .v1
            .upstream
            .followed(&target, &headers, passed, LAYER_HEADERS);
        let passed = followed.await.map_err(failed)?;
        let length = passed.headers.get(header::CONTENT_LENGTH);
        let length: Option<u64> = length.and_then(|length| length.to_str().ok()?.parse().ok());
        match passed.status {
            StatusCode::OK => Ok(Body {
                passed,
                skip: sent,
                length,
            }),
            StatusCode::PARTIAL_CONTENT
                if from > 0 && length == total.map(|total| total - from) =>
            {
                Ok(Body {
                    passed,
                    skip: sent - from,
                    length: total,
                })
            }
            StatusCode::PARTIAL_CONTENT => Err(wrong("another part than was asked for")),
            _ => Err(of_image(refused(&passed))),
        }
    }

    async fn part(
        &self,
        id: &ImageId,
        which: Part,
        limit: usize,
    ) -> Result<(HeaderMap, Bytes), MirrorError> {
        self.small(&part(id, which), limit).await.map_err(of_image)
    }

    /// A short body, and the headers it came with.
    async fn small(
        &self,
        endpoint: &Endpoint,
        limit: usize,
    ) -> Result<(HeaderMap, Bytes), MirrorError> {
        let asked = async {
            let mut passed = self.get(endpoint, headers(), QUESTION).await?;
            if passed.status != StatusCode::OK {
                return Err(refused(&passed));
            }
            let mut bytes = BytesMut::new();
            while let Some(piece) = passed.next().await.map_err(failed)? {
                if bytes.len() + piece.len() > limit {
                    return Err(failed(UpstreamError::TooLarge { limit }));
                }
                bytes.extend_from_slice(&piece);
            }
            Ok((passed.headers, bytes.freeze()))
        };
        let asked = tokio::time::timeout(QUESTION, asked).await;
        asked.unwrap_or_else(|_| Err(MirrorError::late()))
    }

    async fn get(
        &self,
        endpoint: &Endpoint,
        headers: HeaderMap,
        within: Duration,
    ) -> Result<Passed, MirrorError> {
        let pass = V1Pass {
            method: Method::GET,
            headers,
            body: None,
        };
        let whose = Some((&self.repository, false));
        let asked = ask(&self.v1, whose, passing(endpoint, pass));
        let asked = tokio::time::timeout(within, asked).await;
        asked.unwrap_or_else(|_| Err(MirrorError::late()))
    }

    fn of_repository(&self, resource: Resource) -> Endpoint {
        Endpoint::Named {
            repository: self.repository.clone(),
            resource,
        }
    }
}

/// A layer's body, headers received.
struct Body {
    passed: Passed,
    /// How much of it is there already, in bytes.
    skip: u64,
    /// Of the whole layer.
    length: Option<u64>,
}

fn part(id: &ImageId, part: Part) -> Endpoint {
    let id = id.clone();
    Endpoint::Image { id, part }
}

fn headers() -> HeaderMap {
    let identity = HeaderValue::from_static("identity");
    HeaderMap::from_iter([(header::ACCEPT_ENCODING, identity)])
}

fn refused(passed: &Passed) -> MirrorError {
    failed(UpstreamError::of(passed.status, &passed.headers))
}

/// A tag led there: that it is not there is no answer about the tag.
fn of_image(error: MirrorError) -> MirrorError {
    match error {
        MirrorError::Unknown { .. } => wrong("its tag leads to an image that is not there"),
        error => error,
    }
}

pub(super) fn wrong(what: &'static str) -> MirrorError {
    failed(UpstreamError::Protocol(what))
}

fn failed(error: UpstreamError) -> MirrorError {
    MirrorError::of(Arc::new(error), Asked::Image)
}

fn is(error: &UpstreamError, status: StatusCode) -> bool {
    matches!(error, UpstreamError::Status(said) if *said == status)
}

/// Whether another attempt may come out otherwise.
fn may_pass(error: &MirrorError) -> bool {
    match error {
        MirrorError::Unavailable(_) => true,
        MirrorError::Unusable(error) => {
            matches!(**error, UpstreamError::Protocol("a layer is cut off"))
        }
        _ => false,
    }
}
