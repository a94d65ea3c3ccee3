//! Runs a script: sends each step and judges the response. A step that names something its sender cannot know is
//! sent a second time with decoys instead, and must get the same response.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use super::bindings::{Bindings, Captures, Symbol, symbols};
use super::fault::Fault;
use super::oracle::Model;
use super::request::{Caller, Request, Response, Scopes, with_decoded};
use super::route::{Resource, Route, single_value};
use super::rules::{Action, Place, Rule};
use super::script::{Body, Script, Step};
use super::twin::differences;
use super::wire::RawRequest;
use super::world::{Listener, USERS, World};
use testkit::http::Reply;

/// The first step with a fault.
#[derive(Debug)]
pub struct Failure {
    pub step: usize,
    pub fault: Fault,
    /// The request and the response.
    pub exchange: String,
}

/// Counts events, to detect runs in which nothing of interest happens.
pub type Tally = BTreeMap<&'static str, u64>;

struct Run<'a> {
    world: &'a World,
    bindings: &'a Bindings,
    model: Model<'a>,
    captures: Captures,
    /// The callers that captured tokens stand for.
    callers: BTreeMap<String, Caller>,
    tally: &'a mut Tally,
}

/// Runs a script up to its first fault. `rules` are those of the whole world.
pub fn run(
    world: &World,
    rules: &[Rule],
    script: &Script,
    bindings: &Bindings,
    tally: &mut Tally,
) -> Option<Failure> {
    for holding in &script.holdings {
        // Shrinking can leave contents without what they refer to.
        if world.hold(bindings, holding).is_err() {
            *tally.entry("no valid start").or_default() += 1;
            return None;
        }
    }
    let mut run = Run {
        world,
        bindings,
        model: Model::new(rules, bindings, &script.holdings),
        captures: Captures::new(),
        callers: BTreeMap::new(),
        tally,
    };
    let mut steps = script.steps.iter().enumerate();
    steps.find_map(|(number, step)| {
        let (fault, exchange) = run.perform(step)?;
        Some(Failure {
            step: number,
            fault,
            exchange,
        })
    })
}

