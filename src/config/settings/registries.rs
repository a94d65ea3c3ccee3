//! The settings of v2 and v1 registries, and of the clients that send requests to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config, Credentials, KeyFileError, MaxStale, Origin, Visibility};
use oci::name::Registry;
use upstream::Account;

/// A password file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("registry {registry}: the password file {} cannot be read: {source}", path.display())]
pub struct PasswordFileError {
    registry: String,
    path: PathBuf,
    source: std::io::Error,
}

/// A file of a registry that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryFileError {
    /// Its password.
    #[error(transparent)]
    Password(#[from] PasswordFileError),
    /// A public key of its gate.
    #[error("registry {registry}: the key {source}")]
    Key {
        registry: String,
        source: KeyFileError,
    },
}

impl Config {
    /// The v2 registries. Reads files of passwords and public keys.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn mirror_settings(&self) -> Result<mirror::Settings, RegistryFileError> {
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
                content_scope: match registry.visibility {
                    Visibility::Caller => mirror::ContentScope::Caller,
                    Visibility::Public if !registry.accounts.is_empty() => {
                        mirror::ContentScope::PublicOnly
                    }
                    Visibility::Public | Visibility::Rules => mirror::ContentScope::Account,
                },
                heads: if registry.push {
                    mirror::HeadPolicy::Revalidated
                } else {
                    mirror::HeadPolicy::Cached
                },
                connections_per_fill: registry.connections_per_fill,
                gate: gate(registry)?,
            });
        }
        Ok(mirror::Settings { origins })
    }

    /// The v1 registries and the bridge. Reads password files.
    ///
    /// # Errors
    /// When one cannot be read.
    #[cfg(feature = "v1")]
    pub fn v1_settings(&self) -> Result<v1::Settings, PasswordFileError> {
        let mut registries = Vec::new();
        for registry in &self.registries {
            let Some(origin) = &registry.v1 else { continue };
            let index = registry.v1_index.as_ref();
            // The gateway's account may read more than the public, cached or not.
            let is_public = !registry.push && registry.visibility == Visibility::Public;
            let first = if is_public {
                None
            } else {
                accounts(registry)?.into_iter().next()
            };
            let v1_upstream = |origin| v1_upstream(registry, origin, first.clone());
            registries.push(v1::V1Settings {
                registry: Registry::new(&registry.name),
                mirrored: !registry.push && registry.cache,
                bridge: registry.bridge,
                upstream: v1_upstream(origin),
                index: index.map(v1_upstream),
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
            MaxStale::Unlimited => None,
        }
    }
}

/// The gate of a registry. Reads its public keys.
fn gate(registry: &config::Registry) -> Result<Option<Arc<gate::Gate>>, RegistryFileError> {
    let Some(gate) = &registry.gate else {
        return Ok(None);
    };
    let keys = gate.signed_by.iter().map(|path| {
        config::public_key(path).map_err(|source| RegistryFileError::Key {
            registry: registry.name.clone(),
            source,
        })
    });
    let settings = gate::Settings {
        mode: gate.mode,
        allow: gate.allow.clone(),
        deny: gate.deny.clone(),
        min_age: gate.min_age,
        pins: gate.pins.clone(),
        platforms: gate.platforms.clone(),
        signed_by: keys.collect::<Result<_, _>>()?,
    };
    Ok(Some(Arc::new(gate::Gate::new(settings))))
}

/// How long a cached answer waits for its revalidation before it is served stale. A registry that takes pushes
/// gets longer: an old answer needs a better reason than a slow upstream.
fn stale_after(registry: &config::Registry) -> Duration {
    if registry.push {
        Duration::from_secs(10)
    } else {
        Duration::from_millis(1500)
    }
}

/// The client of a v2 registry.
fn v2_upstream(
    registry: &config::Registry,
    origin: &Origin,
) -> Result<upstream::Settings, PasswordFileError> {
    Ok(upstream::Settings {
        registry: registry.name.clone(),
        origin: origin.to_string(),
        accounts: accounts(registry)?,
        ca: registry.ca.clone(),
        auth_hosts: registry.auth_hosts.clone(),
        idle: None,
    })
}

/// Whether v2 clients are served: by a v2 registry, or by the bridge from the v1 registry.
fn has_v2(registry: &config::Registry) -> bool {
    registry.v2.is_some() || (registry.bridge && registry.v1.is_some())
}

/// The client of a v1 registry or index. Servers in use close idle connections after two seconds.
#[cfg(feature = "v1")]
fn v1_upstream(
    registry: &config::Registry,
    origin: &Origin,
    account: Option<Account>,
) -> upstream::Settings {
    upstream::Settings {
        registry: registry.name.clone(),
        origin: origin.to_string(),
        accounts: account.into_iter().collect(),
        ca: registry.ca.clone(),
        auth_hosts: Vec::new(),
        idle: Some(Duration::from_secs(1)),
    }
}

/// The accounts that requests to a registry log in with. Reads password files.
pub(super) fn accounts(registry: &config::Registry) -> Result<Vec<Account>, PasswordFileError> {
    let account = |credentials| account(registry, credentials);
    registry.accounts.iter().map(account).collect()
}

fn account(
    registry: &config::Registry,
    credentials: &Credentials,
) -> Result<Account, PasswordFileError> {
    let fixed = |username: &str, password: &str| {
        let (username, password) = (username.to_owned(), password.to_owned());
        Account::Fixed(upstream::Credentials { username, password })
    };
    Ok(match credentials {
        Credentials::Helper(program) => Account::Helper(program.clone()),
        Credentials::Password { username, password } => fixed(username, password.expose()),
        Credentials::PasswordFile {
            username,
            password_file,
        } => {
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

#[cfg(all(test, feature = "v1"))]
mod tests {
    use crate::config::tests::typed;

    #[test]
    fn public_v1_registries_get_anonymous_requests() {
        for (keys, has_account) in [
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
            let config = typed(&yaml).expect("a configuration");
            let settings = config.v1_settings().expect("no files");
            let v1 = settings.registries.first().expect("a v1 registry");
            let index = v1.index.as_ref().expect("an index");
            for server in [&v1.upstream, index] {
                assert_eq!(!server.accounts.is_empty(), has_account, "{keys}");
            }
        }
    }
}
