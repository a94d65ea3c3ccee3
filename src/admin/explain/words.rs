//! The sentences of an explanation. Pure.

use std::time::Duration;

use crate::admin::time::span;
use ::gate::{Mode, Rule};
use gateway::{
    ChosenBy, ExplainedClient, ExplainedGate, ExplainedRoute, Explanation, Judgement, PullQuestion,
    PullSource, SpokenBecause, Verdict,
};
use mirror::{GateOutcome, RegistryAnswer, RequestReason, StaleReason, TagFreshness};
use oci::cache_status::{CacheOutcome, Forward};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::RepositoryName;

/// Why the name belongs to its registry.
pub fn route(route: &ExplainedRoute, explained: &Explanation, question: &PullQuestion) -> String {
    let registry = &route.name.registry;
    match route.chosen_by {
        ChosenBy::Listener => {
            let address = &explained.listener.address;
            format!("the listener {address} serves {registry} alone")
        }
        ChosenBy::Namespace => {
            let namespace = question.namespace.as_deref().unwrap_or_default();
            format!("?ns={namespace} names {registry}")
        }
        ChosenBy::Host => {
            let (host, _) = &explained.request;
            format!("the Host {host} is one of the `hosts` of {registry}")
        }
        ChosenBy::Prefix => format!("the name begins with a name of {registry}"),
        ChosenBy::Owns => format!(
            "the name matches `owns` of {registry}; no listener, ns, Host or prefix decides before"
        ),
        ChosenBy::Default => format!(
            "no listener, ns, Host, prefix or `owns` claims the name; {registry} is the default registry"
        ),
    }
}

/// Why the client is served its API, and which manifests it reads.
pub fn client(client: &ExplainedClient) -> String {
    let reads = match client.class {
        AcceptClass::Full => "it reads indexes",
        AcceptClass::NoList => "it reads no indexes, and gets the image for linux/amd64",
        AcceptClass::Schema1 => "it reads schema 1 alone",
    };
    match client.because {
        SpokenBecause::OldClient => {
            "its User-Agent is in the table of old clients, which are not shown v2".to_owned()
        }
        SpokenBecause::RegistryIsV1 => {
            "the registry speaks v1 alone, and this Docker goes on with v1 after a 404 at /v2/"
                .to_owned()
        }
        SpokenBecause::Current => format!("it is in no table of old clients; {reads}"),
    }
}

/// What decides about `who`.
pub fn judgement(
    judgement: &Judgement,
    who: &str,
    name: &RepositoryName,
    line: impl Fn(usize) -> Option<u64>,
) -> String {
    let registry = &name.registry;
    match (judgement.verdict, &judgement.rule) {
        (Verdict::AllowedByRule, Some((index, _))) => {
            let number = index + 1;
            match line(*index) {
                Some(line) => format!("rule {number}, in line {line}, allows {who} to pull it"),
                None => format!("rule {number} allows {who} to pull it"),
            }
        }
        (Verdict::AllowedByRule, None) => format!("a rule allows {who} to pull it"),
        (Verdict::AllowedPublic, _) => {
            format!("there is no `access`, and {registry} is public")
        }
        (Verdict::Delegated, _) => format!(
            "{registry} has `visibility: caller`: it decides itself, by the login that the client sends"
        ),
        (Verdict::Challenged, _) => {
            format!("no rule allows anonymous clients to pull {name}: they are asked to log in")
        }
        (Verdict::UnknownUser, _) => match &judgement.user {
            Some(user) => {
                format!("the htpasswd file has no user {user}: the login fails with any password")
            }
            None => "the login fails".to_owned(),
        },
        (Verdict::NoRule, _) => format!("no rule allows {who} to pull {name}"),
        (Verdict::NotPublic, _) => {
            format!("there is no `access`, and {registry} is not public: nobody may pull from it")
        }
    }
}

/// The same where a login was to be explained that does not count.
pub fn login_ignored(user: &str, because: &str) -> String {
    format!("the login of {user} does not count here, so it is anonymous: {because}")
}

/// How far a tag is trusted.
pub fn tag(freshness: TagFreshness, age: Option<u64>, ttl: Option<Duration>) -> String {
    let age = span(age.unwrap_or(0));
    let ttl = ttl.map_or_else(String::new, |ttl| {
        format!(" (tag_ttl {})", span(ttl.as_secs()))
    });
    match freshness {
        TagFreshness::Fresh(left) => {
            let left = span(left.as_secs());
            format!("it is trusted for another {left}{ttl}")
        }
        TagFreshness::Stretched(left) => {
            let left = span(left.as_secs());
            format!("few pulls are left, so that it is trusted for another {left}{ttl}")
        }
        TagFreshness::Stale(_) => format!(
            "it was confirmed {age} ago{ttl}: the registry is asked, and it is served as it is if that does not answer"
        ),
        TagFreshness::Expired => format!(
            "it was confirmed {age} ago{ttl}: the registry is asked, and without its answer it is too old to be served (max_stale)"
        ),
        TagFreshness::Absent => "it is not in the cache".to_owned(),
        TagFreshness::NotFound => {
            "the registry answered 404 a moment ago, which is remembered (missing_ttl)".to_owned()
        }
    }
}

