//! `/api/v1/explain`: how a pull would be answered, and why.

pub mod document;
mod words;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use hyper::body::Incoming;

use super::api::read;
use super::disk::{blocking, unreadable};
use super::error::{Problem, ProblemCode};
use super::registries::{breaker, rate_limit};
use super::time::{rfc3339, rfc3339_of};
use super::{Admin, target};
use crate::admin::manifest::ContentState;
use ::gate::Rule;
use document::{
    AccessPart, AnswerPart, ClientPart, ExplainRequest, Explanation, FailedRead, GatePart,
    JudgementPart, ListenerPart, ManifestPart, RequestPart, RoutePart, SaidPart, TagPart,
    UpstreamPart, UpstreamRequest, V1ImagePart, V1Part,
};
use gateway::{
    ApiVersion, ChosenBy, ExplainedAccess, ExplainedContent, ExplainedGate, ExplainedPull,
    Judgement, PullQuestion, PullSource, SampleClient, Verdict,
};
use mirror::{GateOutcome, KnownTag, MirrorError, PlannedRequest, RegistryAnswer, TagFreshness};
use oci::digest::Digest;
use oci::name::RepositoryName;
use oci::platform::{Platform, Platforms};

/// The most upstream requests and failures that are listed.
const MAX_LISTED: usize = 200;

impl Admin {
    /// # Errors
    /// 400 for a body that names no image, client, address, listener or platform, 503 if the disk cannot be read.
    pub(super) async fn explain(self: Arc<Self>, body: Incoming) -> Result<Explanation, Problem> {
        let request: ExplainRequest = read(body).await?;
        let question = question(&request)?;
        let explained = self.explainer.explain(question.clone()).await;
        let explained = explained.map_err(|error| invalid(error.to_string()))?;
        let name = explained.route.as_ref().map(|route| route.name.clone());
        let pull = explained.content.as_ref();
        let pull = pull.and_then(|content| content.pull.as_ref().ok());
        let manifest = match (name, pull.and_then(|pull| pull.manifest)) {
            (Some(name), Some(digest)) => {
                let admin = self.clone();
                let read = blocking(move || admin.manifest_part(&name, &digest)).await;
                Some(read.map_err(|error| unreadable(&error))?)
            }
            _ => None,
        };
        Ok(self.document(request.image, &question, explained, manifest))
    }

    fn document(
        &self,
        image: String,
        question: &PullQuestion,
        explained: gateway::Explanation,
        manifest: Option<ManifestPart>,
    ) -> Explanation {
        let (content, access) = (explained.content.as_ref(), explained.access.as_ref());
        let route = explained.route.as_ref();
        let (host, target) = explained.request.clone();
        let answer = AnswerPart {
            status: explained.answer.status,
            cache_status: explained
                .answer
                .cache
                .map(|cache| cache.parameters().to_string()),
            because: words::answer(&explained, question),
        };
        let client = &explained.client;
        Explanation {
            image,
            asked_upstream: content.is_some_and(|content| content.said.is_some()),
            request: RequestPart {
                method: "GET".to_owned(),
                host,
                target,
            },
            client: ClientPart {
                user_agent: client.agent.clone(),
                api: match client.api {
                    ApiVersion::V1 => "v1".to_owned(),
                    ApiVersion::V2 => "v2".to_owned(),
                },
                accept_class: client.class.as_str().to_owned(),
                because: words::client(client),
                address: question.from.map(|from| from.to_string()),
                reachable: client.is_reachable,
                requests_in_flight: client.share.map(|(taken, _)| taken as u64),
                requests_limit: client.share.and_then(|(_, most)| Some(most? as u64)),
            },
            route: route.map(|route| RoutePart {
                registry: route.name.registry.to_string(),
                repository: route.name.repository.to_string(),
                reference: question.reference.to_string(),
                by: chosen_by(route.chosen_by).to_owned(),
                cached: route.is_cached,
                because: words::route(route, &explained, question),
            }),
            access: route
                .zip(access)
                .map(|(route, access)| self.access_part(access, &route.name, question)),
            tag: content.and_then(tag_part),
            gate: content.and_then(|content| content.gate.as_ref().map(gate_part)),
            v1_image: content.and_then(v1_image),
            upstream: content.map_or_else(UpstreamPart::default, upstream_part),
            listener: ListenerPart {
                address: explained.listener.address,
                url: explained.listener.url,
            },
            manifest,
            answer,
        }
    }

