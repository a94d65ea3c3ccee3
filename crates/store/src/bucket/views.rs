//! The views of registries: which upstream and account their records in the bucket belong to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use oci::name::Registry;

/// The view of each registry; `None` once it has changed.
#[derive(Debug)]
pub(super) struct Views(HashMap<Registry, Option<String>>);

impl Views {
    pub fn new(views: &HashMap<Registry, String>) -> Self {
        let views = views.iter();
        Self(
            views
                .map(|(registry, view)| (registry.clone(), Some(view.clone())))
                .collect(),
        )
    }

    /// The view of a registry; `None`: it shares no records.
    pub fn of(&self, registry: &Registry) -> Option<&str> {
        self.0.get(registry)?.as_deref()
    }

    /// Adds the views of new registries, and withdraws those that differ from the first. Returns the registries of the
    /// latter.
    pub fn update(&mut self, views: &HashMap<Registry, String>) -> Vec<Registry> {
        let mut withdrawn = Vec::new();
        for (registry, view) in views {
            match self.0.entry(registry.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(Some(view.clone()))),
                Entry::Occupied(mut entry) => {
                    if entry.get().as_ref().is_some_and(|first| first != view) {
                        entry.insert(None);
                        withdrawn.push(registry.clone());
                    }
                }
            }
        }
        withdrawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_views_are_withdrawn_for_good() {
        let views = |all: &[(&str, &str)]| -> HashMap<Registry, String> {
            let all = all.iter();
            all.map(|(registry, view)| (Registry::new(registry), (*view).to_owned()))
                .collect()
        };
        let mut known = Views::new(&views(&[("a", "1"), ("b", "1")]));
        for (update, withdrawn, of) in [
            (
                views(&[("a", "1"), ("c", "1")]),
                vec![],
                [Some("1"), Some("1"), Some("1")],
            ),
            (
                views(&[("a", "2"), ("b", "1")]),
                vec!["a"],
                [None, Some("1"), Some("1")],
            ),
            (
                views(&[("a", "1"), ("c", "2")]),
                vec!["c"],
                [None, Some("1"), None],
            ),
        ] {
            let found = known.update(&update);
            let found: Vec<&str> = found.iter().map(Registry::as_str).collect();
            assert_eq!(found, withdrawn);
            let now = ["a", "b", "c"].map(Registry::new);
            assert_eq!(now.each_ref().map(|registry| known.of(registry)), of);
        }
    }
}