/// What the gate of the registry does, and why.
pub fn gate(gate: &ExplainedGate) -> String {
    let because = match &gate.outcome {
        GateOutcome::Served => "no rule of the gate denies it".to_owned(),
        GateOutcome::Pinned(digest) => format!("the tag is pinned to {digest}"),
        GateOutcome::HeldBack { warning, .. } => warning.clone(),
        GateOutcome::Denied(denial) => denial.reason.clone(),
        GateOutcome::Undecided(Rule::SignedBy) => {
            "no signature of it is verified yet: the registry is asked for one before it is served"
                .to_owned()
        }
        GateOutcome::Undecided(Rule::Platforms) => {
            "its platform is not known yet: its configuration is read before it is served"
                .to_owned()
        }
        GateOutcome::Undecided(_) => {
            "it depends on where the tag points, which only the registry knows".to_owned()
        }
    };
    match (gate.mode, &gate.outcome) {
        (Mode::Enforce, _) | (Mode::Report, GateOutcome::Served) => because,
        (Mode::Report, _) => format!("{because}; the gate only reports (mode: report)"),
    }
}

/// What a request upstream is for.
pub fn request(reason: RequestReason) -> String {
    let ago = |age: Duration| span(age.as_secs());
    match reason {
        RequestReason::TagUnknown => "the tag is not in the cache".to_owned(),
        RequestReason::TagStale(age) => format!("it was confirmed {} ago", ago(age)),
        RequestReason::ByTagAlone => "it exists under its tag alone".to_owned(),
        RequestReason::TargetUnknown => "unless what the tag points at is stored".to_owned(),
        RequestReason::NotStored => "it is not stored".to_owned(),
        RequestReason::Resumed => "a part of it is stored, and the rest is fetched".to_owned(),
        RequestReason::NotLinked => {
            "it is stored, and this repository is not known to have it".to_owned()
        }
        RequestReason::LinkStale(age) => format!(
            "the repository was confirmed to have it {} ago; asked behind the answer",
            ago(age)
        ),
        RequestReason::LengthUnknown => "the gate reads it only if it is short".to_owned(),
        RequestReason::PublicCheck => {
            "asked without the account, whether anonymous clients may read it".to_owned()
        }
        RequestReason::CallerCheck => {
            "the registry decides for each client, by its own login".to_owned()
        }
        RequestReason::ListUnknown => "no fresh list of it is cached".to_owned(),
        RequestReason::Fallback => "the v1 side is asked for what the v2 side lacks".to_owned(),
        RequestReason::PassThrough => "nothing of this registry is cached".to_owned(),
    }
}

/// Where a v1 client's image comes from.
pub const fn v1_source(source: PullSource) -> &'static str {
    match source {
        PullSource::V1 => "from the registry's v1 API, through the cache",
        PullSource::V1PassThrough => {
            "from the registry's v1 API, each time: it takes pushes, or has `cache: false`"
        }
        PullSource::Bridge => {
            "converted from the v2 image; a client that lists all tags costs one HEAD for each stale one"
        }
        PullSource::V2 | PullSource::V2PassThrough => "",
    }
}

/// What the registry said.
pub fn said(answer: &RegistryAnswer, known: Option<Digest>) -> String {
    match &answer.head {
        Ok(head) => match (head.digest, known) {
            (Some(digest), Some(known)) if digest == known => "it is unchanged".to_owned(),
            (Some(digest), Some(_)) => format!("it points at {digest} now"),
            (Some(digest), None) => format!("it points at {digest}"),
            (None, _) => "the registry has it, and names no digest".to_owned(),
        },
        Err(error) => error.to_string(),
    }
}

/// Why the first request is answered as it is.
pub fn answer(explained: &Explanation, question: &PullQuestion) -> String {
    if !explained.client.is_reachable {
        let from = question.from.map(|from| from.to_string());
        let (from, address) = (from.unwrap_or_default(), &explained.listener.address);
        return format!(
            "a client at {from} cannot connect: {address} takes connections from the gateway's own machine only"
        );
    }
    let Some(content) = &explained.content else {
        let message = explained.answer.message.clone();
        return message.unwrap_or_else(|| {
            "it is denied before anything is looked up; see who may pull".to_owned()
        });
    };
    let pull = match &content.pull {
        Ok(pull) => pull,
        Err(error) => return error.to_string(),
    };
    let gate = content
        .gate
        .as_ref()
        .filter(|gate| gate.mode == Mode::Enforce);
    let is_held_back =
        gate.is_some_and(|gate| matches!(gate.outcome, GateOutcome::HeldBack { .. }));
    let first = match (pull.cache.forwarded(), pull.cache.outcome()) {
        _ if pull.source == PullSource::Bridge => "it is made from the v2 image",
        _ if is_held_back => "the gate serves the target of before (min_age)",
        (None, _) => "from the cache, without the registry",
        (Some(Forward::Bypass), _) => "the registry's answer is passed on",
        (Some(Forward::Stale), _) if pull.stale == Some(StaleReason::Reserved) => {
            "the tag has moved, and the few pulls that are left are for what is not cached"
        }
        (Some(Forward::Stale), _) if pull.stale.is_some() => {
            "the registry cannot be asked now, so that the cached answer is served"
        }
        (Some(Forward::Stale), CacheOutcome::Hit) => {
            "if the registry confirms it; else what it has now is fetched"
        }
        (Some(Forward::Stale), CacheOutcome::Miss) => "the tag has moved, and is fetched",
        (Some(Forward::UriMiss), CacheOutcome::Hit) => {
            "if the registry says that this repository has it"
        }
        (Some(Forward::UriMiss), CacheOutcome::Miss) => "if the registry has it",
    };
    match pull.failures.len() {
        0 => first.to_owned(),
        1 => format!("{first}; 1 part of it would fail"),
        count => format!("{first}; {count} parts of it would fail"),
    }
}
