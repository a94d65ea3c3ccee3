//! What cannot change while the gateway runs.

use super::super::fault::Report;
use super::super::tree::Node;
use super::super::{Config, ListenAddress};
use super::places;

/// Reports every difference to the configuration of the running gateway that only another process can apply.
pub fn check(config: &Config, running: &Config, tree: &Node, report: &mut Report) {
    let (store, limits, log) = (tree.near("store"), tree.near("limits"), tree.near("log"));
    let path = |path: &std::path::Path| path.display().to_string();
    for (node, key, now, new) in [
        (
            tree.near("keys"),
            "keys",
            path(&running.keys),
            path(&config.keys),
        ),
        (
            store.near("path"),
            "store.path",
            path(&running.store.path),
            path(&config.store.path),
        ),
        (
            limits.near("fills"),
            "limits.fills",
            running.limits.fills.to_string(),
            config.limits.fills.to_string(),
        ),
        (
            log.near("format"),
            "log.format",
            format!("{:?}", running.log.format).to_lowercase(),
            format!("{:?}", config.log.format).to_lowercase(),
        ),
        (
            log.near("level"),
            "log.level",
            running.log.level.to_string().to_lowercase(),
            config.log.level.to_string().to_lowercase(),
        ),
    ] {
        if now != new {
            let message = format!("{key} cannot change from {now} to {new} while the gateway runs");
            report.fault(node.at, format!("{message}; restart it"));
        }
    }
    if running.store.bucket != config.store.bucket {
        let message = "store.bucket cannot change while the gateway runs; restart it";
        report.fault(store.near("bucket").at, message);
    }
    listeners(config, running, tree, report);
}

/// Listeners that overlap one of the running gateway: both would be bound at the same time.
fn listeners(config: &Config, running: &Config, tree: &Node, report: &mut Report) {
    let bound = places(running, &Node::ABSENT);
    for (at, key, address) in places(config, tree) {
        let is_same = |(_, known, bound): &&(_, &'static str, &ListenAddress)| {
            *known == key && *bound == address
        };
        if bound.iter().any(|place| is_same(&place)) {
            continue;
        }
        let overlapping = bound.iter().find(|(_, _, bound)| address.collides(bound));
        if let Some((_, known, bound)) = overlapping {
            let message =
                format!("{address} overlaps {bound}, which is {known} of the running gateway");
            report.fault(at, format!("{message}; restart it"));
        }
    }
    for (index, listener) in config.listen.iter().enumerate() {
        let mut same = running.listen.iter();
        let same = same.find(|known| known.address == listener.address);
        if same.is_some_and(|same| same.permissions != listener.permissions) {
            let node = tree.near("listen").item(index);
            let node = ["mode", "group"].iter().find_map(|key| node.entry(key));
            let at = node.map_or(tree.near("listen").item(index).at, |entry| entry.node.at);
            let message = "mode and group cannot change while the gateway runs; restart it";
            report.fault(at, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::no_env;
    use crate::config;

    #[test]
    fn changes_that_need_a_restart_are_faults() {
        let running = "keys: k\nlisten: [{address: ':5000'}, {address: 'unix:a', mode: '0660'}]\n";
        for (changed, expected) in [
            (running, vec![]),
            (
                "keys: k\nlisten: [{address: ':5000', tls: off}, {address: ':0'}]\nlimits: {connections: 7}\nlog: {access: false}",
                vec![],
            ),
            (
                "keys: k2\nstore: {path: s}\nlimits: {fills: 7}\nlog: {format: json, level: debug}\nlisten: [{address: ':5000'}]",
                vec![
                    "1:7: keys cannot change from k to k2 while the gateway runs; restart it",
                    "2:15: store.path cannot change from var/store to s while the gateway runs; restart it",
                    "3:17: limits.fills cannot change from 64 to 7 while the gateway runs; restart it",
                    "4:15: log.format cannot change from text to json while the gateway runs; restart it",
                    "4:28: log.level cannot change from info to debug while the gateway runs; restart it",
                ],
            ),
            (
                "keys: k\nstore: {bucket: {url: 's3://b'}}\nlisten: [{address: '127.0.0.1:5000'}, {address: 'unix:a'}]",
                vec![
                    "2:17: store.bucket cannot change while the gateway runs; restart it",
                    "3:20: 127.0.0.1:5000 overlaps :5000, which is listen of the running gateway; restart it",
                    "3:39: mode and group cannot change while the gateway runs; restart it",
                ],
            ),
            (
                "keys: k\nlisten: [{address: 'unix:a', mode: '0660'}]\nadmin: {address: ':5000', tls: auto, htpasswd: h}",
                vec![
                    "3:18: :5000 overlaps :5000, which is listen of the running gateway; restart it",
                ],
            ),
        ] {
            let running = config::parse(running, "f", &no_env).expect("good");
            let found = config::examine(changed, "f", &no_env, None, Some(&running));
            let found = found.map_or_else(|faults| faults.to_string(), |_| String::new());
            let found: Vec<&str> = found.lines().map(|line| &line[2..]).collect();
            assert_eq!(found, expected, "{changed}");
        }
    }
}
