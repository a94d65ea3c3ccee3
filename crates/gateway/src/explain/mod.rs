//! Explains how a pull would be answered, by the functions that answer it: routing, the table of old clients, the rules,
//! and the dry run of the mirror. Nothing is sent, stored, counted or noted as a use.
//!
//! Only the operator asks. What a client may not know, such as whether denied content is cached, is not looked up either.

mod access;
mod client;
mod content;

use std::net::IpAddr;

use http::Method;

use super::error_response::ErrorResponse;
use super::resolver::{ChosenBy, ResolveError};
use super::route::{Route, route};
use super::table::RequestParts;
use super::target::RequestTarget;
use super::{Gateway, v1};
use oci::cache_status::CacheStatus;
use oci::manifest::AcceptClass;
use oci::name::{Reference, RepositoryName};
use oci::platform::Platforms;
use oci::query::Query;

pub use access::{ExplainedAccess, Judgement, Verdict};
pub use client::{ClientError, SampleClient};
pub use content::{ExplainedContent, ExplainedGate, ExplainedPart, ExplainedPull, PullSource};

/// The gateway's listeners, for an operator who asks how they would answer.
#[derive(Debug)]
pub struct Explainer {
    listeners: Vec<(ExplainedListener, Gateway)>,
}

/// A listener, as an explanation names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedListener {
    /// As configured.
    pub address: String,
    /// As clients reach it: `https://127.0.0.1:5000` or `unix:PATH`.
    pub url: String,
}

/// Whose pull of what is to be explained.
#[derive(Clone, Debug)]
pub struct PullQuestion {
    /// The name as a client writes it, with the gateway's host, its registry's prefix, or neither.
    pub name: String,
    /// The tag or digest.
    pub reference: Reference,
    /// Who logs in; `None`: anonymous.
    pub user: Option<String>,
    /// Which program pulls.
    pub client: SampleClient,
    /// The client's address; `None`: on this machine.
    pub from: Option<IpAddr>,
    /// `listen[].address`; `None`: the first that the client can reach.
    pub listener: Option<String>,
    /// The value of `?ns=`.
    pub namespace: Option<String>,
    /// The Host that the client sends; `None`: that of the name, else the listener's.
    pub host: Option<String>,
    /// The platforms that are pulled.
    pub platforms: Platforms,
    /// Whether the registry is asked for the tag with one HEAD.
    pub asks_registry: bool,
}

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// There is no listener with this address.
    #[error("no listener has the address {0}; there are: {1}")]
    Listener(String, String),
    /// The name is no repository's.
    #[error(transparent)]
    Name(ResolveError),
    /// The Host is none that a client could send.
    #[error("{0} is no host: write a name or an address, with a port if it has one")]
    Host(String),
}

/// How a pull would be answered.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The listener that gets the request.
    pub listener: ExplainedListener,
    /// The `Host` and the target of the first request.
    pub request: (String, String),
    /// The client, as the gateway recognises it.
    pub client: ExplainedClient,
    /// The registry of the name; `None`: it has none.
    pub route: Option<ExplainedRoute>,
    /// Whether the client may pull; `None` without a registry.
    pub access: Option<ExplainedAccess>,
    /// What is cached, and what would be asked upstream; `None` unless the client may pull.
    pub content: Option<ExplainedContent>,
    /// The answer to the first request.
    pub answer: Answer,
}

/// How a client is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedClient {
    /// Its `User-Agent`.
    pub agent: String,
    /// The API that it is served.
    pub api: ApiVersion,
    /// Why that.
    pub because: SpokenBecause,
    /// Which manifests it reads.
    pub class: AcceptClass,
    /// Whether its listener takes connections from other machines, where it is on one.
    pub is_reachable: bool,
    /// The requests that it has in flight, and the most that it may; `None` for clients that are not limited.
    pub share: Option<(usize, Option<usize>)>,
}

/// A version of the registry API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// Docker's of 2013.
    V1,
    /// The distribution specification's.
    V2,
}

/// Why a client is served this API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpokenBecause {
    /// Its User-Agent is in the table of old clients.
    OldClient,
    /// It speaks both, and the registry v1 alone.
    RegistryIsV1,
    /// It is in no table of old clients.
    Current,
}

/// The registry of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedRoute {
    /// The canonical name.
    pub name: RepositoryName,
    /// What selects the registry.
    pub chosen_by: ChosenBy,
    /// Whether the registry's content is cached.
    pub is_cached: bool,
}

