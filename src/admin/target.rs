//! Parses the `IMAGE`, `DIGEST` or `REGISTRY` of a command. Pure.

use gateway::{NameContext, ResolveError, Resolver};
use mirror::ImageReference;
use oci::digest::Digest;
use oci::name::{NameError, Reference, ReferenceError, Registry, Tag};
use store::PurgeTarget;

/// A text that names no image, digest or registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{0} belongs to no registry: write the registry's name before it")]
    NoRegistry(String),
    #[error("{0}; write [registry/]repository[:tag|@digest], a digest, or a registry")]
    Name(#[from] NameError),
    #[error("{0}; write [registry/]repository[:tag|@digest], a digest, or a registry")]
    Reference(#[from] ReferenceError),
    #[error("{0} is no image; write [registry/]repository[:tag|@digest]")]
    NoImage(String),
    #[error("{0} has `cache: false`: its content is not stored")]
    NotCached(Registry),
}

/// Parses the image to warm; the default tag is `latest`.
///
/// # Errors
/// When it is no image, or of no registry that is configured and cached.
pub fn image(text: &str, resolver: &Resolver) -> Result<ImageReference, TargetError> {
    let (name, reference) = match parse(text, resolver)? {
        PurgeTarget::Tag(name, tag) => (name, Reference::Tag(tag)),
        PurgeTarget::Content(name, digest) => (name, Reference::Digest(digest)),
        PurgeTarget::Repository(name) => (name, Reference::Tag(latest(text)?)),
        PurgeTarget::Everywhere(_) | PurgeTarget::Registry(_) => {
            return Err(TargetError::NoImage(text.to_owned()));
        }
    };
    if resolver
        .by_name(name.registry.as_str())
        .is_some_and(|entry| !entry.cached)
    {
        return Err(TargetError::NotCached(name.registry));
    }
    Ok(ImageReference { name, reference })
}

/// Parses the target of a purge. A registry's name takes precedence over a repository of that name.
///
/// # Errors
/// When it is none of the three, or of no configured registry.
pub fn parse(text: &str, resolver: &Resolver) -> Result<PurgeTarget, TargetError> {
    if let Ok(digest) = text.parse::<Digest>() {
        return Ok(PurgeTarget::Everywhere(digest));
    }
    if let Some(entry) = resolver.by_name(text) {
        return Ok(PurgeTarget::Registry(entry.registry.clone()));
    }
    let (name, reference) = split(text)?;
    let found = resolver.resolve(NameContext::Operator, name);
    let (_, name) = found.map_err(|error| match error {
        ResolveError::Name(error) => TargetError::Name(error),
        ResolveError::TooLong => TargetError::Name(NameError::Long),
        ResolveError::Unclaimed | ResolveError::UnknownNamespace | ResolveError::OwnHostOnly => {
            TargetError::NoRegistry(name.to_owned())
        }
    })?;
    Ok(match reference {
        None => PurgeTarget::Repository(name),
        Some(Reference::Tag(tag)) => PurgeTarget::Tag(name, tag),
        Some(Reference::Digest(digest)) => PurgeTarget::Content(name, digest),
    })
}

/// The name of an image as a client writes it, and its tag or digest; the default tag is `latest`.
///
/// # Errors
/// When there is no name, or the tag or digest is none.
pub fn written(text: &str) -> Result<(String, Reference), TargetError> {
    let (name, reference) = split(text)?;
    let has_space = |character: char| character.is_control() || " %?#\\".contains(character);
    if name.is_empty() || name.contains(has_space) {
        return Err(TargetError::NoImage(text.to_owned()));
    }
    let reference = match reference {
        None => Reference::Tag(latest(text)?),
        Some(reference) => reference,
    };
    Ok((name.to_owned(), reference))
}

fn latest(text: &str) -> Result<Tag, TargetError> {
    let latest = "latest".parse();
    latest.map_err(|_| TargetError::NoImage(text.to_owned()))
}

/// Splits the tag or digest off; a colon before the last slash begins a port. With both, the digest counts.
fn split(text: &str) -> Result<(&str, Option<Reference>), TargetError> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse::<Digest>())),
        None => (text, None),
    };
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    let reference = match (digest, tag) {
        (Some(digest), _) => Some(Reference::Digest(digest.map_err(ReferenceError::from)?)),
        (None, Some(tag)) => Some(tag.parse::<Reference>()?),
        (None, None) => None,
    };
    Ok((name, reference))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::RegistryEntry;
    use oci::glob::Pattern;
    use oci::name::RepositoryName;

    #[test]
    fn targets() {
        let named = |name: &str, aliases: &[&str], owns: &[&str], default, library| RegistryEntry {
            aliases: aliases.iter().map(ToString::to_string).collect(),
            owns: owns
                .iter()
                .map(|text| Pattern::parse(text).expect("a pattern"))
                .collect(),
            default,
            library,
            ..RegistryEntry::named(name)
        };
        let entries = vec![
            named("docker.io", &["index.docker.io"], &[], true, true),
            named("registry.local:5000", &[], &["team/**"], false, false),
            named("registry.local:5000/sub", &[], &[], false, false),
        ];
        let resolver = Resolver { entries };
        let digest: Digest = format!("sha256:{}", "a".repeat(64))
            .parse()
            .expect("a digest");
        let name = |registry: &str, repository: &str| {
            let repository = repository.parse().expect("a name");
            RepositoryName::new(&Registry::new(registry), &repository)
        };
        let tag = |tag: &str| tag.parse().expect("a tag");
        let (hub, local) = ("docker.io", "registry.local:5000");
        let app = || name(hub, "library/app");
        for (text, expected) in [
            (&*digest.to_string(), PurgeTarget::Everywhere(digest)),
            (hub, PurgeTarget::Registry(Registry::new(hub))),
            ("index.docker.io", PurgeTarget::Registry(Registry::new(hub))),
            (local, PurgeTarget::Registry(Registry::new(local))),
            ("app", PurgeTarget::Repository(app())),
            ("docker.io/app:1", PurgeTarget::Tag(app(), tag("1"))),
            (
                "index.docker.io/a/b",
                PurgeTarget::Repository(name(hub, "a/b")),
            ),
            (
                &format!("app@{digest}"),
                PurgeTarget::Content(app(), digest),
            ),
            (
                &format!("app:1@{digest}"),
                PurgeTarget::Content(app(), digest),
            ),
            (
                "registry.local:5000/app",
                PurgeTarget::Repository(name(local, "app")),
            ),
            (
                "registry.local:5000/app:2",
                PurgeTarget::Tag(name(local, "app"), tag("2")),
            ),
            (
                "registry.local:5000/sub/app",
                PurgeTarget::Repository(name("registry.local:5000/sub", "app")),
            ),
            (
                "team/x:y",
                PurgeTarget::Tag(name(local, "team/x"), tag("y")),
            ),
        ] {
            let target = parse(text, &resolver).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target, expected, "{text}");
        }
        for text in [
            "",
            "App",
            "app:",
            "app:sp ace",
            "app@sha256:00",
            "a//b",
            "docker.io/",
            "http://docker.io/app",
        ] {
            assert!(parse(text, &resolver).is_err(), "{text}");
        }
        let without_default = Resolver {
            entries: vec![named("ghcr.io", &[], &[], false, false)],
        };
        assert_eq!(
            parse("app", &without_default),
            Err(TargetError::NoRegistry("app".to_owned()))
        );
    }

    #[test]
    fn images() {
        let named = |name: &str, cached| RegistryEntry {
            default: name == "docker.io",
            cached,
            ..RegistryEntry::named(name)
        };
        let resolver = Resolver {
            entries: vec![named("docker.io", true), named("backend", false)],
        };
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, expected) in [
            ("app".to_owned(), "docker.io library/app latest".to_owned()),
            (
                "docker.io/me/app:1".to_owned(),
                "docker.io me/app 1".to_owned(),
            ),
            (
                format!("app:1@{digest}"),
                format!("docker.io library/app {digest}"),
            ),
        ] {
            let image = image(&text, &resolver).expect("an image");
            let (name, reference) = (image.name, image.reference);
            let (registry, repository) = (name.registry, name.repository);
            assert_eq!(format!("{registry} {repository} {reference}"), expected);
        }
        for (text, expected) in [
            (&*digest, TargetError::NoImage(digest.clone())),
            ("docker.io", TargetError::NoImage("docker.io".into())),
            (
                "backend/app",
                TargetError::NotCached(Registry::new("backend")),
            ),
        ] {
            assert_eq!(image(text, &resolver), Err(expected), "{text}");
        }
        assert!(image("No Image", &resolver).is_err());
    }
}
