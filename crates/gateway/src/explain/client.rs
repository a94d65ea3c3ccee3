//! Clients by name, with the headers by which the gateway tells them apart.

use http::{HeaderMap, HeaderValue, header};

use super::super::pull::accept_class;
use oci::client::Generation;
use oci::manifest::{
    AcceptClass, DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1_SIGNED, OCI_INDEX, OCI_MANIFEST,
};

/// The platform that an old Docker states.
const LINUX: &str = "os/linux arch/amd64";
/// The types that a current client accepts.
const CURRENT: &[&str] = &[DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"];
/// Those of Docker from 1.10, which names no others.
const DOCKER: &[&str] = &[DOCKER_SCHEMA1_SIGNED, DOCKER_MANIFEST, DOCKER_LIST];

/// The names of clients, their User-Agents, and the types that they accept.
const CLIENTS: &[(&str, &str, &[&str])] = &[
    ("containerd", "containerd/v2.1.4", CURRENT),
    (
        "docker",
        "docker/28.3.3 go/go1.24.5 git-commit/bea959c kernel/6.12.0 os/linux arch/amd64 \
         UpstreamClient(Docker-Client/28.3.3 \\(linux\\))",
        &[DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX],
    ),
    (
        "podman",
        "containers/5.36.1 (github.com/containers/image)",
        CURRENT,
    ),
    (
        "skopeo",
        "skopeo/1.20.0 (github.com/containers/image)",
        CURRENT,
    ),
    ("buildkit", "buildkit/v0.23", CURRENT),
    (
        "crane",
        "crane/v0.20.6 go-containerregistry/v0.20.6",
        CURRENT,
    ),
    ("helm", "Helm/3.18.4", CURRENT),
];

/// A text that names no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Neither a name nor a User-Agent.
    #[error(
        "{0:?} is no client; write docker-VERSION as in docker-1.5, docker, containerd, podman, skopeo, buildkit, crane, \
         helm, or a User-Agent"
    )]
    Unknown(String),
    /// A character that no header has.
    #[error("a User-Agent has no control characters")]
    Header,
}

/// A client with the headers that it sends.
#[derive(Clone, Debug)]
pub struct SampleClient {
    headers: HeaderMap,
    speaks_v1: bool,
}

impl SampleClient {
    /// A current containerd.
    pub fn current() -> Self {
        let (_, agent, accept) = CLIENTS[0];
        Self::of(agent, accept)
    }

    /// A client by its name, or by its User-Agent.
    ///
    /// # Errors
    /// [`ClientError`] for anything else.
    pub fn named(text: &str) -> Result<Self, ClientError> {
        if HeaderValue::from_str(text).is_err() {
            return Err(ClientError::Header);
        }
        if let Some((_, agent, accept)) = CLIENTS.iter().find(|(name, ..)| *name == text) {
            return Ok(Self::of(agent, accept));
        }
        if let Some(version) = text.strip_prefix("docker-")
            && version.starts_with(|first: char| first.is_ascii_digit())
            && version.contains('.')
        {
            let patch = if version.matches('.').count() == 1 {
                ".0"
            } else {
                ""
            };
            let agent =
                format!("docker/{version}{patch} go/go1.4 git-commit/0 kernel/4.9.0 {LINUX}");
            return Ok(Self::of(&agent, accepted_by(&agent)));
        }
        if text.contains(['/', ' ']) {
            return Ok(Self::of(text, accepted_by(text)));
        }
        Err(ClientError::Unknown(text.to_owned()))
    }

    fn of(agent: &str, accept: &[&str]) -> Self {
        let mut headers = HeaderMap::new();
        if let Ok(agent) = HeaderValue::from_str(agent) {
            headers.insert(header::USER_AGENT, agent);
        }
        if let Ok(accept) = HeaderValue::from_str(&accept.join(", "))
            && !accept.is_empty()
        {
            headers.insert(header::ACCEPT, accept);
        }
        Self {
            speaks_v1: speaks_v1(agent),
            headers,
        }
    }

    /// Its `User-Agent`.
    pub fn agent(&self) -> &str {
        let agent = self.headers.get(header::USER_AGENT);
        agent
            .and_then(|agent| agent.to_str().ok())
            .unwrap_or_default()
    }

    /// Which manifests it reads.
    pub fn accept_class(&self) -> AcceptClass {
        accept_class(&self.headers)
    }

    /// Whether it continues with v1 after a 404 at `/v2/`: Docker up to 1.12.
    pub fn speaks_v1(&self) -> bool {
        self.speaks_v1
    }
}

/// The types that the client of a User-Agent accepts.
fn accepted_by(agent: &str) -> &'static [&'static str] {
    let product = |agent: &str| {
        agent
            .split(['/', ' '])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    match Generation::of(agent) {
        // They send no `Accept`.
        Generation::V1 | Generation::Schema1 => &[],
        Generation::Modern if agent.starts_with("docker/1.") => DOCKER,
        Generation::Modern => {
            let mut known = CLIENTS.iter();
            let known = known.find(|(_, known, _)| product(known) == product(agent));
            known.map_or(CURRENT, |(.., accept)| *accept)
        }
    }
}

fn speaks_v1(agent: &str) -> bool {
    let minor = agent
        .strip_prefix("docker/1.")
        .and_then(|rest| rest.split(['.', ' ', '-']).next()?.parse::<u32>().ok());
    Generation::of(agent) == Generation::V1 || minor.is_some_and(|minor| minor <= 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_by_their_headers() {
        use AcceptClass::{Full, Schema1};
        use Generation::{Modern, V1};

        for (text, generation, class, speaks_v1) in [
            ("docker-1.0", V1, Full, true),
            ("docker-1.5", V1, Full, true),
            ("docker-1.5.0", V1, Full, true),
            ("docker-1.6", Generation::Schema1, Schema1, true),
            ("docker-1.9.1", Generation::Schema1, Schema1, true),
            ("docker-1.12", Modern, Full, true),
            ("docker-1.13", Modern, Full, false),
            ("docker-20.10", Modern, Full, false),
            ("docker", Modern, Full, false),
            ("containerd", Modern, Full, false),
            ("helm", Modern, Full, false),
            ("Go 1.1 package http", V1, Full, true),
            ("curl/8.5", Modern, Full, false),
        ] {
            let client = SampleClient::named(text).expect("a client");
            assert_eq!(Generation::of(client.agent()), generation, "{text}");
            assert_eq!(client.accept_class(), class, "{text}");
            assert_eq!(client.speaks_v1(), speaks_v1, "{text}");
        }
        for text in ["", "docker-", "docker-x", "netscape", "a\nb/1"] {
            assert!(SampleClient::named(text).is_err(), "{text}");
        }
        assert_eq!(SampleClient::current().accept_class(), Full);
    }
}
