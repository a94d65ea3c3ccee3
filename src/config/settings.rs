//! From the configuration to each floor's settings. It knows every floor; no floor knows it.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use super::{Config, Credentials, ListenAddress, MaxStale, OldClients, Origin, Tls, Visibility};
use crate::admin;
use oci::digest::{Algorithm, Digest};
use oci::name::Registry;
use runtime::listen::{self, SocketMode};
use upstream::Account;

/// A password file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("registry {registry}: the password file {} cannot be read: {source}", path.display())]
pub struct PasswordFileError {
    registry: String,
    path: PathBuf,
    source: std::io::Error,
}

/// The records of the v1 API.
#[cfg(feature = "v1")]
fn record_extension() -> store::Extension {
    v1::RECORDS
}

/// The records of the v1 API that a build with it left behind: counted, and deleted once unused.
#[cfg(not(feature = "v1"))]
fn record_extension() -> store::Extension {
    use store::ExtensionKind;

    static IMAGES: ExtensionKind = ExtensionKind {
        max_bytes: 2 << 20,
        ..ExtensionKind::new("v1", "_")
    };
    static CONVERSIONS: ExtensionKind = ExtensionKind::new("conversions", "");
    static KINDS: [&ExtensionKind; 2] = [&IMAGES, &CONVERSIONS];

    store::Extension {
        kinds: &KINDS,
        also_purged: |_, _| Vec::new(),
    }
}

impl Config {
    pub fn store_settings(&self) -> store::Settings {
        store::Settings {
            path: self.store.path.clone(),
            max_size: self.store.max_size,
            min_free: self.store.min_free,
            unused_ttl: self.store.unused_ttl,
            unused_ttls: self
                .registries
                .iter()
                .map(|registry| (Registry::new(&registry.name), registry.unused_ttl))
                .collect(),
            scrub_every: self.store.scrub_every,
            extensions: vec![record_extension()],
        }
    }