/// The answer to the first request of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status; 0: the client cannot connect.
    pub status: u16,
    /// How the cache would handle it.
    pub cache: Option<CacheStatus>,
    /// The message of an error response.
    pub message: Option<String>,
}

/// What a pull is routed to.
pub(super) struct Routed {
    pub api: ApiVersion,
    pub because: SpokenBecause,
    pub target: Result<RequestTarget, ErrorResponse>,
    /// `None` where no registry has the name.
    pub chosen_by: Option<ChosenBy>,
    pub is_cached: bool,
}

impl Explainer {
    /// `listeners` are those of the data plane, in the order of the configuration.
    pub fn new(listeners: Vec<(ExplainedListener, Gateway)>) -> Self {
        Self { listeners }
    }

    /// Explains a pull. Blocks on the disk only on threads that may.
    ///
    /// # Errors
    /// [`QuestionError`] for a listener, Host or name that does not exist.
    pub async fn explain(&self, question: PullQuestion) -> Result<Explanation, QuestionError> {
        let (listener, gateway) = self.listener(&question)?;
        let (host, name) = gateway.host_and_name(listener, &question)?;
        let routed = gateway.route_pull(&question, &host, &name)?;
        let request = match routed.api {
            ApiVersion::V1 => format!("/v1/repositories/{name}/images"),
            ApiVersion::V2 => format!("/v2/{name}/manifests/{}", question.reference),
        };
        let client = ExplainedClient {
            agent: question.client.agent().to_owned(),
            api: routed.api,
            because: routed.because,
            class: question.client.accept_class(),
            is_reachable: listener.is_reachable_from(question.from),
            share: gateway.state.admission.share_of(question.from),
        };
        let mut explanation = Explanation {
            listener: listener.clone(),
            request: (host, request),
            client,
            route: None,
            access: None,
            content: None,
            answer: Answer::of(200, None, None),
        };
        let target = match routed.target {
            Ok(target) => target,
            Err(refusal) => {
                explanation.answer = Answer::refused(&refusal);
                return Ok(explanation.checked());
            }
        };
        explanation.route = routed.chosen_by.map(|chosen_by| ExplainedRoute {
            name: target.name.clone(),
            chosen_by,
            is_cached: routed.is_cached,
        });
        let (access, permit) = gateway.judge(&question, &target).await;
        explanation.answer = Answer::of(access.own.status, Some(CacheStatus::own("refused")), None);
        if routed.api == ApiVersion::V1 {
            explanation.answer.cache = Some(CacheStatus::own("v1"));
        }
        explanation.access = Some(access);
        if let Some(permit) = permit {
            let (state, api) = (gateway.state.clone(), routed.api);
            let content = content::look_up(state, question, permit, api, routed.is_cached).await;
            explanation.answer = content.answer();
            explanation.content = Some(content);
        }
        Ok(explanation.checked())
    }

    /// The listener that the client connects to: the one that was named, else the first that it can reach.
    fn listener(
        &self,
        question: &PullQuestion,
    ) -> Result<&(ExplainedListener, Gateway), QuestionError> {
        let mut listeners = self.listeners.iter();
        let found = match &question.listener {
            Some(address) => listeners
                .find(|(listener, _)| listener.address == *address || listener.url == *address),
            None => listeners
                .find(|(listener, _)| listener.is_reachable_from(question.from))
                .or(self.listeners.first()),
        };
        found.ok_or_else(|| {
            let address = question.listener.clone().unwrap_or_default();
            let all = self.listeners.iter();
            let all: Vec<&str> = all.map(|(one, _)| one.address.as_str()).collect();
            QuestionError::Listener(address, all.join(", "))
        })
    }
}

impl ExplainedListener {
    /// The authority that clients send as Host.
    fn authority(&self) -> &str {
        let authority = self.url.split_once("://");
        authority.map_or("localhost", |(_, authority)| authority)
    }

    /// Whether a client at this address can connect; `None` is on this machine.
    fn is_reachable_from(&self, from: Option<IpAddr>) -> bool {
        let Some(from) = from.map(|from| from.to_canonical()) else {
            return true;
        };
        let (host, _) = oci::authority::split_port(self.authority());
        let own = oci::authority::unbracketed(host).parse::<IpAddr>();
        let is_loopback = own.is_ok_and(|own| own.to_canonical().is_loopback());
        let is_local = is_loopback || self.url.starts_with("unix:");
        from.is_loopback() || !is_local
    }
}

