//! The alerts and the Grafana dashboard in `conf/`: Prometheus understands them, and every metric in them exists.

use super::*;
use testkit::origin::Fault;
use testkit::real::{found, program};

const ALERTS: &str = include_str!("../../conf/monitoring/prometheus-alerts.yaml");
const DASHBOARD: &str = include_str!("../../conf/monitoring/grafana-dashboard.json");

/// The expressions of the dashboard, with Grafana's variables filled in.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let expressions = targets.map(|target| target["expr"].as_str().expect("a text"));
    let filled = expressions.map(|text| {
        let text = text.replace("$__rate_interval", "5m");
        text.replace("$instance", ".*")
    });
    filled.collect()
}

/// The metrics that a text names.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| {
        let mut prefixes = ["registry_http_", "registry_proxy_", "roadstead_"].into_iter();
        prefixes.any(|prefix| word.starts_with(prefix))
    });
    ours.map(str::to_owned).collect()
}

#[test]
fn prometheus_loads_alerts_and_dashboard() {
    let Some(promtool) = found(program("promtool")) else {
        return;
    };
    let dir = testkit::temp_dir();
    let rules: Vec<Value> = expressions()
        .iter()
        .map(|expr| serde_json::json!({"record": "panel", "expr": expr}))
        .collect();
    assert!(rules.len() > 10, "{rules:?}");
    // JSON is YAML.
    let panels = serde_json::json!({"groups": [{"name": "panels", "rules": rules}]});
    for (name, text) in [
        ("alerts.yaml", ALERTS),
        ("panels.yaml", &panels.to_string()),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, text).expect("writable");
        let mut check = process::command(&promtool);
        check.args(["check", "rules", "--lint=none"]).arg(&file);
        let output = process::run(&mut check, Duration::from_secs(60)).expect("promtool ends");
        let said = text_of(&output);
        assert!(output.status.success(), "{name}: {said}");
    }
}

fn text_of(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn alerts_and_dashboard_name_existing_metrics() {
    let (mut origin, image, gateway) = scene(1000, &format!("{ANYWHERE}store: {{tag_ttl: 0s}}\n"));
    origin.fault(Fault::header("ratelimit-limit", "100;w=21600"));
    origin.fault(Fault::header("ratelimit-remaining", "76;w=21600"));
    pull(&gateway, &image);
    origin.down();
    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200, "stale");
    let served = ask(&gateway, "/metrics").text();
    let known = metrics_in(&served);
    for name in metrics_in(ALERTS).union(&metrics_in(&expressions().concat())) {
        // Those of the bucket are there with a bucket.
        assert!(
            known.contains(name) || name.starts_with("roadstead_bucket_"),
            "{name} is not in\n{served}"
        );
    }
}