    /// The bucket, and which registries share what they learn there: those that ask the same place with the same
    /// account as others do. What a helper says may differ from machine to machine, and with
    /// `visibility: caller` the rights are the caller's, so these keep their records to themselves. Reads
    /// password files.
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
            let credentials = match self::account(registry)? {
                _ if registry.visibility == Visibility::Caller => continue,
                Some(Account::Helper(_)) => continue,
                Some(Account::Fixed(credentials)) => Some(credentials),
                None => None,
            };
            let key = account.as_ref().map(|(_, secret_key)| secret_key.as_str());
            // What was made from images of v1 is known under the same names.
            let origin = match &registry.v1 {
                Some(v1) => format!("{origin} {v1}"),
                None => origin.to_string(),
            };
            if let Some(view) = view(key, &origin, credentials.as_ref()) {
                views.insert(Registry::new(&registry.name), view);
            }
        }
        Ok(Some(store::BucketSettings {
            name: bucket.name.clone(),
            prefix: bucket.prefix.clone(),
            endpoint: bucket.endpoint.as_ref().map(ToString::to_string),
            region: bucket.region.clone(),
            account,
            views,
        }))
    }

    /// Reads password files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn mirror_settings(&self) -> Result<mirror::Settings, PasswordFileError> {
        let mut origins = Vec::new();
        for registry in self.registries.iter().filter(|registry| has_v2(registry)) {
            let v2 = registry.v2.as_ref();
            let v2 = v2.map(|v2| v2_upstream(registry, v2)).transpose()?;
            origins.push(mirror::OriginSettings {
                registry: Registry::new(&registry.name),
                upstream: v2,
                tag_ttl: registry.tag_ttl,
                missing_ttl: registry.missing_ttl,
                link_ttl: registry.link_ttl,
                max_stale: self.max_stale(),
                stale_after: stale_after(registry),
                visibility: match registry.visibility {
                    Visibility::Caller => mirror::Visibility::Caller,
                    Visibility::Public if registry.credentials.is_some() => {
                        mirror::Visibility::PublicOnly
                    }
                    Visibility::Public | Visibility::Rules => mirror::Visibility::Account,
                },
                heads: if registry.push {
                    mirror::HeadPolicy::Revalidated
                } else {
                    mirror::HeadPolicy::Cached
                },
            });
        }
        Ok(mirror::Settings { origins })
    }

    /// Reads password files.
    ///
    /// # Errors
    /// When one cannot be read.
    #[cfg(feature = "v1")]
    pub fn v1_settings(&self) -> Result<v1::Settings, PasswordFileError> {
        let mut registries = Vec::new();
        for registry in &self.registries {
            let Some(origin) = &registry.v1 else { continue };
            let index = registry.v1_index.as_ref();
            // What everybody reads here is what everybody may have there, kept or not.
            let anonymous = !registry.push && registry.visibility == Visibility::Public;
            let v1_upstream = |origin| v1_upstream(registry, origin, anonymous);
            registries.push(v1::V1Settings {
                registry: Registry::new(&registry.name),
                mirrored: !registry.push && registry.cache,
                bridge: registry.bridge,
                upstream: v1_upstream(origin)?,
                index: index.map(v1_upstream).transpose()?,
                tag_ttl: registry.tag_ttl,
                max_stale: self.max_stale(),
                stale_after: stale_after(registry),
            });
        }
        let bridged = self.registries.iter().filter(|registry| {
            let rules = registry.visibility != Visibility::Caller;
            registry.bridge && rules && has_v2(registry)
        });
        let bridged = bridged.map(|registry| Registry::new(&registry.name));
        Ok(v1::Settings {
            registries,
            bridged: bridged.collect(),
        })
    }

    fn max_stale(&self) -> Option<Duration> {
        match self.store.max_stale {
            MaxStale::For(most) => Some(most),
            MaxStale::Forever => None,
        }
    }

    pub fn resolver(&self) -> gateway::Resolver {
        let entries = self
            .registries
            .iter()
            .map(|registry| gateway::RegistryEntry {
                registry: Registry::new(&registry.name),
                aliases: super::aliases(&registry.name)
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                hosts: registry.hosts.clone(),
                owns: registry.owns.clone(),
                default: registry.default,
                library: registry.name == "docker.io",
                push: registry.push,
                cached: registry.cache,
                v1: registry.v1.is_some(),
                v2: registry.v2.is_some() || registry.bridge,
                bridge: registry.bridge,
                delegates_auth: registry.visibility == Visibility::Caller,
            });
        gateway::Resolver {
            entries: entries.collect(),
        }
    }

    pub fn routing_table(&self) -> gateway::RoutingTable {
        gateway::RoutingTable {
            resolver: self.resolver(),
            old_clients: match &self.routing.old_clients {
                OldClients::Default => gateway::OldClients::Default,
                OldClients::Patterns(patterns) => gateway::OldClients::Patterns(patterns.clone()),
            },
        }
    }

    pub fn admin_settings(&self) -> admin::Settings {
        admin::Settings {
            host: match &self.admin.address {
                Some(ListenAddress::Tcp { host, .. }) => host.clone(),
                Some(ListenAddress::Unix(_)) | None => None,
            },
            resolver: self.resolver(),
            max_bytes: self.store.max_size,
        }
    }

    pub fn policy(&self) -> access::Policy {
        let all = |visibility: Visibility| {
            let registries = self.registries.iter();
            registries
                .filter(move |registry| registry.visibility == visibility)
                .map(|registry| Registry::new(&registry.name))
                .collect()
        };
        access::Policy {
            public: all(Visibility::Public),
            delegated: all(Visibility::Caller),
            rules: self.access.as_ref().map(|access| access.rules.clone()),
        }
    }

    /// `None`: nobody can log in.
    pub fn authenticator_settings(&self) -> Option<access::Settings> {
        let access = self.access.as_ref()?;
        let key = access.token_key.as_ref();
        Some(access::Settings {
            htpasswd: access.htpasswd.clone(),
            realm: access.realm.clone(),
            scheme: access.scheme,
            token_key: key.map(|key| access::TokenKey::new(key.expose().as_bytes())),
            keys: self.keys.clone(),
        })
    }

    pub fn server_settings(&self) -> gateway::ServerSettings {
        gateway::ServerSettings {
            header_bytes: self.limits.header_bytes,
            header_timeout: self.limits.header_timeout,
            idle_timeout: self.limits.idle_timeout,
            connections: self.limits.connections,
            drain: self.limits.drain,
        }
    }

    /// The names that our own certificate is for, besides those of the machine.
    pub fn certificate_names(&self) -> BTreeSet<String> {
        let hosts = self.registries.iter().flat_map(|registry| &registry.hosts);
        // A Host may have a port, a certificate has none.
        let hosts = hosts.filter_map(|host| Some(oci::authority::parse(host)?.0));
        let ours = self.listen.iter().filter(|listen| listen.tls == Tls::Auto);
        let public = ours.filter_map(|listen| Some(listen.public_url.as_ref()?.host.clone()));
        hosts.chain(public).collect()
    }
}

