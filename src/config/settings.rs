//! The configuration as the settings of each crate. No crate knows the configuration.

mod bucket;
mod registries;

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::{Config, ListenAddress, OldClients, Tls, Visibility};
use crate::admin;
use oci::name::Registry;
use runtime::SocketPermissions;
use runtime::listen;

/// The records that are not the store's own.
pub fn record_extensions() -> [store::Extension; 2] {
    [v1_records(), mirror::GATE_RECORDS]
}

/// The records of the v1 API.
#[cfg(feature = "v1")]
fn v1_records() -> store::Extension {
    v1::RECORDS
}

/// The v1 records that a build with the v1 API wrote: counted, and deleted once unused.
#[cfg(not(feature = "v1"))]
fn v1_records() -> store::Extension {
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
        }
    }

    /// Where events are recorded.
    pub fn events_settings(&self) -> events::Settings {
        let webhooks = self.events.iter().filter_map(|webhook| {
            let secret = webhook.secret.as_ref();
            Some(events::WebhookSettings {
                url: webhook.url.as_ref()?.expose().parse().ok()?,
                key: secret.map(|secret| events::SigningKey::new(secret.expose().as_bytes())),
                filter: events::Filter {
                    actions: webhook.actions.clone(),
                    repositories: webhook.repositories.clone(),
                },
            })
        });
        events::Settings {
            audit_log: self.audit.as_ref().map(|audit| audit.path.clone()),
            webhooks: webhooks.collect(),
            queues: self.store.path.join("events"),
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

    /// `gateway` is the authority that clients pull from.
    pub fn admin_settings(&self, gateway: Option<String>) -> admin::Settings {
        admin::Settings {
            host: match &self.admin.address {
                Some(ListenAddress::Tcp { host, .. }) => host.clone(),
                Some(ListenAddress::Unix(_)) | None => None,
            },
            resolver: self.resolver(),
            max_bytes: self.store.max_size,
            fills: self.limits.fills,
            registries: self.registries.iter().map(configured_registry).collect(),
            configuration: admin::Configuration {
                path: self.file.as_ref().map(|file| file.display().to_string()),
                loaded_at: admin::rfc3339(SystemTime::now()),
                yaml: self.rendered.clone(),
            },
            gateway,
            rule_lines: self
                .access
                .as_ref()
                .map_or_else(Vec::new, |access| access.rule_lines.clone()),
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

    /// `None`: there are no accounts.
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

    /// The TLS settings of all listeners that may have TLS.
    pub fn all_tls(&self) -> impl Iterator<Item = &Tls> {
        let admin = self.admin.address.as_ref().map(|_| &self.admin.tls);
        self.listen.iter().map(|listen| &listen.tls).chain(admin)
    }

    /// The names in the gateway's own certificate, besides those of the machine.
    pub fn certificate_names(&self) -> BTreeSet<String> {
        let hosts = self.registries.iter().flat_map(|registry| &registry.hosts);
        // `hosts` may have ports; a certificate has none.
        let hosts = hosts.filter_map(|host| Some(oci::authority::parse(host)?.0));
        let ours = self.listen.iter().filter(|listen| listen.tls.is_auto());
        let public = ours.filter_map(|listen| Some(listen.public_url.as_ref()?.host.clone()));
        let bucket = self.store.bucket.as_ref();
        let advertised = bucket.and_then(|bucket| Some(bucket.advertise.as_ref()?.host.clone()));
        hosts.chain(public).chain(advertised).collect()
    }
}

impl super::Admin {
    /// The configured listeners.
    pub fn listeners(&self) -> Vec<(listen::Address, admin::Scope)> {
        let address = |address: &ListenAddress| bind_address(address, &SocketPermissions::OWNER);
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

/// A registry as the admin API shows it.
fn configured_registry(registry: &super::Registry) -> admin::ConfiguredRegistry {
    let aliases = super::aliases(&registry.name);
    admin::ConfiguredRegistry {
        name: Registry::new(&registry.name),
        aliases: aliases.iter().map(ToString::to_string).collect(),
        v2_url: registry.v2.as_ref().map(ToString::to_string),
        v1_url: registry.v1.as_ref().map(ToString::to_string),
        hosts: registry.hosts.clone(),
        default: registry.default,
        push: registry.push,
        cache: registry.cache,
        bridge: registry.bridge,
        visibility: match registry.visibility {
            Visibility::Public => "public",
            Visibility::Rules => "rules",
            Visibility::Caller => "caller",
        }
        .to_owned(),
    }
}

/// The address to bind.
fn bind_address(address: &ListenAddress, permissions: &SocketPermissions) -> listen::Address {
    match address {
        ListenAddress::Tcp { host: None, port } => listen::Address::Everywhere(*port),
        ListenAddress::Tcp { .. } => listen::Address::Tcp(address.to_string()),
        ListenAddress::Unix(path) => listen::Address::Unix(path.clone(), permissions.clone()),
    }
}

impl super::Listen {
    pub fn listen_address(&self) -> listen::Address {
        bind_address(&self.address, &self.permissions)
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
            trusted_proxies: self.trusted_proxies.clone(),
            proxy_protocol: self.proxy_protocol,
        }
    }
}

impl Tls {
    /// The certificates; `None` for plain HTTP.
    pub fn settings(&self) -> Option<gateway::TlsSettings> {
        match self {
            Self::Off => None,
            Self::Auto { client_ca } => Some(gateway::TlsSettings::Auto {
                client_ca: client_ca.clone(),
            }),
            Self::Acme(settings) => Some(gateway::TlsSettings::Acme(settings.clone())),
            Self::Certificates {
                certificates,
                client_ca,
            } => Some(gateway::TlsSettings::Files {
                certificates: certificates.clone(),
                client_ca: client_ca.clone(),
            }),
        }
    }
}
