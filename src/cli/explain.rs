//! `explain`: how the running gateway would answer a pull.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::File;
use super::admin_client::AdminClient;
use super::operate::print_result;
use super::show::{counted, size};
use crate::admin::{Blob, ContentState, ExplainRequest, Explanation, Image, JudgementPart};
use crate::config::Config;
use oci::platform::Platforms;

/// The options of the command.
#[derive(Args, Debug)]
pub struct Options {
    /// The image as a client would write it; without a tag, `latest`.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The user that pulls. The default is an anonymous client.
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// The program that pulls: docker-VERSION as in docker-1.5, docker, containerd, podman, skopeo, buildkit, crane,
    /// helm, or a User-Agent. The default is containerd.
    #[arg(long)]
    client: Option<String>,
    /// The client's address. The default is a client on the gateway's machine.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// The listener, by its address in the configuration. The default is the first that the client can reach.
    #[arg(long, value_name = "ADDRESS")]
    listener: Option<String>,
    /// The registry that the client names in `?ns=`, as containerd does.
    #[arg(long)]
    ns: Option<String>,
    /// The Host that the client sends. The default is that of the image's name, else the listener's.
    #[arg(long)]
    host: Option<String>,
    /// The platform that is pulled, such as linux/arm/v7, or all. The default is the gateway's own.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]|all")]
    platform: Option<Platforms>,
    /// Ask the registry with one HEAD whether the tag has moved.
    #[arg(long)]
    ask: bool,
    /// Print the JSON of the API.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub file: File,
}

impl Options {
    fn request(&self) -> ExplainRequest {
        ExplainRequest {
            image: self.image.clone(),
            user: self.user.clone(),
            client: self.client.clone(),
            from: self.from.map(|from| from.to_string()),
            listener: self.listener.clone(),
            ns: self.ns.clone(),
            host: self.host.clone(),
            platform: self.platform.as_ref().map(ToString::to_string),
            ask: self.ask,
        }
    }
}

pub fn run(config: &Config, options: &Options) -> ExitCode {
    let explained = AdminClient::of(config)
        .and_then(|client| client.post::<serde_json::Value>("/api/v1/explain", &options.request()));
    if options.json {
        return print_result(explained, |json| format!("{json:#}\n"));
    }
    let explained = explained.and_then(|json| Ok(serde_json::from_value(json)?));
    print_result(explained, |explanation| show(&explanation))
}

/// The explanation as text: a heading, and lines below each other.
fn show(explanation: &Explanation) -> String {
    let mut text = String::new();
    let Explanation { answer, client, .. } = explanation;
    let cache = answer.cache_status.as_deref();
    let cache = cache.map_or_else(String::new, |cache| format!(", {cache}"));
    let status = match answer.status {
        0 => "none".to_owned(),
        status => format!("{status}{cache}"),
    };
    let _ = writeln!(text, "{}\n", explanation.image);
    part(&mut text, "answer", &status, &answer.because);
    match &explanation.route {
        Some(route) => {
            let name = format!("{}/{}", route.registry, route.repository);
            part(&mut text, "registry", &name, &route.because);
        }
        None => line(&mut text, "registry", "none"),
    }
    let request = &explanation.request;
    let first = format!("{} {} at {}", request.method, request.target, request.host);
    line(&mut text, "request", &first);
    let api = format!(
        "{}, accept class {}, to {}",
        client.api, client.accept_class, explanation.listener.url
    );
    part(&mut text, "client", &api, &client.because);
    line(&mut text, "", &client.user_agent);
    if let (Some(taken), Some(most)) = (client.requests_in_flight, client.requests_limit) {
        let share = format!("{taken} of {most} requests in flight");
        line(&mut text, "", &share);
    }
    access(&mut text, explanation);
    if let Some(gate) = &explanation.gate {
        let rule = gate.rule.as_ref();
        let rule = rule.map_or_else(String::new, |rule| format!(" by {rule}"));
        let decision = format!("{}{rule}, mode {}", gate.decision, gate.mode);
        part(&mut text, "gate", &decision, &gate.because);
    }
    content(&mut text, explanation);
    upstream(&mut text, explanation);
    text
}

fn access(text: &mut String, explanation: &Explanation) {
    let Some(access) = &explanation.access else {
        return;
    };
    let judged = |judgement: &JudgementPart| match judgement.status {
        200 => judgement.decision.clone(),
        status => format!("{} ({status})", judgement.decision),
    };
    let who = access.user.as_deref().unwrap_or("anonymous");
    let decision = format!("{}: {who}", judged(&access.own));
    part(text, "access", &decision, &access.own.because);
    if let Some(rule) = &access.rule {
        line(text, "", rule);
    }
    if access.user.is_some() {
        let anonymous = format!("anonymous: {}", judged(&access.anonymous));
        line(text, "", &anonymous);
    }
    if let Some(unknown) = &access.unknown_user {
        line(text, "", &format!("an unknown user: {}", judged(unknown)));
    }
}