impl super::Admin {
    /// The listeners that are wanted.
    pub fn listeners(&self) -> Vec<(listen::Address, admin::Scope)> {
        let address = |address: &ListenAddress| match address {
            ListenAddress::Tcp { host, port } => listen::Address::Tcp(tcp(host.as_deref(), *port)),
            ListenAddress::Unix(path) => listen::Address::Unix(path.clone(), SocketMode::Owner),
        };
        let everything = self
            .address
            .iter()
            .map(|at| (address(at), admin::Scope::Everything));
        let metrics = self
            .metrics
            .iter()
            .map(|at| (address(at), admin::Scope::Metrics));
        everything.chain(metrics).collect()
    }
}

/// What to bind.
fn tcp(host: Option<&str>, port: u16) -> String {
    // All addresses: the v6 one takes v4 connections as well.
    let host = host.unwrap_or("::");
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl super::Listen {
    pub fn listen_address(&self) -> listen::Address {
        match &self.address {
            ListenAddress::Tcp { host, port } => listen::Address::Tcp(tcp(host.as_deref(), *port)),
            ListenAddress::Unix(path) => listen::Address::Unix(path.clone(), SocketMode::Umask),
        }
    }

    pub fn routing(&self) -> gateway::Listener {
        gateway::Listener {
            read_only: self.read_only,
            registry: self.registry.as_deref().map(Registry::new),
            scheme: if self.tls == Tls::Off {
                "http"
            } else {
                "https"
            },
            public_url: self.public_url.as_ref().map(ToString::to_string),
        }
    }

    /// What to speak TLS with; `None` for plain HTTP.
    pub fn tls(&self) -> Option<gateway::TlsSettings> {
        match &self.tls {
            Tls::Off => None,
            Tls::Auto => Some(gateway::TlsSettings::Auto),
            Tls::Certificates {
                certificates,
                client_ca,
            } => Some(gateway::TlsSettings::Files {
                certificates: certificates.clone(),
                client_ca: client_ca.clone(),
            }),
        }
    }
}

/// How long something that is known waits for its upstream. Where others may push, an old answer needs a better
/// reason than a slow one.
fn stale_after(registry: &super::Registry) -> Duration {
    if registry.push {
        Duration::from_secs(10)
    } else {
        Duration::from_millis(1500)
    }
}

fn v2_upstream(
    registry: &super::Registry,
    origin: &Origin,
) -> Result<upstream::Settings, PasswordFileError> {
    Ok(upstream::Settings {
        registry: registry.name.clone(),
        origin: origin.to_string(),
        account: account(registry)?,
        ca: registry.ca.clone(),
        auth_hosts: registry.auth_hosts.clone(),
        idle: None,
    })
}

/// Whether clients of v2 are served. Without a v2 side they get what the v1 side has, where that is asked for.
fn has_v2(registry: &super::Registry) -> bool {
    registry.v2.is_some() || (registry.bridge && registry.v1.is_some())
}

/// A server of the v1 API. Those in use close idle connections after two seconds.
#[cfg(feature = "v1")]
fn v1_upstream(
    registry: &super::Registry,
    origin: &Origin,
    anonymous: bool,
) -> Result<upstream::Settings, PasswordFileError> {
    let account = account(registry)?.filter(|_| !anonymous);
    Ok(upstream::Settings {
        registry: registry.name.clone(),
        origin: origin.to_string(),
        account,
        ca: registry.ca.clone(),
        auth_hosts: Vec::new(),
        idle: Some(Duration::from_secs(1)),
    })
}

/// What a registry is asked with, as one word that tells nothing of it: a MAC with the bucket's secret, since the
/// name of an object must not help to guess a password. Without a secret only what everybody is told is shared.
fn view(
    key: Option<&str>,
    origin: &str,
    credentials: Option<&upstream::Credentials>,
) -> Option<String> {
    use hmac::{Hmac, KeyInit as _, Mac as _};

    let asked = match credentials {
        None => return Some("everybody-".to_owned() + &short(origin.as_bytes())),
        Some(upstream::Credentials { username, password }) => {
            format!("{origin}\n{username}\n{password}")
        }
    };
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key?.as_bytes()).ok()?;
    mac.update(asked.as_bytes());
    Some("account-".to_owned() + &short(&mac.finalize().into_bytes()))
}