impl Explanation {
    /// The explanation to a client that may be unable to connect.
    fn checked(mut self) -> Self {
        if !self.client.is_reachable {
            self.answer = Answer::of(0, None, None);
        }
        self
    }
}

impl Answer {
    fn of(status: u16, cache: Option<CacheStatus>, message: Option<String>) -> Self {
        Self {
            status,
            cache,
            message,
        }
    }

    fn refused(refusal: &ErrorResponse) -> Self {
        let message = Some(refusal.message.to_string());
        Self::of(
            refusal.status.as_u16(),
            Some(CacheStatus::own("refused")),
            message,
        )
    }
}

impl Gateway {
    /// The Host that the client sends, and the name in its request. A name may begin with the gateway's host, or with one
    /// that selects a registry, as in `docker pull HOST/NAME`; on a listener of one registry, with that registry's name.
    fn host_and_name(
        &self,
        listener: &ExplainedListener,
        question: &PullQuestion,
    ) -> Result<(String, String), QuestionError> {
        let name = question.name.as_str();
        let own = || {
            let url = self.listener.public_url.as_deref();
            let authority = url.and_then(|url| Some(url.split_once("://")?.1));
            authority.unwrap_or(listener.authority()).to_owned()
        };
        if let Some(host) = &question.host {
            return if oci::authority::is_valid(host) {
                Ok((host.clone(), name.to_owned()))
            } else {
                Err(QuestionError::Host(host.clone()))
            };
        }
        let resolver = &self.state.table.resolver;
        if let Some(registry) = &self.listener.registry {
            let is_own = |prefix: &str| {
                let entry = resolver.by_name(prefix);
                entry.is_some_and(|entry| entry.registry == *registry)
            };
            let rest = name.split_once('/').filter(|(first, _)| is_own(first));
            return Ok((own(), rest.map_or(name, |(_, rest)| rest).to_owned()));
        }
        let Some((first, rest)) = name.split_once('/') else {
            return Ok((own(), name.to_owned()));
        };
        let context = self.listener.name_context(None, Some(first));
        let selects = resolver.fixed(context).is_ok_and(|fixed| fixed.is_some());
        let is_host = selects || first == listener.authority() || first == own();
        Ok(if is_host {
            (first.to_owned(), rest.to_owned())
        } else {
            (own(), name.to_owned())
        })
    }

    /// Routes the first request of a pull: a client that speaks both APIs asks for v2 first.
    fn route_pull(
        &self,
        question: &PullQuestion,
        host: &str,
        name: &str,
    ) -> Result<Routed, QuestionError> {
        let query = match &question.namespace {
            Some(namespace) => Query::default().with("ns", namespace).render_pairs(),
            None => String::new(),
        };
        let path = format!("/v2/{name}/manifests/{}", question.reference);
        let parts = |path| RequestParts {
            method: &Method::GET,
            path,
            query: &query,
            host: Some(host),
            agent: question.client.agent(),
        };
        let table = &self.state.table;
        let is_old = table.old_clients.include(question.client.agent());
        let is_v1 = v1::instead_of_v2(table, &self.listener, &parts("/v2/")).is_some();
        if is_v1 && (is_old || question.client.speaks_v1()) {
            let because = if is_old {
                SpokenBecause::OldClient
            } else {
                SpokenBecause::RegistryIsV1
            };
            let path = format!("/v1/repositories/{name}/images");
            let routed = v1::routed(self, parts(&path), name, &question.reference, because);
            return routed.map_err(QuestionError::Name);
        }
        let context = self
            .listener
            .name_context(question.namespace.as_deref(), Some(host));
        let chosen = table.resolver.choose(context, name);
        let named = chosen.and_then(|chosen| Ok(chosen.entry.repository(chosen.rest)?));
        if let Err(error @ (ResolveError::Name(_) | ResolveError::TooLong)) = named {
            return Err(QuestionError::Name(error));
        }
        let target = match route(table, &self.listener, parts(&path)) {
            Ok(Route::Pull(target)) => Ok(target),
            Ok(Route::PassThrough(pass)) => Ok(pass.target),
            // A path of the API with a repository is nothing else.
            Ok(_) => Err(super::route::unknown_path()),
            Err(refusal) => Err(refusal),
        };
        Ok(Routed {
            api: ApiVersion::V2,
            because: SpokenBecause::Current,
            target,
            chosen_by: chosen.ok().map(|chosen| chosen.chosen_by),
            is_cached: chosen.is_ok_and(|chosen| chosen.entry.cached),
        })
    }
}
