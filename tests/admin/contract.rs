//! openapi.json against the real binary: every operation is exercised, and every answer fits its schema. (That the routes
//! are those of the document is a unit test of `src/admin/route.rs`.)

use super::schema::Contract;
use super::*;

/// The bodies and queries that succeed, by operation.
fn arguments(operation: &str, digest: &str) -> (String, Option<String>) {
    let repository = "registry=docker.io&repository=library/app";
    let image = "docker.io/library/app:latest";
    match operation {
        "traffic" => ("window=day".to_owned(), None),
        "errors" => ("kind=error&q=library".to_owned(), None),
        "requests" => ("status=2xx&limit=5".to_owned(), None),
        "repositories" => ("sort=size&q=LIB+app".to_owned(), None),
        "tags" => (repository.to_owned(), None),
        "manifest" => (format!("{repository}&reference={digest}"), None),
        "pin" => (
            String::new(),
            Some(format!("{{\"image\": \"{image}\", \"note\": \"ß\"}}")),
        ),
        "unpin" => (format!("image={image}"), None),
        "purge" => (
            String::new(),
            Some(format!("{{\"target\": \"{image}\", \"dry_run\": true}}")),
        ),
        "warm" => (
            String::new(),
            Some(format!("{{\"image\": \"{image}\", \"platform\": \"all\"}}")),
        ),
        "verify" => (String::new(), Some("{}".to_owned())),
        "explain" => (String::new(), Some(format!("{{\"image\": \"{image}\"}}"))),
        _ => (String::new(), None),
    }
}

/// The response of an operation; of a stream of events the first ones.
fn exercise(gateway: &Gateway, method: &str, path: &str, body: Option<&str>) -> Reply {
    match method {
        "POST" => act(gateway, path, body.unwrap_or("{}")),
        "DELETE" => {
            let mut raw = Raw::connect(gateway.operators("admin.address"), None);
            raw.exchange(method, path, &[("X-Roadstead-Request", "1")])
        }
        _ => ask(gateway, path),
    }
}

#[test]
fn every_operation_answers_as_described() {
    let (origin, image, gateway) = scene(100_000, ANYWHERE);
    pull(&gateway, &image);
    metrics_after(&gateway, "blob", 2);
    let index = origin.push_index("library/app", "index", &[&image]);
    assert_eq!(fetch(&gateway, &index.tag_path()).status(), 200);
    let contract = Contract(read(&gateway, "/api/v1/openapi.json"));
    let paths = contract.0["paths"].as_object().expect("paths").clone();
    // A pin is removed after it was made.
    let order = |method: &str| {
        ["get", "post", "delete"]
            .iter()
            .position(|one| *one == method)
    };
    let mut operations: Vec<(usize, String, String)> = Vec::new();
    for (path, methods) in &paths {
        for method in methods.as_object().expect("methods").keys() {
            let rank = order(method).expect("a known method");
            operations.push((rank, path.clone(), method.clone()));
        }
    }
    operations.sort();
    assert_eq!(operations.len(), 22);
    for (_, path, method) in operations {
        let described = &paths[&path][&method];
        let operation = described["operationId"].as_str().expect("an id");
        // Streams are in `events.rs`.
        if operation == "events" {
            continue;
        }
        let (query, body) = arguments(operation, &image.digest);
        let target = format!("{path}?{query}");
        let reply = exercise(&gateway, &method.to_uppercase(), &target, body.as_deref());
        let status = reply.status().to_string();
        let response = contract.resolve(&described["responses"][&status]);
        assert!(response.is_object(), "{operation} answered {reply:?}");
        let expected = match operation {
            "unpin" => 204,
            _ => 200,
        };
        assert_eq!(reply.status(), expected, "{operation}: {reply:?}");
        for (kind, content) in response["content"].as_object().into_iter().flatten() {
            assert_eq!(reply.header("content-type"), Some(&**kind), "{operation}");
            let text = reply.text();
            let values: Vec<&str> = match &**kind {
                "application/x-ndjson" => text.lines().collect(),
                _ => vec![&text],
            };
            assert!(!values.is_empty(), "{operation}");
            for value in values {
                let value = serde_json::from_str(value).expect("JSON");
                contract.check(&value, &content["schema"], operation);
            }
        }
    }
}

