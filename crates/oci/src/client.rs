//! The generation of the protocol that a client speaks, by its User-Agent. It routes and never authorises,
//! because a client can send any User-Agent.

/// A generation of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Docker up to 1.5: speaks v1, and fails if it is offered v2.
    V1,
    /// Docker 1.6 to 1.9: speaks v2, but knows only schema 1 manifests and sends no `Accept`.
    Schema1,
    /// Docker from 1.10, containerd and every other client: speaks v2, and sends the types that it reads in `Accept`.
    Modern,
}

impl Generation {
    /// The generation of a `User-Agent`. Docker up to 1.5 pings with the bare agent of the Go that built it;
    /// today's Go sends `Go-http-client`.
    pub fn of(user_agent: &str) -> Self {
        if let Some(rest) = user_agent.strip_prefix("docker/") {
            return docker(rest.split([' ', '\t']).next().unwrap_or_default());
        }
        let bare_go = user_agent.starts_with("Go 1.") && user_agent.contains(" package http");
        if bare_go { Self::V1 } else { Self::Modern }
    }
}

/// The generation of a Docker version. A `-dev` build speaks as the version after it.
fn docker(version: &str) -> Generation {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Generation::Modern;
    };
    let minor = minor.saturating_add(version.contains("-dev").into());
    match (major, minor) {
        (0, _) | (1, 0..=5) => Generation::V1,
        (1, 6..=9) => Generation::Schema1,
        _ => Generation::Modern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_by_version() {
        use Generation::{Modern, Schema1, V1};

        let docker = |version: &str| {
            format!("docker/{version} go/go1.4.2 git-commit/0 kernel/4.9.0 os/linux arch/amd64")
        };
        for (version, generation) in [
            ("0.9.1", V1),
            ("1.0.1", V1),
            ("1.1.2", V1),
            ("1.2.0", V1),
            ("1.3.0", V1),
            ("1.3.3", V1),
            ("1.4.1", V1),
            ("1.5.0", V1),
            ("1.5", V1),
            ("1.5.0-dev", Schema1),
            ("1.5.0-1", V1),
            ("1.6.0", Schema1),
            ("1.6.2", Schema1),
            ("1.7.1", Schema1),
            ("1.8.3", Schema1),
            ("1.9.1-fc23", Schema1),
            ("1.9.0-dev", Modern),
            ("1.10.3", Modern),
            ("1.12.6", Modern),
            ("1.13.1", Modern),
            ("17.06.0-ce", Modern),
            ("20.10.24", Modern),
            ("29.7.2", Modern),
            ("", Modern),
            ("x.y", Modern),
            ("1", Modern),
            ("99999999999.1", Modern),
        ] {
            assert_eq!(Generation::of(&docker(version)), generation, "{version}");
        }
        for (agent, generation) in [
            ("Go 1.1 package http", V1),
            ("Go 1.4 package http", V1),
            ("Go-http-client/1.1", Modern),
            ("Go-http-client/2.0", Modern),
            ("containerd/v1.7.27", Modern),
            ("containers/5.36.1 (github.com/containers/image)", Modern),
            ("buildkit/v0.32-dev", Modern),
            ("skopeo/1.9.3", Modern),
            ("curl/7.88 docker/1.5.0", Modern),
            ("docker", Modern),
            ("", Modern),
        ] {
            assert_eq!(Generation::of(agent), generation, "{agent}");
        }
    }
}