    fn access_part(
        &self,
        access: &ExplainedAccess,
        name: &RepositoryName,
        question: &PullQuestion,
    ) -> AccessPart {
        let lines = &self.settings.rule_lines;
        let line = |index: usize| lines.get(index).map(|line| *line as u64);
        let part = |judgement: &Judgement, who: &str| JudgementPart {
            decision: decision(judgement.verdict).to_owned(),
            status: judgement.status,
            because: words::judgement(judgement, who, name, line),
        };
        let user = access.own.user.clone();
        let mut own = part(&access.own, user.as_deref().unwrap_or("anonymous"));
        if let (Some(asked), false) = (&question.user, access.has_logins) {
            own.because = words::login_ignored(asked, &own.because);
        }
        AccessPart {
            own,
            user,
            rule: access.own.rule.as_ref().map(|(_, rule)| rule.clone()),
            rule_line: access.own.rule.as_ref().and_then(|(index, _)| line(*index)),
            anonymous: part(&access.anonymous, "anonymous"),
            unknown_user: access
                .unknown_user
                .as_ref()
                .map(|judgement| part(judgement, "an unknown user")),
        }
    }

    /// The manifest that a pull is answered with, and what it lists. Blocks on the disk.
    fn manifest_part(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> std::io::Result<ManifestPart> {
        let contents = self.contents(name, digest)?;
        Ok(ManifestPart {
            digest: digest.to_string(),
            state: if contents.is_stored {
                ContentState::Present
            } else {
                ContentState::Missing
            },
            linked: contents.link.is_some(),
            images: contents.images,
            images_total: contents.images_total,
        })
    }
}

fn invalid(detail: String) -> Problem {
    Problem::new(ProblemCode::InvalidBody, detail)
}

/// # Errors
/// 400 for a part of the request that means nothing.
fn question(request: &ExplainRequest) -> Result<PullQuestion, Problem> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (name, reference) =
        target::written(&request.image).map_err(|error| invalid(error.to_string()))?;
    let client = match given(&request.client) {
        Some(text) => SampleClient::named(&text).map_err(|error| invalid(error.to_string()))?,
        None => SampleClient::current(),
    };
    let from = given(&request.from).map(|text| {
        let wrong = || format!("{text} is no IP address, such as 10.0.0.21 or 2001:db8::1");
        text.parse::<IpAddr>().map_err(|_| invalid(wrong()))
    });
    let platforms = match given(&request.platform) {
        Some(text) => text
            .parse::<Platforms>()
            .map_err(|error| invalid(error.to_string()))?,
        None => Platforms::Only(Platform::host()),
    };
    Ok(PullQuestion {
        name,
        reference,
        user: given(&request.user),
        client,
        from: from.transpose()?,
        listener: given(&request.listener),
        namespace: given(&request.ns),
        host: given(&request.host),
        platforms,
        asks_registry: request.ask,
    })
}

const fn chosen_by(chosen_by: ChosenBy) -> &'static str {
    match chosen_by {
        ChosenBy::Listener => "listener",
        ChosenBy::Namespace => "ns",
        ChosenBy::Host => "host",
        ChosenBy::Prefix => "prefix",
        ChosenBy::Owns => "owns",
        ChosenBy::Default => "default",
    }
}

const fn decision(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::AllowedByRule | Verdict::AllowedPublic => "allowed",
        Verdict::Delegated => "delegated",
        Verdict::Challenged | Verdict::UnknownUser => "challenged",
        Verdict::NoRule | Verdict::NotPublic => "denied",
    }
}

const fn state(freshness: TagFreshness) -> &'static str {
    match freshness {
        TagFreshness::Fresh(_) | TagFreshness::Stretched(_) => "fresh",
        TagFreshness::Stale(_) => "stale",
        TagFreshness::Expired => "expired",
        TagFreshness::Absent => "absent",
        TagFreshness::NotFound => "not-found",
    }
}

fn tag_part(content: &ExplainedContent) -> Option<TagPart> {
    let now = SystemTime::now();
    if let Some(tag) = &content.tag {
        let KnownTag {
            class,
            pointer,
            freshness,
            ttl,
        } = tag;
        let checked_at = pointer.as_ref().map(|pointer| pointer.checked_at);
        let age = |at: u64| super::time::unix(now).saturating_sub(at);
        return Some(TagPart {
            state: state(*freshness).to_owned(),
            accept_class: Some(class.as_str().to_owned()),
            digest: pointer.as_ref().map(|pointer| pointer.digest.to_string()),
            age_seconds: checked_at.map(age),
            fresh_until: checked_at.map(|at| rfc3339_of(at.saturating_add(ttl.as_secs()))),
            ttl_seconds: Some(ttl.as_secs()),
            because: words::tag(*freshness, checked_at.map(age), Some(*ttl)),
        });
    }
    let freshness = content.pull.as_ref().ok()?.freshness?;
    let (age, left) = match freshness {
        TagFreshness::Stale(age) => (Some(age.as_secs()), None),
        TagFreshness::Fresh(left) | TagFreshness::Stretched(left) => (None, Some(left)),
        _ => (None, None),
    };
    Some(TagPart {
        state: state(freshness).to_owned(),
        accept_class: None,
        digest: None,
        age_seconds: age,
        fresh_until: left.map(|left| rfc3339(now + left)),
        ttl_seconds: None,
        because: words::tag(freshness, age, None),
    })
}

