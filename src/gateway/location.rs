//! Where answers of a registry lead: `Location` and `Link`, as the client has to ask for it here. Pure.

use super::route::Target;
use crate::spec::v2::{self, Endpoint, Path, Resource};

/// The `Location` of an answer, leading here. `external` is what the client calls us, scheme and authority;
/// `origins` are the registry's own names for itself. What follows `?` stays byte for byte: it is the
/// registry's own state (distribution-spec 1.1, "Pushing a blob in chunks").
///
/// `None` for what leads anywhere but to an upload, a blob or a manifest of the same repository.
pub fn leading_here(
    location: &str,
    origins: &[&str],
    target: &Target,
    external: &str,
) -> Option<String> {
    let rooted = match location.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            // It may not know that it stands behind TLS, so its scheme says nothing.
            let known = matches!(scheme, "http" | "https")
                && origins.iter().any(|origin| is_authority(origin, authority));
            known.then_some(path)?
        }
        None => location.strip_prefix('/').map(|_| location)?,
    };
    let (path, query) = match rooted.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rooted, None),
    };
    if query.is_some_and(|query| query.contains(['#', ' ', '\r', '\n'])) {
        return None;
    }
    let segments = v2::segments(path).ok()?;
    let (first, rest) = segments.split_first()?;
    let Path::Named { name, resource } = v2::parse(rest).ok()? else {
        return None;
    };
    let same = name == target.endpoint.repository.as_str() || name == target.typed;
    let leads = matches!(
        resource,
        Resource::Upload(_) | Resource::Blob(_) | Resource::Manifest(_)
    );
    if first != "v2" || !same || !leads {
        return None;
    }
    let mut here = format!("{external}{}", typed_path(target, resource));
    let namespace = target.namespace.as_ref();
    let namespace = namespace.map(|namespace| v2::Query::default().with("ns", namespace).render());
    match (query, namespace) {
        (Some(query), Some(namespace)) => {
            here = format!("{here}?{query}&{}", &namespace[1..]);
        }
        (Some(query), None) => here = format!("{here}?{query}"),
        (None, Some(namespace)) => here = format!("{here}{namespace}"),
        (None, None) => {}
    }
    Some(here)
}

/// The path of a resource under the name that the client typed.
pub fn typed_path(target: &Target, resource: Resource) -> String {
    let endpoint = Endpoint {
        repository: target.endpoint.repository.clone(),
        resource,
    };
    let canonical = target.endpoint.repository.as_str();
    endpoint.path().replacen(canonical, &target.typed, 1)
}

/// Whether `authority` is that of an origin (`scheme://authority`). A default port says nothing, since the
/// scheme does not either.
pub fn is_authority(origin: &str, authority: &str) -> bool {
    let bare = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        let portless = authority
            .strip_suffix(":443")
            .or(authority.strip_suffix(":80"));
        portless.map(str::to_owned).unwrap_or(authority)
    };
    let known = origin.split_once("://").map_or(origin, |(_, known)| known);
    bare(known.trim_end_matches('/')) == bare(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::name::Registry;

    fn target(typed: &str, namespace: Option<&str>) -> Target {
        Target {
            registry: Registry::new("hosted"),
            endpoint: Endpoint {
                repository: "team/app".parse().expect("a name"),
                resource: Resource::Uploads,
            },
            typed: typed.into(),
            query: v2::Query::default(),
            namespace: namespace.map(str::to_owned),
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn locations_lead_here_or_nowhere() {
        let origins = ["http://127.0.0.1:6002", "https://gate.example.com"];
        let here = "https://gate.example.com";
        let digest = format!("sha256:{}", "a".repeat(64));
        let state = "_state=a%2bB-_~==&x=%41";
        let upload = format!("{here}/v2/team/app/blobs/uploads/u-1_x.y?{state}");
        for (location, typed, namespace, expected) in [
            (
                format!("/v2/team/app/blobs/uploads/u-1_x.y?{state}"),
                "team/app",
                None,
                Some(upload.clone()),
            ),
            (
                format!("http://127.0.0.1:6002/v2/team/app/blobs/uploads/u-1_x.y?{state}"),
                "team/app",
                None,
                Some(upload.clone()),
            ),
            // http behind TLS, and a name of ours that it was told
            (
                format!("http://gate.example.com/v2/team/app/blobs/uploads/u-1_x.y?{state}"),
                "team/app",
                None,
                Some(upload.clone()),
            ),
            (
                format!("https://GATE.example.com:443/v2/team/app/blobs/uploads/u-1_x.y?{state}"),
                "team/app",
                None,
                Some(upload),
            ),
            // a registry prefix comes back on, and ns
            (
                "/v2/team/app/blobs/uploads/u".into(),
                "hosted/team/app",
                None,
                Some(format!("{here}/v2/hosted/team/app/blobs/uploads/u")),
            ),
            (
                "/v2/team/app/blobs/uploads/u?a=b".into(),
                "team/app",
                Some("hosted"),
                Some(format!("{here}/v2/team/app/blobs/uploads/u?a=b&ns=hosted")),
            ),
            (
                "/v2/team/app/blobs/uploads/u".into(),
                "team/app",
                Some("hosted"),
                Some(format!("{here}/v2/team/app/blobs/uploads/u?ns=hosted")),
            ),
            (
                format!("/v2/team/app/blobs/{digest}"),
                "team/app",
                None,
                Some(format!("{here}/v2/team/app/blobs/{digest}")),
            ),
            (
                format!("/v2/team/app/manifests/{digest}"),
                "hosted/team/app",
                None,
                Some(format!("{here}/v2/hosted/team/app/manifests/{digest}")),
            ),
            // elsewhere
            (
                format!("https://bucket.example.com/v2/team/app/blobs/uploads/u?{state}"),
                "team/app",
                None,
                None,
            ),
            (
                "http://127.0.0.1:6003/v2/team/app/blobs/uploads/u".into(),
                "team/app",
                None,
                None,
            ),
            (
                "//evil.example.com/v2/team/app/blobs/uploads/u".into(),
                "team/app",
                None,
                None,
            ),
            (
                "/v2/team/other/blobs/uploads/u".into(),
                "team/app",
                None,
                None,
            ),
            (
                "/v2/team/app/blobs/uploads/../../x".into(),
                "team/app",
                None,
                None,
            ),
            ("/somewhere".into(), "team/app", None, None),
            (
                "ftp://127.0.0.1:6002/v2/team/app/blobs/uploads/u".into(),
                "team/app",
                None,
                None,
            ),
            ("uploads/u".into(), "team/app", None, None),
            (String::new(), "team/app", None, None),
        ] {
            let found = leading_here(&location, &origins, &target(typed, namespace), here);
            assert_eq!(found, expected, "{location}");
        }
    }
}
