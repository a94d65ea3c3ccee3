//! Resolves a name to its registry, without I/O: the listener's registry, else that of `?ns=`, else the Host's, else
//! the one with the longest name that is a path prefix, else the one whose `owns` matches, else the default one.

use oci::glob::Pattern;
use oci::name::{NameError, Registry, Repository, RepositoryName};

/// The maximum length of a name: a registry's and a repository's, of 255 bytes each, and a slash.
pub const MAX_NAME: usize = 511;

/// One registry, as routing sees it.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are keys of the configuration, each true or false by itself"
)]
pub struct RegistryEntry {
    /// The canonical name.
    pub registry: Registry,
    /// Other names for it in `?ns=` and prefixes.
    pub aliases: Vec<String>,
    /// The Hosts that select it.
    pub hosts: Vec<String>,
    /// Patterns of repository names that belong to it on every host, without the registry's name.
    pub owns: Vec<Pattern>,
    /// Whether names that no other registry claims belong to it; at most one has it.
    pub default: bool,
    /// Whether one-component names stand for `library/<name>`, as on Docker Hub.
    pub library: bool,
    /// Whether it accepts writes.
    pub push: bool,
    /// Whether its content is cached.
    pub cached: bool,
    /// Whether it speaks v1.
    pub v1: bool,
    /// Whether it speaks v2, or its v1 images are served through v2.
    pub v2: bool,
    /// Whether images of one API are served through the other.
    pub bridge: bool,
    /// Whether it authorises its own callers. It is reached only through its own host or listener.
    pub delegates_auth: bool,
}

/// All registries, with the names and hosts that select them.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    /// In the order of the configuration, which decides nothing.
    pub entries: Vec<RegistryEntry>,
}

/// The context that a name is resolved in.
#[derive(Clone, Copy, Debug)]
pub enum NameContext<'a> {
    /// A client's request.
    Client {
        /// The only registry that the listener serves.
        listener: Option<&'a Registry>,
        /// The value of `?ns=`.
        namespace: Option<&'a str>,
        /// Host or `:authority`, with its port if it has one.
        host: Option<&'a str>,
    },
    /// An operator's command: the name alone decides.
    Operator,
}

/// What selects the registry of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// The listener serves it alone.
    Listener,
    /// `?ns=` names it.
    Namespace,
    /// The Host is one of its `hosts`.
    Host,
    /// The name begins with its name.
    Prefix,
    /// The name matches its `owns`.
    Owns,
    /// Nothing else claims the name.
    Default,
}

/// The registry of a name, and what selects it.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'r, 'n> {
    /// The registry.
    pub entry: &'r RegistryEntry,
    /// The name without its registry prefix.
    pub rest: &'n str,
    /// What selects it.
    pub chosen_by: ChosenBy,
}

/// Why a name cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// `?ns=` names no registry (`NAME_UNKNOWN`).
    #[error("this gateway does not serve this namespace")]
    UnknownNamespace,
    /// The registry authorises its own clients, and another host or prefix was used.
    #[error("this registry is served only at its own host")]
    OwnHostOnly,
    /// No prefix, no `owns` and no default registry covers it.
    #[error("no registry claims this name: put the name of its registry before it")]
    Unclaimed,
    /// More than 511 bytes, for a registry and a repository together.
    #[error("the name is longer than {MAX_NAME} bytes")]
    TooLong,
    /// What remains after the registry is no repository name (`NAME_INVALID`).
    #[error(transparent)]
    Name(#[from] NameError),
}

impl<'a> NameContext<'a> {
    /// The same context with this `?ns=`.
    #[must_use]
    pub fn with_namespace(self, namespace: Option<&'a str>) -> Self {
        match self {
            Self::Client { listener, host, .. } => Self::Client {
                listener,
                namespace,
                host,
            },
            Self::Operator => Self::Operator,
        }
    }
}