impl Run<'_> {
    /// Performs a step and returns its fault, if any. Skips a step if a value was never captured, or if the sender
    /// does not have the bytes to send.
    fn perform(&mut self, step: &Step) -> Option<(Fault, String)> {
        let Some((raw, caller)) = self.prepare(step) else {
            self.count("skipped");
            return None;
        };
        let reply = match self.world.ask(step.listener, &raw) {
            Ok(reply) => reply,
            Err(cut) => return Some((Fault::Silent(format!("{cut:?}")), raw.text())),
        };
        let request = describe(step, &raw, caller);
        let response = Response::new(&reply);
        let exchange = || format!("{}\n\n{reply:?}", raw.text());
        self.model.record(&request, response.status);
        self.note(&request, &response);
        let question = self.model.question(&request, &response);
        let truth = question.and_then(|(place, resource)| self.world.backend(&place, &resource));
        let truth = truth.as_ref().map(Response::new);
        if truth.is_some() {
            self.count("verified at the registry");
        }
        let faults = self.model.judge(&request, &response, truth.as_ref());
        let shown = faults.into_iter().next().map(|fault| (fault, exchange()));
        let found = shown.or_else(|| self.twin(step, &request, &reply));
        if response.succeeded() {
            self.capture(step, &request, &reply);
        }
        if response.status >= 500 {
            self.world.wait_for_registries();
        }
        found
    }

    /// Renders a step's request and determines its caller.
    fn prepare(&self, step: &Step) -> Option<(RawRequest, Caller)> {
        let (login, caller) = match step.who.as_str() {
            "anonymous" => (None, Caller::default()),
            user if USERS.contains(&user) => {
                let user = Some(user.to_owned());
                let caller = Caller { user, scopes: None };
                (Some(World::login(&step.who)), caller)
            }
            token => (
                Some(self.captures.get(token)?.clone()),
                self.callers.get(token)?.clone(),
            ),
        };
        if let Body::Content { name, .. } = &step.body
            && !self.model.may_send(caller.user(), name)
        {
            return None;
        }
        let mut raw = self.render(step, &BTreeSet::new())?;
        if let Some(login) = login {
            raw.headers.push(("Authorization".to_owned(), login));
        }
        let caller = if step.listener == Listener::ReadOnly {
            Caller::default()
        } else {
            caller
        };
        Some((raw, caller))
    }

    fn render(&self, step: &Step, hidden: &BTreeSet<Symbol>) -> Option<RawRequest> {
        let fill = |text: &str| self.bindings.fill(text, &self.captures, hidden);
        let headers = step.headers.iter();
        let headers = headers.map(|(name, value)| Some((name.clone(), fill(value)?)));
        let body = match &step.body {
            Body::None => None,
            Body::Text(text) => Some(fill(text)?.into_bytes()),
            Body::Parts(parts) => {
                let mut form = String::new();
                for (name, value) in parts {
                    let value = fill(value)?;
                    let _ = write!(
                        form,
                        "--xx\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                    );
                }
                Some((form + "--xx--\r\n").into_bytes())
            }
            Body::Content { name, part } => {
                let bytes = &self.bindings.item(name)?.bytes;
                let (from, to) = part.unwrap_or((0, bytes.len()));
                let to = to.min(bytes.len());
                Some(bytes[from.min(to)..to].to_vec())
            }
        };
        Some(RawRequest {
            method: step.method.clone(),
            target: fill(&step.target)?,
            headers: headers.collect::<Option<_>>()?,
            body,
        })
    }

    /// Repeats a step with decoys for what its sender cannot know, and compares the responses.
    fn twin(
        &mut self,
        step: &Step,
        request: &Request<'_>,
        reply: &Reply,
    ) -> Option<(Fault, String)> {
        let symbols = mentioned(step);
        let user = request.caller.user();
        let secrets = symbols
            .iter()
            .filter(|symbol| self.model.is_secret(user, symbol));
        let secrets: BTreeSet<Symbol> = secrets.cloned().collect();
        if secrets.is_empty() || !is_repeatable(request) {
            return None;
        }
        let (original, _) = self.prepare(step)?;
        let mut raw = self.render(step, &secrets)?;
        if let Some(login) = original.header("authorization") {
            raw.headers
                .push(("Authorization".to_owned(), login.to_owned()));
        }
        self.count("sent with decoys");
        let twin = match self.world.ask(step.listener, &raw) {
            Ok(twin) => twin,
            Err(cut) => return Some((Fault::Silent(format!("{cut:?}")), raw.text())),
        };
        let difference = differences(reply, &twin, &self.decoys(&secrets))?;
        let exchange = format!(
            "{step}\n\n{reply:?}\n\nwith decoys:\n{}\n\n{twin:?}",
            raw.text()
        );
        Some((Fault::Tells(difference), exchange))
    }

    /// The decoys of symbols, each with the value it replaces.
    fn decoys(&self, symbols: &BTreeSet<Symbol>) -> Vec<(String, String)> {
        let value = |symbol, is_hidden| self.bindings.value(symbol, &self.captures, is_hidden);
        let pairs = symbols
            .iter()
            .map(|symbol| Some((value(symbol, true)?, value(symbol, false)?)));
        pairs.flatten().collect()
    }

    /// Captures a value from a response for later steps.
    fn capture(&mut self, step: &Step, request: &Request<'_>, reply: &Reply) {
        let Some(name) = &step.capture else { return };
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let value = match name.get(..1) {
            Some("u") => reply.header("location").map(|location| {
                let rooted = location
                    .split_once("://")
                    .and_then(|(_, rest)| rest.split_once('/'));
                rooted.map_or_else(|| location.to_owned(), |(_, path)| format!("/{path}"))
            }),
            Some("k") => {
                let id = body.as_str();
                if let Route::Named {
                    place,
                    resource: Resource::V1(path),
                    ..
                } = &request.route
                {
                    let digest = self.digest_of(place, path);
                    let mut ids = id.into_iter().chain(digest.as_deref());
                    let content = ids.find_map(|id| self.bindings.by_id(id));
                    self.model.capture_id(name, place, content);
                }
                id.map(str::to_owned)
            }
            _ => token_of(request, reply, &body).map(|(value, scopes)| {
                let caller = Caller {
                    user: request.caller.user.clone(),
                    scopes: Some(scopes),
                };
                self.callers.insert(name.clone(), caller);
                value
            }),
        };
        if let Some(value) = value {
            self.captures.insert(name.clone(), value);
        }
    }

    /// The digest that the v2 side has for the tag of a path over v1, `tags/<tag>`.
    fn digest_of(&self, place: &Place, path: &str) -> Option<String> {
        let tag = path.strip_prefix("tags/")?;
        let manifest = self.world.backend(place, &format!("manifests/{tag}"))?;
        Some(manifest.header("docker-content-digest")?.to_owned())
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn note(&mut self, request: &Request<'_>, response: &Response<'_>) {
        self.count("steps");
        let version = if request.is_v1() { "v1" } else { "v2" };
        self.count(match (request.action(), response.status, version) {
            (Action::Pull, 200..=399, "v1") => "v1 reads that succeed",
            (Action::Pull, 200..=399, _) => "v2 reads that succeed",
            (Action::Push, 201, "v2") if request.method == "POST" => "mounts that succeed",
            (_, 200..=399, _) => "writes that succeed",
            (_, 401 | 403, _) => "refused for rights",
            (_, 404, _) => "not found",
            (_, 500.., _) => "failed upstream",
            _ => "refused otherwise",
        });
    }
}

fn mentioned(step: &Step) -> BTreeSet<Symbol> {
    let mut texts = vec![step.target.as_str()];
    texts.extend(step.headers.iter().map(|(_, value)| value.as_str()));
    match &step.body {
        Body::Text(text) => texts.push(text),
        Body::Parts(parts) => texts.extend(parts.iter().map(|(_, value)| value.as_str())),
        Body::None | Body::Content { .. } => {}
    }
    texts.into_iter().flat_map(symbols).collect()
}

/// Whether a request can be repeated with decoys: one to an upload meets another state, and a v1 pusher may learn
/// which ids exist.
fn is_repeatable(request: &Request<'_>) -> bool {
    let resource = match &request.route {
        Route::Named { resource, .. } => Some(resource),
        _ => None,
    };
    let is_v1_push = request.is_v1() && request.action() != Action::Pull;
    resource != Some(&Resource::Upload) && !is_v1_push
}

/// Describes a request to the model.
pub fn describe<'a>(step: &'a Step, raw: &'a RawRequest, caller: Caller) -> Request<'a> {
    let query = raw.target.split_once('?').map_or("", |(_, query)| query);
    Request {
        caller,
        listener: step.listener,
        host: raw.header("host"),
        namespace: single_value(query, "ns").ok().flatten(),
        method: &step.method,
        route: Route::read(step.listener, raw.header("host"), &raw.target),
        sends: match &step.body {
            Body::Content { name, .. } => Some(name),
            _ => None,
        },
        text: with_decoded(&raw.text()),
    }
}

/// Extracts a token from a response: its `Authorization` value and its scopes.
fn token_of(request: &Request<'_>, reply: &Reply, body: &Value) -> Option<(String, Scopes)> {
    if let Some(token) = body["token"].as_str() {
        let line = request.text.lines().next().unwrap_or_default();
        let query = line.split_once('?').map_or("", |(_, query)| query);
        let scopes = url::form_urlencoded::parse(query.as_bytes());
        let scopes: Vec<String> = scopes
            .filter(|(key, _)| key == "scope")
            .map(|(_, value)| value.into_owned())
            .collect();
        return Some((format!("Bearer {token}"), Scopes::parse(&scopes.join(" "))));
    }
    let token = reply.header("x-docker-token")?;
    let Route::Named { typed, .. } = &request.route else {
        return None;
    };
    let actions = match request.action() {
        Action::Push => vec![Action::Pull, Action::Push],
        action => vec![action],
    };
    let repositories = actions.into_iter().map(|action| (typed.clone(), action));
    let scopes = Scopes {
        repositories: repositories.collect(),
        catalog: false,
    };
    Some((format!("Token {token}"), scopes))
}
