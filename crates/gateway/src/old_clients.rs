//! Recognises v1 clients, which fail where they see v2, by their User-Agent. For routing, never for authorisation.

use regex::Regex;

use oci::client::Generation;

/// The User-Agents of v1 clients.
#[derive(Clone, Debug, Default)]
pub enum OldClients {
    /// The built-in table: Docker up to 1.5, and the User-Agent of its ping.
    #[default]
    Default,
    /// Every User-Agent that one of these finds a match in.
    Patterns(Vec<Regex>),
}

impl OldClients {
    /// Whether a client with this `User-Agent` is served v1 only.
    pub fn include(&self, agent: &str) -> bool {
        match self {
            Self::Default => Generation::of(agent) == Generation::V1,
            Self::Patterns(patterns) => patterns.iter().any(|pattern| pattern.is_match(agent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_clients_by_table_or_patterns() {
        let patterns = |texts: &[&str]| {
            let patterns = texts
                .iter()
                .map(|text| Regex::new(text).expect("a pattern"));
            OldClients::Patterns(patterns.collect())
        };
        let agents = [
            "docker/1.0.1 go/go1.2.1",
            "docker/1.4.1 go/go1.3.3",
            "docker/1.5.0 go/go1.4.1",
            "docker/1.5.0-dev go/go1.4.1",
            "docker/1.6.2 go/go1.4.2",
            "Go 1.1 package http",
            "Go-http-client/1.1",
            "",
        ];
        for (table, old) in [
            (
                OldClients::Default,
                [true, true, true, false, false, true, false, false],
            ),
            (patterns(&[]), [false; 8]),
            (
                patterns(&[r"^docker/1\.[0-6]\.", "^Go-http"]),
                [true, true, true, true, true, false, true, false],
            ),
        ] {
            for (agent, old) in agents.iter().zip(old) {
                assert_eq!(table.include(agent), old, "{table:?} {agent}");
            }
        }
    }
}
