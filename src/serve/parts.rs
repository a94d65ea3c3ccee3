//! What the configuration makes of the gateway: everything that a request is answered by. It is opened at the start, and anew
//! for each change, which keeps the store, fills, histories and what has not changed.

use std::path::Path;
use std::sync::Arc;

use super::{ServeError, configuration};
use crate::certificates::Certificates;
use crate::config::{Config, record_extensions};
use access::Authenticator;
use events::{Events, Recording};
use gateway::{Admission, AppState, ListenerTls};
use mirror::{Contents, Mirror, Peers};
use oci::name::Registry;
use store::{Bucket, Predecessor, Store};
use upstream::SetUpError;

/// The parts that files and registries of the configuration make.
pub struct Parts {
    content: ContentSettings,
    authenticator: Option<Authenticator>,
    pub certificates: Certificates,
    /// One for each listener; `None` for plain HTTP.
    pub tls: Vec<Option<ListenerTls>>,
    /// The accounts of the admin address.
    pub operators: Option<Authenticator>,
    /// The TLS of the admin address.
    pub admin_tls: Option<ListenerTls>,
}

/// The parts that others take the place of.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub state: &'a AppState,
    pub certificates: &'a Certificates,
    pub operators: Option<&'a Authenticator>,
}

/// The settings of the registries.
struct ContentSettings {
    mirror: mirror::Settings,
    #[cfg(feature = "v1")]
    v1: v1::Settings,
}

/// The cached content of all registries.
pub struct Content {
    mirror: Mirror,
    #[cfg(feature = "v1")]
    v1: v1::V1,
}

impl Parts {
    /// Opens the files of the configuration. Blocks on the disk.
    pub fn open(config: &Config, before: Option<Before<'_>>) -> Result<Self, ServeError> {
        let content = ContentSettings {
            mirror: config.mirror_settings().map_err(configuration)?,
            #[cfg(feature = "v1")]
            v1: config.v1_settings().map_err(configuration)?,
        };
        let certificates = Certificates::open(config, before.map(|before| before.certificates))?;
        let listeners = config.listen.iter();
        let tls = listeners.map(|listen| certificates.of(&listen.tls));
        let tls = tls.collect::<Result<Vec<_>, _>>()?;
        let admin_tls = certificates.of(&config.admin.tls)?;
        // Last, since changed accounts are in force once they are read.
        let known = before.and_then(|before| before.state.authenticator.as_ref());
        let authenticator = config.authenticator_settings();
        let authenticator = authenticator.map(|settings| Authenticator::reopen(&settings, known));
        let known = before.and_then(|before| before.operators);
        let operators = |path: &Path| Authenticator::of_operators(path, known);
        Ok(Self {
            content,
            authenticator: authenticator.transpose()?,
            certificates,
            tls,
            operators: config
                .admin
                .htpasswd
                .as_deref()
                .map(operators)
                .transpose()?,
            admin_tls,
        })
    }

    /// The content of the registries, in a store that was just opened.
    pub fn content(&self, contents: Contents) -> Result<Content, SetUpError> {
        let settings = &self.content;
        #[cfg(feature = "v1")]
        let registries = v1::Registries::new(settings.v1.clone(), contents.clone())?;
        #[cfg(feature = "v1")]
        let fallback = Some(registries.clone() as Arc<dyn mirror::Fallback>);
        #[cfg(not(feature = "v1"))]
        let fallback = None;
        let mirror = Mirror::new(settings.mirror.clone(), contents, fallback)?;
        Ok(Content {
            #[cfg(feature = "v1")]
            v1: v1::V1::new(registries, mirror.clone()),
            mirror,
        })
    }

    /// The content of the registries in the place of those before.
    pub fn changed_content(&self, before: &AppState) -> Result<Content, SetUpError> {
        let settings = &self.content;
        #[cfg(feature = "v1")]
        let registries = before.v1.registries().reconfigured(settings.v1.clone())?;
        #[cfg(feature = "v1")]
        let fallback = Some(registries.clone() as Arc<dyn mirror::Fallback>);
        #[cfg(not(feature = "v1"))]
        let fallback = None;
        let mirror = before
            .mirror
            .reconfigured(settings.mirror.clone(), fallback)?;
        Ok(Content {
            #[cfg(feature = "v1")]
            v1: before.v1.reconfigured(registries, mirror.clone()),
            mirror,
        })
    }

    /// The state that requests are answered by. `outliving` is what it shares with another one.
    pub fn state(
        &mut self,
        config: &Config,
        content: Content,
        outliving: Outliving,
    ) -> Arc<AppState> {
        Arc::new(AppState {
            history: outliving.history,
            events: outliving.events,
            admission: outliving.admission,
            challenges: self.certificates.challenges(),
            form_timeout: config.limits.header_timeout,
            table: config.routing_table(),
            policy: config.policy(),
            authenticator: self.authenticator.take(),
            #[cfg(feature = "v1")]
            v1: content.v1,
            mirror: content.mirror,
            access_log: config.log.access,
            idle_timeout: config.limits.idle_timeout,
        })
    }
}

/// What outlives a change of the configuration.
pub struct Outliving {
    pub history: Arc<gateway::AccessHistory>,
    pub admission: Arc<Admission>,
    /// `None`: the configuration has no events recorded.
    pub events: Option<Events>,
}

/// Drops what `before` remembers of registries that changed.
pub fn succeed(before: &AppState, after: &AppState) {
    #[cfg(feature = "v1")]
    let v1: Vec<Registry> = before.v1.registries().changed_in(after.v1.registries());
    #[cfg(not(feature = "v1"))]
    let v1: Vec<Registry> = Vec::new();
    after.mirror.succeed(&before.mirror, &v1);
}

/// Opens the store with its bucket, and starts its maintenance. With `predecessor` it is taken over. Blocks on the disk.
pub fn open_store(
    config: &Config,
    uploads_on: &tokio::runtime::Handle,
    predecessor: Option<Predecessor>,
) -> Result<Arc<Store>, ServeError> {
    let (settings, extensions) = (config.store_settings(), record_extensions());
    let mut store = match predecessor {
        Some(predecessor) => Store::take_over(&settings, &extensions, predecessor)?,
        None => Store::open(&settings, &extensions)?,
    };
    if let Some(settings) = config.bucket_settings().map_err(configuration)? {
        store = store.with_bucket(Bucket::new(&settings, uploads_on)?);
    }
    let store = Arc::new(store);
    store.start_maintenance()?;
    Ok(store)
}

/// Opens the contents of a store, which peers may read.
pub fn open_contents(
    config: &Config,
    store: Arc<Store>,
    fills_on: tokio::runtime::Handle,
) -> Result<Contents, ServeError> {
    let peers = config.peer_settings().map(Peers::open).transpose()?;
    Ok(Contents::new(store, config.limits.fills, fills_on, peers))
}

/// Where a configuration has events recorded; `None`: nowhere.
pub fn events_of(config: &Config, recording: Option<&Recording>) -> Option<Events> {
    let recording = recording.filter(|_| !config.events_settings().is_empty());
    recording.map(|recording| recording.events().clone())
}
