//! `/api/v1/repositories` and `/api/v1/tags`: what the cache has, by name.
//!
//! Names come from the store's cached list of repositories; only the rows of a page are read from the disk. The largest
//! and the last used ones come from a survey (`survey.rs`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Admin;
use super::disk::{blocking, not_cached, unreadable};
use super::error::{Problem, ProblemCode};
use super::query::{Parameters, Words};
use super::report::Page;
use super::survey::Order;
use super::time::{rfc3339_of, unix};
use mirror::ImageReference;
use oci::manifest::AcceptClass;
use oci::name::{Reference, Registry, RepositoryName, Tag};
use store::{RepositorySummary, TagKey};
use telemetry::metrics;

/// `GET /api/v1/repositories`
#[derive(Debug, Serialize)]
pub(super) struct RepositoryPage {
    #[serde(flatten)]
    page: Page<RepositoryRow>,
    pulls_since: String,
}

#[derive(Debug, Serialize)]
struct RepositoryRow {
    registry: String,
    repository: String,
    tags: u64,
    manifests: u64,
    cached_bytes: u64,
    pulls: u64,
    last_used_at: Option<String>,
    pinned: bool,
}

/// An item of `GET /api/v1/tags`.
#[derive(Debug, Serialize)]
pub(super) struct TagRow {
    tag: String,
    digest: String,
    media_type: String,
    checked_at: String,
    fresh_until: String,
    state: &'static str,
    last_used_at: String,
    pinned: bool,
}

/// The order of a list of repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Name,
    Pulls,
    Surveyed(Order),
}

/// The names of a page, the cursor of the next one, and how many match in all.
struct Names {
    page: Vec<RepositoryName>,
    next: Option<String>,
    total: u64,
}

impl Admin {
    /// # Errors
    /// 400 for a wrong parameter, 503 if the disk cannot be read, or while the store is surveyed.
    pub(super) async fn repositories(
        self: Arc<Self>,
        parameters: &Parameters,
    ) -> Result<RepositoryPage, Problem> {
        let sorts = [
            ("name", Sort::Name),
            ("pulls", Sort::Pulls),
            ("size", Sort::Surveyed(Order::Size)),
            ("recent", Sort::Surveyed(Order::Recent)),
        ];
        let sort = parameters.choice("sort", &sorts)?;
        let limit = parameters.limit()?;
        let registry = parameters.text("registry").map(Registry::new);
        let filter = NameFilter {
            registry,
            words: parameters.words(),
        };
        let names = match sort {
            Sort::Name => {
                self.by_name(&filter, parameters.text("after"), limit)
                    .await?
            }
            Sort::Pulls => {
                let names = self.history.most_pulled().into_iter().map(|(name, _)| name);
                ranked(names, &filter, parameters.after_number()?, limit)
            }
            Sort::Surveyed(order) => {
                let names = self.clone().surveyed(order).await?;
                ranked(names, &filter, parameters.after_number()?, limit)
            }
        };
        let Names { page, next, total } = names;
        let admin = self.clone();
        let read = move || page.iter().map(|name| admin.row(name)).collect();
        let rows: io::Result<Vec<RepositoryRow>> = blocking(read).await;
        Ok(RepositoryPage {
            page: Page {
                items: rows.map_err(|error| unreadable(&error))?,
                next,
                total: Some(total),
            },
            pulls_since: rfc3339_of(metrics::started_at()),
        })
    }