fn content(text: &mut String, explanation: &Explanation) {
    if let Some(tag) = &explanation.tag {
        let digest = tag.digest.as_deref().unwrap_or_default();
        let state = format!("{} {digest}", tag.state);
        part(text, "tag", state.trim_end(), &tag.because);
    }
    if let Some(image) = &explanation.v1_image {
        let id = image.id.as_deref().unwrap_or("unknown");
        part(text, "v1 image", id, &image.because);
        for one in &image.parts {
            let size = one.size_bytes.map_or_else(String::new, size);
            let parts = format!("{} {} {size}", one.name, word(one.state));
            line(text, "", parts.trim_end());
        }
    }
    let Some(manifest) = &explanation.manifest else {
        return;
    };
    let own = format!(
        "{} {}{}",
        manifest.digest,
        word(manifest.state),
        unlinked(manifest.linked)
    );
    line(text, "manifest", &own);
    for image in &manifest.images {
        line(text, "", &heading(image));
        let config = image.config.iter().map(|config| ("config", config));
        let layers = image.layers.iter().map(|layer| ("layer", layer));
        for (kind, blob) in config.chain(layers) {
            line(text, "", &format!("  {}", blob_line(kind, blob)));
        }
    }
    let listed = manifest.images.len() as u64;
    if listed < manifest.images_total {
        let more = manifest.images_total - listed;
        line(text, "", &format!("and {more} more"));
    }
}

fn heading(image: &Image) -> String {
    let name = image.platform.as_ref().or(image.artifact_type.as_ref());
    let name = name.map_or("image", String::as_str);
    let stored = match image.total_bytes {
        Some(total) => format!("{} of {}", size(image.cached_bytes), size(total)),
        None => word(image.state).to_owned(),
    };
    format!(
        "{name} {}: {stored}{}",
        image.digest,
        unlinked(image.linked)
    )
}

fn blob_line(kind: &str, blob: &Blob) -> String {
    let length = blob.size_bytes.map_or_else(|| "?".to_owned(), size);
    let so_far = match blob.state {
        ContentState::Fetching => format!(", {} so far", size(blob.cached_bytes)),
        _ => String::new(),
    };
    format!(
        "{kind} {} {length} {}{so_far}{}",
        blob.digest,
        word(blob.state),
        unlinked(blob.linked)
    )
}

fn upstream(text: &mut String, explanation: &Explanation) {
    let upstream = &explanation.upstream;
    if explanation.access.is_none() {
        return;
    }
    if let Some(said) = &upstream.said {
        let answered = format!("{} after {:.2} s", said.outcome, said.duration_seconds);
        part(text, "asked", &answered, &said.because);
    }
    let requests = counted(upstream.requests.len() as u64, "request");
    line(text, "upstream", &requests);
    for request in &upstream.requests {
        let counts = if request.counted { ", counted" } else { "" };
        let asked = format!("{} {}{counts}", request.method, request.url);
        part(text, "", &asked, &format!("  {}", request.because));
    }
    if upstream.incomplete {
        let more = "and those for what only the registry can name";
        line(text, "", more);
    }
    for failure in &upstream.failures {
        let failed = format!("fails ({}): {}", failure.status, failure.content);
        part(text, "", &failed, &format!("  {}", failure.because));
    }
    if let Some(breaker) = upstream
        .breaker
        .as_ref()
        .filter(|one| one.state != "closed")
    {
        line(
            text,
            "",
            &format!("the circuit breaker is {}", breaker.state),
        );
    }
    let left = match (upstream.rate_limit_remaining, &upstream.rate_limit) {
        (Some(left), _) => format!(" of {left} that are left"),
        _ => String::new(),
    };
    let fetched = upstream
        .fetch_bytes
        .map_or_else(|| "an unknown number of bytes".to_owned(), size);
    let pulls = counted(upstream.rate_limit_cost, "pull");
    line(text, "cost", &format!("{pulls}{left}, {fetched}"));
    if !explanation.asked_upstream {
        line(text, "", "nothing was asked upstream to find this out");
    }
}

const fn word(state: ContentState) -> &'static str {
    match state {
        ContentState::Present => "stored",
        ContentState::Partial => "stored in part",
        ContentState::Fetching => "being fetched",
        ContentState::Missing => "missing",
    }
}

const fn unlinked(linked: bool) -> &'static str {
    if linked { "" } else { ", not linked" }
}

fn part(text: &mut String, heading: &str, first: &str, because: &str) {
    line(text, heading, first);
    line(text, "", because);
}

fn line(text: &mut String, heading: &str, rest: &str) {
    let _ = writeln!(text, "{heading:<10} {rest}");
}
