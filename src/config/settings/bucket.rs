//! The settings of the bucket, and which registries share records there.

use std::collections::HashMap;

use super::registries::{PasswordFileError, accounts};
use crate::config::{Config, Visibility};
use oci::digest::{Algorithm, Digest};
use oci::name::Registry;
use upstream::Account;

impl Config {
    /// The bucket, and the registries that share records there. Gateways share the records of a registry if they
    /// send their requests to the same origin with the same accounts. A credential helper may answer differently
    /// on each machine, and with `visibility: caller` the rights are the caller's, so such registries share no
    /// records. Reads password files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn bucket_settings(&self) -> Result<Option<store::BucketSettings>, PasswordFileError> {
        let Some(bucket) = &self.store.bucket else {
            return Ok(None);
        };
        let account = bucket.account.as_ref().map(|account| {
            let (access_key, secret_key) = (&account.access_key, &account.secret_key);
            (
                access_key.expose().to_owned(),
                secret_key.expose().to_owned(),
            )
        });
        let mut views = HashMap::new();
        for registry in &self.registries {
            let Some(origin) = &registry.v2 else { continue };
            let fixed = accounts(registry)?
                .into_iter()
                .map(|account| match account {
                    Account::Fixed(credentials) => Some(credentials),
                    Account::Helper(_) => None,
                });
            let fixed: Option<Vec<_>> = fixed.collect();
            let per_caller = registry.visibility == Visibility::Caller;
            let Some(accounts) = fixed.filter(|_| !per_caller) else {
                continue;
            };
            let key = account.as_ref().map(|(_, secret_key)| secret_key.as_str());
            // Images that the bridge converted from v1 have records under the same names.
            let origin = match &registry.v1 {
                Some(v1) => format!("{origin} {v1}"),
                None => origin.to_string(),
            };
            if let Some(view) = view(key, &origin, &accounts) {
                views.insert(Registry::new(&registry.name), view);
            }
        }
        Ok(Some(store::BucketSettings {
            name: bucket.name.clone(),
            prefix: bucket.prefix.clone(),
            endpoint: bucket.endpoint.as_ref().map(ToString::to_string),
            region: bucket.region.clone(),
            account,
            advertise: bucket.advertise.as_ref().map(ToString::to_string),
            views,
        }))
    }

    /// The other gateways of the bucket; `None` if this one does not advertise itself.
    pub fn peer_settings(&self) -> Option<mirror::PeerSettings> {
        let bucket = self.store.bucket.as_ref()?;
        Some(mirror::PeerSettings {
            url: bucket.advertise.as_ref()?.to_string(),
            key: mirror::PeerKey::derive(
                bucket.account.as_ref()?.secret_key.expose(),
                &bucket.name,
                &bucket.prefix,
            ),
            ca: bucket.advertise_ca.clone(),
        })
    }
}

/// Names an origin and its accounts, in any order, without revealing them: a MAC with the bucket's secret, since the name of
/// an object must not help to guess a password. Without a secret only records of anonymous requests are shared.
fn view(key: Option<&str>, origin: &str, accounts: &[upstream::Credentials]) -> Option<String> {
    use hmac::{Hmac, KeyInit as _, Mac as _};

    if accounts.is_empty() {
        return Some("anonymous-".to_owned() + &short(origin.as_bytes()));
    }
    let mut logins: Vec<String> = accounts
        .iter()
        .map(|account| format!("\n{}\n{}", account.username, account.password))
        .collect();
    logins.sort_unstable();
    let identity = format!("{origin}{}", logins.concat());
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key?.as_bytes()).ok()?;
    mac.update(identity.as_bytes());
    Some("account-".to_owned() + &short(&mac.finalize().into_bytes()))
}

/// The first 64 bits of a digest.
fn short(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::slice;

    use super::*;
    use crate::config::tests::typed;

    #[test]
    fn views_differ_by_account_and_do_not_reveal_it() {
        let credentials = |username: &str, password: &str| upstream::Credentials {
            username: username.into(),
            password: password.into(),
        };
        let (me, token) = (credentials("me", "hunter2"), credentials("me", "token"));
        let you = credentials("you", "hunter3");
        let views = [
            view(Some("k"), "https://a", &[]),
            view(Some("k"), "https://b", &[]),
            view(Some("k"), "https://a", slice::from_ref(&me)),
            view(Some("k"), "https://b", slice::from_ref(&me)),
            view(Some("k"), "https://a", slice::from_ref(&token)),
            view(Some("k"), "https://a", &[me.clone(), you.clone()]),
            view(Some("other"), "https://a", slice::from_ref(&me)),
        ];
        let distinct: BTreeSet<_> = views.iter().flatten().collect();
        assert_eq!(distinct.len(), views.len(), "{views:?}");
        assert_eq!(view(Some("k"), "https://a", slice::from_ref(&me)), views[2]);
        assert_eq!(
            view(Some("k"), "https://a", &[you, me.clone()]),
            views[5],
            "in any order"
        );
        assert_eq!(view(None, "https://a", &[]), views[0]);
        assert_eq!(view(None, "https://a", &[me]), None);
    }

    #[test]
    fn registries_whose_rights_may_differ_share_no_records() {
        let config = typed(
            r#"
store: {bucket: {url: "s3://b", access_key: k, secret_key: s}}
registries:
  - docker.io
  - {name: a, credentials: {username: me, password: p}}
  - {name: b, credentials: {helper: docker-credential-x}}
  - {name: c, hosts: [h], visibility: caller}
  - {name: d, accounts: [{username: me, password: p}, {username: you, password: q}]}
  - {name: e, accounts: [{username: me, password: p}, {helper: docker-credential-x}]}
"#,
        );
        let config = config.expect("a configuration");
        let settings = config.bucket_settings().expect("no files");
        let views = settings.expect("a bucket").views;
        let mut names: Vec<_> = views.keys().map(Registry::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "d", "docker.io"]);
    }

    #[test]
    fn views_differ_by_v1_origin() {
        let views = |v1: &str| {
            let yaml = format!(
                "store: {{bucket: {{url: \"s3://b\"}}}}\n\
                 registries: [{{name: a, v2: \"http://h\"{v1}}}]\n"
            );
            let config = typed(&yaml).expect("a configuration");
            let settings = config.bucket_settings().expect("no files");
            settings.expect("a bucket").views
        };
        let [none, one, other] = ["", ", v1: \"http://one\"", ", v1: \"http://other\""].map(views);
        assert!(none != one && one != other && none != other);
        assert_eq!(one, views(", v1: \"http://one\""));
    }
}