    async fn by_name(
        &self,
        filter: &NameFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Names, Problem> {
        let known = self.known_repositories(filter.registry.as_ref()).await;
        let known = known.map_err(|error| unreadable(&error))?;
        let (filter, after) = (filter.clone(), after.map(str::to_owned));
        let select = move || {
            Ok(Names::after(
                known.names(),
                &filter,
                after.as_deref(),
                limit,
            ))
        };
        blocking(select).await.map_err(|error| unreadable(&error))
    }

    /// Reads one row. Blocks on the disk.
    fn row(&self, name: &RepositoryName) -> io::Result<RepositoryRow> {
        let RepositorySummary {
            tags,
            manifests,
            bytes,
            last_use,
        } = self.store.summary(name)?;
        Ok(RepositoryRow {
            registry: name.registry.to_string(),
            repository: name.repository.to_string(),
            tags,
            manifests,
            cached_bytes: bytes,
            pulls: self.history.pulls_of(name),
            last_used_at: last_use.map(rfc3339_of),
            pinned: self.pins.any_of(name),
        })
    }

    /// # Errors
    /// 400 for a wrong parameter, 404 for an unknown repository, 503 if the disk cannot be read.
    pub(super) async fn tags(
        self: Arc<Self>,
        parameters: &Parameters,
    ) -> Result<Page<TagRow>, Problem> {
        let (name, words) = (self.repository(parameters)?, parameters.words());
        let (limit, after) = (parameters.limit()?, parameters.text("after"));
        let after = after.map(str::to_owned);
        let (admin, of) = (self.clone(), name.clone());
        let read = move || {
            let mut tags = admin.store.records.known_tags(&of)?;
            let is_known = !tags.is_empty() || admin.store.summary(&of)?.manifests > 0;
            tags.retain(|tag| words.match_any(&[tag.as_str()]));
            tags.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
            let total = tags.len() as u64;
            let is_after = |tag: &Tag| after.as_deref().is_none_or(|after| tag.as_str() > after);
            tags.retain(is_after);
            let next = (tags.len() > limit).then(|| tags[limit - 1].to_string());
            let rows = tags.iter().take(limit).map(|tag| admin.tag(&of, tag));
            let rows: io::Result<Vec<Option<TagRow>>> = rows.collect();
            Ok((is_known, rows?, next, total))
        };
        let (is_known, rows, next, total) =
            blocking(read).await.map_err(|error| unreadable(&error))?;
        if !is_known {
            return Err(not_cached(&name.to_string()));
        }
        Ok(Page {
            items: rows.into_iter().flatten().collect(),
            next,
            total: Some(total),
        })
    }

    /// Reads one tag. Blocks on the disk.
    fn tag(&self, name: &RepositoryName, tag: &Tag) -> io::Result<Option<TagRow>> {
        let key = TagKey::new(name, AcceptClass::Full, tag);
        let Some(found) = self.store.inspect(&key)? else {
            return Ok(None);
        };
        let ttl = self.mirror.tag_ttl(&name.registry);
        let ttl = ttl.unwrap_or(Duration::ZERO).as_secs();
        let fresh_until = found.value.checked_at.saturating_add(ttl);
        let is_fresh = unix(SystemTime::now()) < fresh_until;
        let image = ImageReference {
            name: name.clone(),
            reference: Reference::Tag(tag.clone()),
        };
        Ok(Some(TagRow {
            tag: tag.to_string(),
            digest: found.value.digest.to_string(),
            media_type: found.value.media_type,
            checked_at: rfc3339_of(found.value.checked_at),
            fresh_until: rfc3339_of(fresh_until),
            state: if is_fresh { "fresh" } else { "stale" },
            last_used_at: rfc3339_of(found.last_use),
            pinned: self.pins.contains(&image.to_string()),
        }))
    }

    /// The repository that `registry` and `repository` name.
    ///
    /// # Errors
    /// 400 for something else, 404 for a registry that is not configured.
    pub(super) fn repository(&self, parameters: &Parameters) -> Result<RepositoryName, Problem> {
        let registry = parameters.required("registry")?;
        let repository = parameters.required("repository")?;
        let configured = &self.settings.registries;
        let found = configured.iter().find(|one| one.name.as_str() == registry);
        let found = found.ok_or_else(|| not_cached(registry))?;
        let repository = repository.parse().map_err(|error: oci::name::NameError| {
            Problem::new(ProblemCode::InvalidParameter, error.to_string())
        })?;
        Ok(RepositoryName::new(&found.name, &repository))
    }
}

/// Which repositories are listed.
#[derive(Clone, Debug)]
struct NameFilter {
    registry: Option<Registry>,
    words: Words,
}

impl NameFilter {
    fn includes(&self, name: &RepositoryName) -> bool {
        let is_wanted = |wanted: &Registry| *wanted == name.registry;
        self.registry.as_ref().is_none_or(is_wanted) && self.words.match_any(&[&name.to_string()])
    }
}

impl Names {
    /// The page after a name, of names in order.
    fn after(
        known: impl Iterator<Item = RepositoryName>,
        filter: &NameFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Self {
        // No name has a space.
        let cursor = |name: &RepositoryName| format!("{} {}", name.registry, name.repository);
        let after = after.map(|after| after.split_once(' ').unwrap_or((after, "")));
        let is_after = |name: &RepositoryName| {
            let own = (name.registry.as_str(), name.repository.as_str());
            after.is_none_or(|after| own > after)
        };
        let (mut page, mut total, mut has_more) = (Vec::new(), 0, false);
        for name in known.filter(|name| filter.includes(name)) {
            total += 1;
            if page.len() < limit && is_after(&name) {
                page.push(name);
            } else {
                has_more |= page.len() == limit;
            }
        }
        let last = page.last().filter(|_| has_more);
        Self {
            next: last.map(cursor),
            page,
            total,
        }
    }
}

/// The page after a rank, of names in the order of a rank.
fn ranked(
    names: impl IntoIterator<Item = RepositoryName>,
    filter: &NameFilter,
    after: Option<u64>,
    limit: usize,
) -> Names {
    let first = usize::try_from(after.unwrap_or(0)).unwrap_or(usize::MAX);
    let matching = names.into_iter().filter(|name| filter.includes(name));
    let all: Vec<RepositoryName> = matching.collect();
    let total = all.len();
    let end = first.saturating_add(limit);
    Names {
        page: all.into_iter().skip(first).take(limit).collect(),
        next: (end < total).then(|| end.to_string()),
        total: total as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<RepositoryName> {
        let name = |text: &&str| {
            let (registry, repository) = text.split_once('/').expect("a slash");
            let repository = repository.parse().expect("a name");
            RepositoryName::new(&Registry::new(registry), &repository)
        };
        texts.iter().map(name).collect()
    }

    fn filter(registry: Option<&str>, q: &str) -> NameFilter {
        NameFilter {
            registry: registry.map(Registry::new),
            words: Words::of(q),
        }
    }

    #[test]
    fn pages_of_names_follow_each_other() {
        let all = names(&["docker.io/a", "docker.io/a/b", "docker.io/c", "ghcr.io/a"]);
        let (mut after, mut seen) = (None::<String>, Vec::new());
        loop {
            let page = Names::after(
                all.clone().into_iter(),
                &filter(None, ""),
                after.as_deref(),
                2,
            );
            assert_eq!(page.total, 4);
            seen.extend(page.page);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
        let found = Names::after(
            all.clone().into_iter(),
            &filter(Some("docker.io"), "A"),
            None,
            9,
        );
        assert_eq!((found.page.len(), found.next), (2, None));
        // The name of the cursor may be gone meanwhile.
        let later = Names::after(all.into_iter(), &filter(None, ""), Some("docker.io b"), 9);
        assert_eq!(later.page, names(&["docker.io/c", "ghcr.io/a"]));
    }

    #[test]
    fn pages_of_ranks_follow_each_other() {
        let all = names(&["docker.io/c", "docker.io/a", "docker.io/b"]);
        let first = ranked(all.clone(), &filter(None, ""), None, 2);
        assert_eq!((first.page.len(), first.next.as_deref()), (2, Some("2")));
        let second = ranked(all, &filter(None, ""), Some(2), 2);
        assert_eq!((second.page, second.next), (names(&["docker.io/b"]), None));
    }
}
