//! Which registry a name belongs to. Pure, and decided without asking anyone: the listener's registry, else `?ns=`,
//! else the Host, else the longest registry name that is a path prefix, else the registry whose `owns` matches, else
//! the default one.

use oci::glob::Pattern;
use oci::name::{NameError, Registry, Repository, RepositoryName};

/// The longest name as it is typed: a registry's and a repository's, each of 255 bytes.
pub const LONGEST_NAME: usize = 511;

/// What routing knows of one registry.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are keys of the configuration, each true or false by itself"
)]
pub struct RegistryEntry {
    pub registry: Registry,
    /// Other names under which `?ns=` and prefixes may ask for it.
    pub aliases: Vec<String>,
    /// Chosen by Host.
    pub hosts: Vec<String>,
    pub owns: Vec<Pattern>,
    pub default: bool,
    /// One-component names stand for `library/<name>`: the Hub.
    pub library: bool,
    /// Whether it takes writes.
    pub push: bool,
    /// Whether what is read there is kept here.
    pub cached: bool,
    /// Whether it speaks v1.
    pub v1: bool,
    /// Whether it speaks v2, or its v1 images are served through v2.
    pub v2: bool,
    /// Whether images of one API are served through the other.
    pub bridge: bool,
    /// Whether it decides for each caller: it is asked where everything is its own alone.
    pub delegates_auth: bool,
}

/// All registries, and the names that lead to them.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    pub entries: Vec<RegistryEntry>,
}

/// Where a name is asked for.
#[derive(Clone, Copy, Debug)]
pub enum NameContext<'a> {
    /// By a client, on the data plane.
    Client {
        /// The registry that the listener is for.
        listener: Option<&'a Registry>,
        /// The value of `?ns=`.
        namespace: Option<&'a str>,
        /// Host or `:authority`, with its port if it has one.
        host: Option<&'a str>,
    },
    /// By an operator: nothing but the name counts.
    Operator,
}

/// Why a name leads to no repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("this namespace is not served here")]
    UnknownNamespace,
    #[error("this registry is asked by a host of its own alone")]
    OwnHostOnly,
    #[error("no registry claims this name: write the registry's name before it")]
    Unclaimed,
    #[error("the name is longer than that of any registry and repository")]
    TooLong,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl<'a> NameContext<'a> {
    /// The same place without its `?ns=`.
    #[must_use]
    pub fn without_namespace(self) -> Self {
        self.with_namespace(None)
    }

    /// The same place with this `?ns=`.
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
    /// A cached registry that claims nothing.
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
    /// [`NameError`] where it is no name of a repository.
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

    /// The names that it goes by: its own, and its aliases.
    fn names(&self) -> impl Iterator<Item = &str> {
        let aliases = self.aliases.iter().map(String::as_str);
        aliases.chain([self.registry.as_str()])
    }
}

impl Resolver {
    /// The registry that a name belongs to, and the canonical name.
    ///
    /// # Errors
    /// [`ResolveError`]: no registry that is asked here has it.
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
    /// As for [`Resolver::resolve`], but for what only the name's grammar says.
    pub fn owner<'n>(
        &self,
        name_context: NameContext<'_>,
        name: &'n str,
    ) -> Result<(&RegistryEntry, &'n str), ResolveError> {
        // Before patterns are matched, which takes longer the longer a name is.
        if name.len() > LONGEST_NAME {
            return Err(ResolveError::TooLong);
        }
        if let Some(entry) = self.fixed(name_context)? {
            return Ok((entry, name));
        }
        let owner = || {
            let owns =
                |entry: &&RegistryEntry| entry.owns.iter().any(|pattern| pattern.matches(name));
            self.entries.iter().find(owns)
        };
        let default = || self.entries.iter().find(|entry| entry.default);
        let unprefixed = || Some((owner().or_else(default)?, name));
        let (entry, rest) = self
            .by_prefix(name)
            .or_else(unprefixed)
            .ok_or(ResolveError::Unclaimed)?;
        match name_context {
            NameContext::Client { .. } if entry.delegates_auth => Err(ResolveError::OwnHostOnly),
            _ => Ok((entry, rest)),
        }
    }

    /// The registry whose everything is that is asked here: the listener's, that of `?ns=`, or the Host's.
    ///
    /// # Errors
    /// [`ResolveError::UnknownNamespace`] and [`ResolveError::OwnHostOnly`].
    pub fn fixed(
        &self,
        name_context: NameContext<'_>,
    ) -> Result<Option<&RegistryEntry>, ResolveError> {
        let NameContext::Client {
            listener,
            namespace,
            host,
        } = name_context
        else {
            return Ok(None);
        };
        let named = self.named(listener, namespace)?;
        let by_host = host.and_then(|host| self.by_host(host));
        // Elsewhere its clients would be challenged by us, and show it what is for us.
        let elsewhere = |entry: &RegistryEntry| {
            let own = by_host.is_some_and(|own| own.registry == entry.registry);
            entry.delegates_auth && !own && listener.is_none()
        };
        if named.is_some_and(elsewhere) {
            return Err(ResolveError::OwnHostOnly);
        }
        Ok(named.or(by_host))
    }

    /// How a repository is asked for at a place: by its own name where that leads to it, else behind its
    /// registry's.
    pub fn client_name(
        &self,
        name_context: NameContext<'_>,
        name: &RepositoryName,
    ) -> Option<String> {
        let leads = |client_name: &String| {
            let resolved = self.resolve(name_context, client_name);
            resolved.is_ok_and(|(_, resolved)| resolved == *name)
        };
        let plain = name.repository.to_string();
        Some(plain)
            .filter(leads)
            .or_else(|| Some(name.to_string()).filter(leads))
    }

    /// The registry that goes by a name.
    pub fn by_name(&self, name: &str) -> Option<&RegistryEntry> {
        let goes_by = |entry: &&RegistryEntry| entry.names().any(|known| known == name);
        self.entries.iter().find(goes_by)
    }

    /// The registry that the listener or `?ns=` fixes, if one does.
    fn named(
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
        let (bare, _) = oci::authority::split_port(host);
        let is =
            |known: &String| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(bare);
        self.entries.iter().find(|entry| entry.hosts.iter().any(is))
    }

    fn by_prefix<'n>(&self, name: &'n str) -> Option<(&RegistryEntry, &'n str)> {
        let rest = |entry: &RegistryEntry| {
            let mut names = entry.names();
            names.find_map(|known| name.strip_prefix(known)?.strip_prefix('/'))
        };
        let found = self.entries.iter();
        let found = found.filter_map(|entry| Some((entry, rest(entry)?)));
        // The longest name leaves the shortest rest.
        found.min_by_key(|(_, rest)| rest.len())
    }
}