impl RegistryEntry {
    /// A cached v2 registry without hosts, `owns` and other settings.
    pub fn named(name: &str) -> Self {
        Self {
            registry: Registry::new(name),
            aliases: Vec::new(),
            hosts: Vec::new(),
            owns: Vec::new(),
            default: false,
            library: name == "docker.io",
            push: false,
            cached: true,
            v1: false,
            v2: true,
            bridge: false,
            delegates_auth: false,
        }
    }

    /// The canonical name of a repository of this registry.
    ///
    /// # Errors
    /// [`NameError`] if `name` is not a valid repository name.
    pub fn repository(&self, name: &str) -> Result<RepositoryName, NameError> {
        let repository: Repository = if self.library && !name.is_empty() && !name.contains('/') {
            format!("library/{name}").parse()?
        } else {
            name.parse()?
        };
        Ok(RepositoryName {
            registry: self.registry.clone(),
            repository,
        })
    }

    /// Its name and its aliases.
    fn names(&self) -> impl Iterator<Item = &str> {
        let aliases = self.aliases.iter().map(String::as_str);
        aliases.chain([self.registry.as_str()])
    }
}

impl Resolver {
    /// Resolves a name to its registry and its canonical name.
    ///
    /// # Errors
    /// [`ResolveError`] if no registry in this context has it, or it is not a valid name.
    pub fn resolve(
        &self,
        name_context: NameContext<'_>,
        name: &str,
    ) -> Result<(&RegistryEntry, RepositoryName), ResolveError> {
        let (entry, rest) = self.owner(name_context, name)?;
        Ok((entry, entry.repository(rest)?))
    }

