//! The versions of Docker's daemon from 2014 to 2016, and what each does differently.

/// One version.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a version does or does not do, each by itself"
)]
pub struct Version {
    pub agent: &'static str,
    /// The product name in its ping, if that differs.
    pub ping: Option<&'static str>,
    /// Whether it requests `/v2/` first.
    pub asks_v2: bool,
    /// Whether it requests a layer's length by HEAD.
    pub heads: bool,
    /// Whether it requests only the tag that it pulls.
    pub asks_tag: bool,
    /// Whether it creates accounts when a login is required.
    pub creates_users: bool,
}

const fn version(agent: &'static str, ping: Option<&'static str>) -> Version {
    Version {
        agent,
        ping,
        asks_v2: false,
        heads: false,
        asks_tag: false,
        creates_users: true,
    }
}

const GO: Option<&str> = Some("Go 1.1 package http");

/// Versions that speak only v1.
pub const OLD: [Version; 5] = [
    Version {
        heads: true,
        ..version(
            "docker/1.0.1 go/go1.2.1 git-commit/990021a kernel/3.13.0-24-generic os/linux arch/amd64",
            GO,
        )
    },
    version(
        "docker/1.2.0 go/go1.3.1 git-commit/fa7b24f kernel/3.16.0 os/linux arch/amd64",
        GO,
    ),
    version(
        "docker/1.3.3 go/go1.3.3 git-commit/d344625 kernel/3.16.0 os/linux arch/amd64",
        GO,
    ),
    version(
        "docker/1.4.1 go/go1.3.3 git-commit/5bc2ff8 kernel/3.16.0 os/linux arch/amd64",
        GO,
    ),
    Version {
        asks_v2: true,
        ..version(
            "docker/1.5.0 go/go1.4.1 git-commit/a8a31ef kernel/3.18.0 os/linux arch/amd64",
            GO,
        )
    },
];

/// A version that falls back to v1 after v2: it pings v2 only, and sends only tokens afterwards.
pub const FALLS_BACK: Version = Version {
    asks_v2: true,
    ..version(
        "docker/1.6.2 go/go1.4.2 git-commit/7c8fca2 kernel/3.19.0 os/linux arch/amd64",
        None,
    )
};

/// Versions that request a single tag. The last one looks for v1 only after its fallback.
pub const BY_TAG: [Version; 3] = [
    Version {
        asks_v2: true,
        asks_tag: true,
        ..version(
            "docker/1.8.3 go/go1.4.2 git-commit/f4bf5c7 kernel/3.19.0 os/linux arch/amd64",
            None,
        )
    },
    Version {
        asks_v2: true,
        asks_tag: true,
        ..version(
            "docker/1.10.3 go/go1.5.3 git-commit/20f81dd kernel/4.2.0 os/linux arch/amd64",
            None,
        )
    },
    Version {
        asks_tag: true,
        creates_users: false,
        ..version(
            "docker/1.12.6 go/go1.6.4 git-commit/78d1802 kernel/4.4.0 os/linux arch/amd64 \
             UpstreamClient(Docker-Client/1.12.6 \\(linux\\))",
            None,
        )
    },
];

/// A version that only searches and logs in over v1.
pub const MODERN: Version = Version {
    asks_v2: true,
    creates_users: false,
    ..version(
        "docker/1.11.2 go/go1.5.4 git-commit/b9f10c9 kernel/4.4.0 os/linux arch/amd64",
        None,
    )
};
