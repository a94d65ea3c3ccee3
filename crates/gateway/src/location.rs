//! Rewrites `Location` and `Link` of a registry's responses to URLs of this gateway. Pure.

use super::target::RequestTarget;
use oci::authority;
use oci::v2::{self, Resource};

/// Rewrites a `Location` to a URL of this gateway. `external` is the gateway's URL for the client, scheme and
/// authority; `origins` are those that the registry may write: its upstream URL, which registries render by default,
/// and the gateway's own, if the registry is configured with it (distribution's `http.host`). The query stays byte
/// for byte: it is the registry's own state (distribution-spec 1.1, "Pushing a blob in chunks").
///
/// `None` for a location other than an upload, a blob or a manifest of the same repository.
pub fn local_location(
    location: &str,
    origins: &[&str],
    target: &RequestTarget,
    external: &str,
) -> Option<String> {
    let parsed = v2::Target::split(location)?;
    // The scheme is ignored: the registry may not know that it is behind TLS.
    let is_own = |authority| origins.iter().any(|origin| is_origin(origin, authority));
    if !parsed.authority.is_none_or(is_own) {
        return None;
    }
    let (name, resource) = parsed.named()?;
    let is_supported = matches!(
        resource,
        Resource::Upload(_) | Resource::Blob(_) | Resource::Manifest(_)
    );
    if name != target.name.repository.as_str() || !is_supported {
        return None;
    }
    let mut local = format!("{external}{}", resource.path_in(&target.client_name));
    let namespace = target.namespace.as_ref();
    let namespace =
        namespace.map(|namespace| v2::Query::default().with("ns", namespace).render_pairs());
    let pairs = [parsed.query.map(str::to_owned), namespace]
        .into_iter()
        .flatten();
    for (separator, pairs) in ['?', '&'].into_iter().zip(pairs) {
        local.push(separator);
        local.push_str(&pairs);
    }
    Some(local)
}

/// Renders the `Link` to the next page of a list, under the repository name that the client used.
pub fn next_link(target: &RequestTarget, next: &v2::Query, external: &str) -> String {
    let mut query = next.clone();
    if let Some(namespace) = &target.namespace {
        query = query.with("ns", namespace);
    }
    let path = target.resource.path_in(&target.client_name);
    format!("<{external}{path}{}>; rel=\"next\"", query.render())
}

/// Whether `authority` is that of `origin` (`scheme://authority`), whatever its scheme.
pub fn is_origin(origin: &str, authority: &str) -> bool {
    let origin_authority = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    authority::is_same(origin_authority.trim_end_matches('/'), authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::name::{Registry, RepositoryName};

    fn target(client_name: &str, namespace: Option<&str>) -> RequestTarget {
        RequestTarget {
            name: RepositoryName {
                registry: Registry::new("hosted"),
                repository: "team/app".parse().expect("a name"),
            },
            resource: Resource::Uploads,
            client_name: client_name.into(),
            query: v2::Query::default(),
            namespace: namespace.map(Into::into),
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn locations_are_rewritten_or_refused() {
        let origins = ["http://127.0.0.1:6002", "https://gate.example.com"];
        let external = "https://gate.example.com";
        let digest = format!("sha256:{}", "a".repeat(64));
        let state = "_state=a%2bB-_~==&x=%41";
        let upload = format!("{external}/v2/team/app/blobs/uploads/u-1_x.y?{state}");
        for (location, client_name, namespace, expected) in [
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
            // http behind TLS, and the gateway's URL, which the registry is configured with
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
            // the registry prefix and ns are added
            (
                "/v2/team/app/blobs/uploads/u".into(),
                "hosted/team/app",
                None,
                Some(format!("{external}/v2/hosted/team/app/blobs/uploads/u")),
            ),
            (
                "/v2/team/app/blobs/uploads/u?a=b".into(),
                "team/app",
                Some("hosted"),
                Some(format!(
                    "{external}/v2/team/app/blobs/uploads/u?a=b&ns=hosted"
                )),
            ),
            (
                "/v2/team/app/blobs/uploads/u".into(),
                "team/app",
                Some("hosted"),
                Some(format!("{external}/v2/team/app/blobs/uploads/u?ns=hosted")),
            ),
            (
                format!("/v2/team/app/blobs/{digest}"),
                "team/app",
                None,
                Some(format!("{external}/v2/team/app/blobs/{digest}")),
            ),
            (
                format!("/v2/team/app/manifests/{digest}"),
                "hosted/team/app",
                None,
                Some(format!("{external}/v2/hosted/team/app/manifests/{digest}")),
            ),
            // other hosts, repositories and endpoints
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
            let found = local_location(
                &location,
                &origins,
                &target(client_name, namespace),
                external,
            );
            assert_eq!(found, expected, "{location}");
        }
    }

    #[test]
    fn names_that_look_like_path_components() {
        for name in [
            "v2",
            "v",
            "2",
            "v2/v2",
            "blobs",
            "blobs/uploads",
            "list",
            "tags/list",
        ] {
            for (client_name, namespace) in
                [(name.to_owned(), None), (format!("v2/{name}"), Some("v2"))]
            {
                let mut target = target(&client_name, namespace);
                target.name.repository = name.parse().expect("a name");
                let upload = format!("/v2/{name}/blobs/uploads/u");
                let found = local_location(&upload, &[], &target, "https://gate");
                let ns = namespace.map_or("", |_| "?ns=v2");
                let expected = format!("https://gate/v2/{client_name}/blobs/uploads/u{ns}");
                assert_eq!(found, Some(expected), "{client_name}");
                target.resource = Resource::Tags;
                let next = v2::Query::default().with("last", "x y");
                let ns = namespace.map_or("", |_| "&ns=v2");
                let link = next_link(&target, &next, "https://gate");
                let expected = format!(
                    "<https://gate/v2/{client_name}/tags/list?last=x%20y{ns}>; rel=\"next\""
                );
                assert_eq!(link, expected, "{client_name}");
            }
        }
    }
}