    /// The registry that a name belongs to, and the name without its registry prefix.
    ///
    /// # Errors
    /// As for [`Resolver::resolve`], except [`ResolveError::Name`].
    pub fn owner<'n>(
        &self,
        name_context: NameContext<'_>,
        name: &'n str,
    ) -> Result<(&RegistryEntry, &'n str), ResolveError> {
        let Choice { entry, rest, .. } = self.choose(name_context, name)?;
        Ok((entry, rest))
    }

    /// The registry that a name belongs to, and why.
    ///
    /// # Errors
    /// As for [`Resolver::owner`].
    pub fn choose<'n>(
        &self,
        name_context: NameContext<'_>,
        name: &'n str,
    ) -> Result<Choice<'_, 'n>, ResolveError> {
        // Before matching patterns, whose cost grows with the length of the name.
        if name.len() > MAX_NAME {
            return Err(ResolveError::TooLong);
        }
        let choice = |entry, rest, chosen_by| Choice {
            entry,
            rest,
            chosen_by,
        };
        if let Some((entry, chosen_by)) = self.chosen_by_context(name_context)? {
            return Ok(choice(entry, name, chosen_by));
        }
        let owner = || {
            let owns =
                |entry: &&RegistryEntry| entry.owns.iter().any(|pattern| pattern.matches(name));
            self.entries.iter().find(owns)
        };
        let default = || self.entries.iter().find(|entry| entry.default);
        let prefixed = self.by_prefix(name);
        let chosen = prefixed.map(|(entry, rest)| choice(entry, rest, ChosenBy::Prefix));
        let chosen = chosen
            .or_else(|| Some(choice(owner()?, name, ChosenBy::Owns)))
            .or_else(|| Some(choice(default()?, name, ChosenBy::Default)))
            .ok_or(ResolveError::Unclaimed)?;
        match name_context {
            NameContext::Client { .. } if chosen.entry.delegates_auth => {
                Err(ResolveError::OwnHostOnly)
            }
            _ => Ok(chosen),
        }
    }

    /// The registry that the context alone selects: the listener's, that of `?ns=`, or the Host's.
    ///
    /// # Errors
    /// [`ResolveError::UnknownNamespace`] if there is none of that name, [`ResolveError::OwnHostOnly`] if it is not
    /// served in this context.
    pub fn fixed(
        &self,
        name_context: NameContext<'_>,
    ) -> Result<Option<&RegistryEntry>, ResolveError> {
        let chosen = self.chosen_by_context(name_context)?;
        Ok(chosen.map(|(entry, _)| entry))
    }

    /// [`Resolver::fixed`], and what selects it.
    fn chosen_by_context(
        &self,
        name_context: NameContext<'_>,
    ) -> Result<Option<(&RegistryEntry, ChosenBy)>, ResolveError> {
        let NameContext::Client {
            listener,
            namespace,
            host,
        } = name_context
        else {
            return Ok(None);
        };
        let named = self.by_listener_or_namespace(listener, namespace)?;
        let by_host = host.and_then(|host| self.by_host(host));
        // At another host the gateway would challenge its clients, and send it the credentials meant for the gateway.
        let is_other_host = |entry: &RegistryEntry| {
            let is_own_host = by_host.is_some_and(|own| own.registry == entry.registry);
            entry.delegates_auth && !is_own_host && listener.is_none()
        };
        if named.is_some_and(is_other_host) {
            return Err(ResolveError::OwnHostOnly);
        }
        let chosen_by = match listener {
            Some(_) => ChosenBy::Listener,
            None => ChosenBy::Namespace,
        };
        let named = named.map(|entry| (entry, chosen_by));
        Ok(named.or(by_host.map(|entry| (entry, ChosenBy::Host))))
    }

    /// The name of a repository for a client in this context: its own if that resolves to it, else the one with its
    /// registry's prefix. `None` if neither does.
    pub fn client_name(
        &self,
        name_context: NameContext<'_>,
        name: &RepositoryName,
    ) -> Option<String> {
        let resolves = |client_name: &String| {
            let resolved = self.resolve(name_context, client_name);
            resolved.is_ok_and(|(_, resolved)| resolved == *name)
        };
        let plain = name.repository.to_string();
        Some(plain)
            .filter(resolves)
            .or_else(|| Some(name.to_string()).filter(resolves))
    }

    /// The registry of this name or alias.
    pub fn by_name(&self, name: &str) -> Option<&RegistryEntry> {
        let has_name = |entry: &&RegistryEntry| entry.names().any(|known| known == name);
        self.entries.iter().find(has_name)
    }

    /// The registry that the listener or `?ns=` selects, if one does.
    fn by_listener_or_namespace(
        &self,
        listener: Option<&Registry>,
        namespace: Option<&str>,
    ) -> Result<Option<&RegistryEntry>, ResolveError> {
        let by_name = |name| self.by_name(name).ok_or(ResolveError::UnknownNamespace);
        let named = namespace.map(by_name).transpose()?;
        let Some(fixed) = listener else {
            return Ok(named);
        };
        if named.is_some_and(|named| named.registry != *fixed) {
            return Err(ResolveError::UnknownNamespace);
        }
        let is = |entry: &&RegistryEntry| entry.registry == *fixed;
        let entry = self.entries.iter().find(is);
        entry.ok_or(ResolveError::UnknownNamespace).map(Some)
    }

    fn by_host(&self, host: &str) -> Option<&RegistryEntry> {
        let bare = || oci::authority::split_port(host).0;
        let is =
            |known: &String| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(bare());
        self.entries.iter().find(|entry| entry.hosts.iter().any(is))
    }

    fn by_prefix<'n>(&self, name: &'n str) -> Option<(&RegistryEntry, &'n str)> {
        let rest = |entry: &RegistryEntry| {
            let mut names = entry.names();
            names.find_map(|known| name.strip_prefix(known)?.strip_prefix('/'))
        };
        let found = self.entries.iter();
        let found = found.filter_map(|entry| Some((entry, rest(entry)?)));
        // The longest prefix leaves the shortest rest.
        found.min_by_key(|(_, rest)| rest.len())
    }
}