/// Examples fit their schemas, so what is written of the API is true of itself.
#[test]
fn examples_fit_their_schemas() {
    let text = include_str!("../../src/admin/openapi.json");
    let contract = Contract(serde_json::from_str(text).expect("JSON"));
    let mut nodes = vec![(String::from("#"), contract.0.clone())];
    let mut examples = 0;
    while let Some((place, node)) = nodes.pop() {
        if let (Some(schema), Some(example)) = (node.get("schema"), node.get("example")) {
            contract.check(example, schema, &place);
            examples += 1;
        }
        contract.resolve(&node);
        match &node {
            Value::Object(members) => nodes.extend(
                members
                    .iter()
                    .filter(|(name, _)| *name != "example")
                    .map(|(name, node)| (format!("{place}/{name}"), node.clone())),
            ),
            Value::Array(items) => {
                nodes.extend(items.iter().map(|node| (place.clone(), node.clone())));
            }
            _ => {}
        }
    }
    assert!(examples > 30, "{examples}");
}

/// Each refusal is a problem with its code.
#[test]
fn refusals_are_problems() {
    let (_origin, image, gateway) = scene(1000, ANYWHERE);
    pull(&gateway, &image);
    let contract = Contract(read(&gateway, "/api/v1/openapi.json"));
    let repository = "registry=docker.io&repository=library/app";
    let invalid = [
        "fills?limit=0",
        "fills?limit=501",
        "fills?limit=1&limit=2",
        "fills?q=x",
        "overview?x=1",
        "traffic?window=year",
        "requests?status=6xx",
        "requests?after=x",
        "repositories?sort=age",
        "tags?registry=docker.io",
        "tags?registry=docker.io&repository=A",
        &format!("manifest?{repository}&reference=%2F"),
        "events?topics=secrets",
    ];
    let invalid = invalid.map(|query| format!("/api/v1/{query}"));
    let invalid = invalid
        .iter()
        .map(|path| ("GET", &**path, "", 400, "invalid-parameter"));
    let others = [
        ("GET", "/api/v1/nothing", "", 404, "not-found"),
        ("GET", "/api/v1/purge", "", 405, "method-not-allowed"),
        (
            "GET",
            "/api/v1/tags?registry=docker.io&repository=none",
            "",
            404,
            "not-found",
        ),
        (
            "GET",
            "/api/v1/tags?registry=none&repository=none",
            "",
            404,
            "not-found",
        ),
        (
            "GET",
            &format!("/api/v1/manifest?{repository}&reference=none"),
            "",
            404,
            "not-found",
        ),
        (
            "POST",
            "/api/v1/pins",
            r#"{"image": "app:none"}"#,
            404,
            "not-found",
        ),
        (
            "POST",
            "/api/v1/pins",
            r#"{"image": "A"}"#,
            400,
            "invalid-body",
        ),
        (
            "POST",
            "/api/v1/pins",
            r#"{"image": "app", "colour": 1}"#,
            400,
            "invalid-body",
        ),
        ("DELETE", "/api/v1/pins?image=app", "", 404, "not-found"),
        ("DELETE", "/api/v1/pins", "", 400, "invalid-parameter"),
        ("POST", "/api/v1/purge", "[]", 400, "invalid-body"),
        ("POST", "/api/v1/explain", "{}", 400, "invalid-body"),
    ];
    for (method, path, body, status, code) in others.into_iter().chain(invalid) {
        let reply = exercise(&gateway, method, path, Some(body));
        assert_eq!(reply.status(), status, "{method} {path}: {reply:?}");
        let kind = reply.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{method} {path}");
        let problem: Value = serde_json::from_slice(&reply.body).expect("JSON");
        contract.check(
            &problem,
            &contract.0["components"]["schemas"]["Problem"],
            path,
        );
        assert_eq!(
            (&problem["code"], &problem["status"]),
            (&code.into(), &status.into())
        );
    }
}
