//! Delegated authorisation: registries of `visibility: caller`.
//!
//! The rules do not apply to them. The client's `Authorization` is forwarded unchanged, and the client may read what the
//! registry serves for it.

use std::fmt;

use http::HeaderValue;

use super::{Action, Permit, Policy, Viewer};
use oci::name::{Registry, RepositoryName};

/// The `Authorization` of a request, if it had one. Never printed.
#[derive(Clone)]
pub struct ForwardedAuthorization(Option<HeaderValue>);

impl ForwardedAuthorization {
    /// Of a request without an `Authorization`.
    pub const NOTHING: Self = Self(None);

    /// From the header fields; several lines are one list (RFC 9110 §5.3).
    pub fn new<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>) -> Self {
        let lines: Vec<&[u8]> = lines.into_iter().map(HeaderValue::as_bytes).collect();
        if lines.is_empty() {
            return Self::NOTHING;
        }
        // Joined header values are a valid header value.
        let value = HeaderValue::from_bytes(&lines.join(&b", "[..])).ok();
        Self(value.map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }

    /// The field's value; `None` without one.
    pub fn value(&self) -> Option<&HeaderValue> {
        self.0.as_ref()
    }
}

impl fmt::Debug for ForwardedAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("nothing", |_| "[redacted]"))
    }
}

impl Policy {
    /// Whether the registry itself authorises each caller.
    pub fn delegates_auth(&self, registry: &Registry) -> bool {
        self.delegated.contains(registry)
    }

    /// A permit to ask a registry that authorises its callers, with this header; `None` for any other registry. It allows
    /// nothing that the registry does not.
    pub fn delegated_permit(
        &self,
        forwarded: &ForwardedAuthorization,
        name: &RepositoryName,
    ) -> Option<Permit> {
        self.delegates_auth(&name.registry).then(|| Permit {
            action: Action::Pull,
            name: name.clone(),
            forwarded: Some(forwarded.clone()),
        })
    }

    /// The viewer of such a registry's names; `None` for any other.
    pub fn viewer_of(
        &self,
        forwarded: &ForwardedAuthorization,
        registry: &Registry,
    ) -> Option<Viewer<'_>> {
        let of = (registry.clone(), forwarded.clone());
        self.delegates_auth(registry)
            .then(|| Viewer::forwarding(self, of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_is_unchanged_and_never_printed() {
        let lines = [
            HeaderValue::from_static("Basic s3cret"),
            HeaderValue::from_static("Bearer other"),
        ];
        for (lines, value) in [
            (&lines[..0], None),
            (&lines[..1], Some("Basic s3cret")),
            (&lines[..], Some("Basic s3cret, Bearer other")),
        ] {
            let forwarded = ForwardedAuthorization::new(lines);
            let found = forwarded.value().map(HeaderValue::as_bytes);
            assert_eq!(found, value.map(str::as_bytes));
            assert!(!format!("{forwarded:?} {:?}", forwarded.value()).contains("s3cret"));
        }
    }

    #[test]
    fn rules_and_callers_keep_to_their_registries() {
        let theirs = Registry::new("theirs");
        let policy = Policy {
            delegated: [theirs.clone()].into(),
            public: [theirs.clone(), Registry::new("public")].into(),
            ..Policy::default()
        };
        let in_registry =
            |registry: &Registry| RepositoryName::new(registry, &"a/b".parse().expect("a name"));
        let shown = ForwardedAuthorization::NOTHING;
        let other = Registry::new("public");
        assert!(
            policy
                .delegated_permit(&shown, &in_registry(&theirs))
                .is_some()
        );
        assert!(
            policy
                .delegated_permit(&shown, &in_registry(&other))
                .is_none()
        );
        let anybody = super::super::Caller::Anonymous;
        let decide = |registry| policy.decide(&anybody, Action::Pull, &in_registry(registry));
        assert!(decide(&theirs).is_err(), "a client without a login");
        assert!(decide(&other).is_ok());
        let viewer = policy.viewer_of(&shown, &theirs).expect("a viewer");
        assert!(viewer.may_pull(&in_registry(&theirs)).is_some());
        assert!(viewer.may_pull(&in_registry(&other)).is_none());
        assert!(policy.viewer_of(&shown, &other).is_none());
    }
}