/// Enough of a digest to tell one from another.
fn short(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).hex()[..16].to_owned()
}

fn account(registry: &super::Registry) -> Result<Option<Account>, PasswordFileError> {
    let fixed = |username: &str, password: &str| {
        let (username, password) = (username.to_owned(), password.to_owned());
        Some(Account::Fixed(upstream::Credentials { username, password }))
    };
    Ok(match &registry.credentials {
        None => None,
        Some(Credentials::Helper(program)) => Some(Account::Helper(program.clone())),
        Some(Credentials::Password { username, password }) => fixed(username, password.expose()),
        Some(Credentials::PasswordFile {
            username,
            password_file,
        }) => {
            let password =
                std::fs::read_to_string(password_file).map_err(|source| PasswordFileError {
                    registry: registry.name.clone(),
                    path: password_file.clone(),
                    source,
                })?;
            fixed(username, password.trim_end_matches(['\r', '\n']))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_tell_accounts_apart_and_not_what_they_are() {
        let credentials = |username: &str, password: &str| upstream::Credentials {
            username: username.into(),
            password: password.into(),
        };
        let (me, token) = (credentials("me", "hunter2"), credentials("me", "token"));
        let seen = [
            view(Some("k"), "https://a", None),
            view(Some("k"), "https://b", None),
            view(Some("k"), "https://a", Some(&me)),
            view(Some("k"), "https://b", Some(&me)),
            view(Some("k"), "https://a", Some(&token)),
            view(Some("other"), "https://a", Some(&me)),
        ];
        let distinct: BTreeSet<_> = seen.iter().flatten().collect();
        assert_eq!(distinct.len(), seen.len(), "{seen:?}");
        assert_eq!(view(Some("k"), "https://a", Some(&me)), seen[2]);
        assert_eq!(view(None, "https://a", None), seen[0]);
        assert_eq!(view(None, "https://a", Some(&me)), None);
    }

    #[test]
    fn registries_whose_rights_may_differ_share_nothing() {
        let config = crate::config::tests::typed(
            r#"
store: {bucket: {url: "s3://b", access_key: k, secret_key: s}}
registries:
  - docker.io
  - {name: a, credentials: {username: me, password: p}}
  - {name: b, credentials: {helper: docker-credential-x}}
  - {name: c, hosts: [h], visibility: caller}
"#,
        );
        let config = config.expect("a configuration");
        let settings = config.bucket_settings().expect("no files");
        let views = settings.expect("a bucket").views;
        let mut names: Vec<_> = views.keys().map(Registry::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "docker.io"]);
    }

    #[cfg(feature = "v1")]
    #[test]
    fn a_v1_registry_that_everybody_reads_is_asked_as_everybody() {
        for (keys, asks_as_us) in [
            ("visibility: public", false),
            ("visibility: public, cache: false", false),
            ("visibility: rules, cache: false", true),
            ("cache: false", true),
            ("push: true", true),
        ] {
            let yaml = format!(
                "registries: [{{name: a, v1: \"http://h\", v1_index: \"http://i\", \
                 credentials: {{username: me, password: p}}, {keys}}}]\n"
            );
            let config = crate::config::tests::typed(&yaml).expect("a configuration");
            let settings = config.v1_settings().expect("no files");
            let v1 = settings.registries.first().expect("a v1 registry");
            let index = v1.index.as_ref().expect("an index");
            for server in [&v1.upstream, index] {
                assert_eq!(server.account.is_some(), asks_as_us, "{keys}");
            }
        }
    }

    #[test]
    fn where_v1_is_asked_counts_as_well() {
        let seen = |v1: &str| {
            let yaml = format!(
                "store: {{bucket: {{url: \"s3://b\"}}}}\n\
                 registries: [{{name: a, v2: \"http://h\"{v1}}}]\n"
            );
            let config = crate::config::tests::typed(&yaml).expect("a configuration");
            let settings = config.bucket_settings().expect("no files");
            settings.expect("a bucket").views
        };
        let [none, one, other] = ["", ", v1: \"http://one\"", ", v1: \"http://other\""].map(seen);
        assert!(none != one && one != other && none != other);
        assert_eq!(one, seen(", v1: \"http://one\""));
    }
}