fn gate_part(gate: &ExplainedGate) -> GatePart {
    let (decision, rule) = match &gate.outcome {
        GateOutcome::Served => ("served", None),
        GateOutcome::Pinned(_) => ("pinned", Some(Rule::Pins)),
        GateOutcome::HeldBack { .. } => ("held-back", Some(Rule::MinAge)),
        GateOutcome::Denied(denial) => ("denied", Some(denial.rule)),
        GateOutcome::Undecided(rule) => ("undecided", Some(*rule)),
    };
    GatePart {
        mode: gate.mode.as_str().to_owned(),
        decision: decision.to_owned(),
        rule: rule.map(|rule| rule.as_str().to_owned()),
        because: words::gate(gate),
    }
}

fn v1_image(content: &ExplainedContent) -> Option<V1ImagePart> {
    let pull = content.pull.as_ref().ok()?;
    if matches!(pull.source, PullSource::V2 | PullSource::V2PassThrough) {
        return None;
    }
    let parts = pull.parts.iter().map(|part| V1Part {
        name: part.name.clone(),
        digest: part.digest.map(|digest| digest.to_string()),
        size_bytes: part.size,
        state: if part.is_stored {
            ContentState::Present
        } else {
            ContentState::Missing
        },
    });
    Some(V1ImagePart {
        id: pull.image_id.clone(),
        because: words::v1_source(pull.source).to_owned(),
        parts: parts.collect(),
    })
}

fn upstream_part(content: &ExplainedContent) -> UpstreamPart {
    let requests = &content.requests;
    let pull = content.pull.as_ref().ok();
    let is_incomplete = pull.is_some_and(|pull| pull.is_incomplete);
    let health = content.health.as_ref();
    let fetched = requests.iter().filter(|request| request.method == "GET");
    let fetched: Option<u64> = fetched.map(|request| request.bytes).sum();
    let remaining = health.and_then(|health| health.remaining_pulls.as_ref());
    UpstreamPart {
        requests: requests.iter().take(MAX_LISTED).map(planned).collect(),
        incomplete: is_incomplete,
        rate_limit_cost: requests.iter().filter(|one| one.is_counted).count() as u64,
        rate_limit_remaining: remaining.map(|pulls| pulls.remaining),
        rate_limit: health.and_then(rate_limit),
        breaker: health.map(|health| breaker(Some(health.breaker))),
        fetch_bytes: fetched.filter(|_| !is_incomplete),
        failures: pull.map_or_else(Vec::new, failures),
        said: content.said.as_ref().map(|(answer, took)| {
            let known = content.tag.as_ref().and_then(|tag| tag.pointer.as_ref());
            let known = known.map(|pointer| pointer.digest);
            said(answer, known, took.as_secs_f64())
        }),
    }
}

fn planned(request: &PlannedRequest) -> UpstreamRequest {
    UpstreamRequest {
        method: request.method.to_string(),
        url: request.url.clone(),
        certain: request.reason.is_certain(),
        counted: request.is_counted,
        size_bytes: request.bytes,
        because: words::request(request.reason),
    }
}

fn failures(pull: &ExplainedPull) -> Vec<FailedRead> {
    let failures = pull.failures.iter().take(MAX_LISTED);
    let failed = failures.map(|(content, error)| FailedRead {
        content: content.clone(),
        status: gateway::status_of(error).as_u16(),
        because: error.to_string(),
    });
    failed.collect()
}

fn said(answer: &RegistryAnswer, known: Option<Digest>, seconds: f64) -> SaidPart {
    let digest = answer.head.as_ref().ok().and_then(|head| head.digest);
    let outcome = match (&answer.head, known) {
        (Ok(_), Some(known)) if digest == Some(known) => "same",
        (Ok(_), Some(_)) if digest.is_some() => "moved",
        (Ok(_), _) => "found",
        (Err(MirrorError::Unknown { .. }), _) => "not-found",
        (Err(MirrorError::TooManyRequests { .. }), _) => "limited",
        (Err(error), _) if gateway::status_of(error) < StatusCode::INTERNAL_SERVER_ERROR => {
            "refused"
        }
        (Err(_), _) => "failed",
    };
    SaidPart {
        outcome: outcome.to_owned(),
        digest: digest.map(|digest| digest.to_string()),
        duration_seconds: seconds,
        because: words::said(answer, known),
    }
}

impl Default for UpstreamPart {
    /// Nothing is asked.
    fn default() -> Self {
        Self {
            requests: Vec::new(),
            incomplete: false,
            rate_limit_cost: 0,
            rate_limit_remaining: None,
            rate_limit: None,
            breaker: None,
            fetch_bytes: Some(0),
            failures: Vec::new(),
            said: None,
        }
    }
}
