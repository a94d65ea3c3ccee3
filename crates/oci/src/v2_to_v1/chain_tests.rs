//! Invariants of every chain: an id names one content, and old clients can read the JSON.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::super::Compression;
use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

fn layer(name: &str) -> LayerDescriptor {
    LayerDescriptor {
        digest: digest(name),
        size: 100,
        compression: Compression::Gzip,
    }
}

/// An image of these layers and commands, and its configuration.
fn image(layers: &[&str], commands: &[&str], more: &Value) -> (ImageManifest, String) {
    let history: Vec<Value> = commands
        .iter()
        .map(|command| {
            let empty = command.starts_with("ENV");
            json!({"created": "2020-01-01T00:00:00Z", "created_by": command, "empty_layer": empty})
        })
        .collect();
    let mut config = json!({"os": "linux", "architecture": "amd64", "history": history});
    for (key, value) in more.as_object().expect("an object") {
        config[key] = value.clone();
    }
    let config = config.to_string();
    let image = ImageManifest {
        config: digest(&config),
        layers: layers.iter().map(|name| layer(name)).collect(),
    };
    (image, config)
}

fn ids(links: &[ChainImage]) -> Vec<ImageId> {
    links.iter().map(|link| link.id.clone()).collect()
}

#[test]
fn chain_follows_layers_and_history() {
    let platform = ClientPlatform::default();
    let make = |named: &str, layers: &[&str], commands: &[&str]| {
        let (image, config) = image(layers, commands, &json!({}));
        chain(&digest(named), &platform, &image, config.as_bytes()).expect("a chain")
    };
    let first = make("a", &["base", "one"], &["FROM", "RUN one"]);
    assert_eq!(first.len(), 2);
    let parsed: Vec<Value> = first
        .iter()
        .map(|link| serde_json::from_str(&link.json).expect("JSON"))
        .collect();
    assert_eq!(parsed[0].get("parent"), None);
    assert_eq!(parsed[0]["container_config"]["Cmd"], json!(["FROM"]));
    assert_eq!(parsed[0]["created"], "2020-01-01T00:00:00Z");
    assert_eq!(parsed[1]["parent"], first[0].id.as_str());
    for (link, parsed) in first.iter().zip(&parsed) {
        assert_eq!(parsed["id"], link.id.as_str());
        assert!(parsed["config"].is_object() && parsed["container_config"].is_object());
    }
    // Another image on the same base shares it; entries without layers count for nothing.
    let second = make("b", &["base", "two"], &["FROM", "ENV x=1", "RUN two"]);
    assert_eq!(first[0], second[0]);
    assert_ne!(first[1].id, second[1].id);
    // The same bytes made by another command get another description.
    let third = make("c", &["base", "one"], &["FROM other", "RUN one"]);
    assert_ne!(first[0].id, third[0].id);
    // If history and layers do not match, no command is guessed.
    let odd = make("d", &["base", "one"], &["FROM", "RUN one", "RUN none"]);
    assert!(odd[0].json.contains(r#""Cmd":[""]"#), "{}", odd[0].json);
}

#[test]
fn platforms_have_distinct_top_ids() {
    let (image, config) = image(&["base", "one"], &["FROM", "RUN"], &json!({}));
    let of = |os: &str, architecture: &str| {
        let platform = ClientPlatform {
            os: os.into(),
            architecture: architecture.into(),
        };
        let links = chain(&digest("index"), &platform, &image, config.as_bytes());
        let links = links.expect("a chain");
        assert_eq!(
            links.last().expect("a top").id,
            top_id(&digest("index"), &platform)
        );
        links
    };
    let (amd64, arm64) = (of("linux", "amd64"), of("linux", "arm64"));
    assert_ne!(amd64[1].id, arm64[1].id);
    assert_ne!(amd64[1].id, of("windows", "amd64")[1].id);
    assert_ne!(of("a", "bc")[1].id, of("ab", "c")[1].id);
}

#[test]
fn configuration_is_read_as_docker_reads_it() {
    let run = json!({
        "Cmd": ["/bin/sh"], "Entrypoint": null, "Env": ["A=1"], "Volumes": {"/data": {"x": 1}},
        "ExposedPorts": {"80/tcp": {}}, "Memory": 5, "MemorySwap": 1.5, "Tty": "yes",
        "Healthcheck": {"Test": ["CMD"]}, "cmd": 7, "Labels": {"a": "b"}, "User": "me",
    });
    let more = json!({
        "config": run, "created": "yesterday", "author": "A", "comment": 5, "rootfs": {"diff_ids": []},
        "Parent": "x", "docker_version": "1.12", "os.version": "1",
    });
    let (image, config) = image(&["base"], &["FROM"], &more);
    let links = chain(
        &digest("m"),
        &ClientPlatform::default(),
        &image,
        config.as_bytes(),
    );
    let json: Value = serde_json::from_str(&links.expect("a chain")[0].json).expect("JSON");
    let expected = json!({
        "Cmd": ["/bin/sh"], "Env": ["A=1"], "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
        "Memory": 5, "Labels": {"a": "b"}, "User": "me",
    });
    assert_eq!(json["config"], expected);
    assert_eq!(json["container_config"], expected, "both are set");
    let keys: BTreeSet<&str> = json
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "architecture",
        "author",
        "config",
        "container_config",
        "created",
        "docker_version",
        "id",
        "os",
    ];
    assert_eq!(keys, expected.into_iter().collect());
    assert_eq!(json["created"], LONG_AGO);
}

#[test]
fn limits_and_the_empty_layer() {
    let names: Vec<String> = (0..=MAX_CHAIN).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let platform = ClientPlatform::default();
    for (layers, expected) in [
        (0, Ok(1)),
        (1, Ok(1)),
        (MAX_CHAIN, Ok(MAX_CHAIN)),
        (MAX_CHAIN + 1, Err(())),
    ] {
        let (image, config) = image(&names[..layers], &[], &json!({}));
        let links = chain(&digest("m"), &platform, &image, config.as_bytes());
        match expected {
            Ok(length) => assert_eq!(links.expect("a chain").len(), length),
            Err(()) => assert_eq!(links, Err(V2ToV1Error::Layers(layers))),
        }
    }
    for broken in ["", "[]", "{", "7"] {
        let (image, _) = image(&["base"], &[], &json!({}));
        let links = chain(&digest("m"), &platform, &image, broken.as_bytes());
        assert_eq!(links, Err(V2ToV1Error::Config), "{broken}");
    }
    // The layer that distribution and Docker use for it as well.
    assert_eq!(
        Digest::of(Algorithm::Sha256, EMPTY_LAYER).hex(),
        "a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
    );
}

proptest! {
    /// An id never names two contents, for any set of images; the same image has the same ids.
    #[test]
    fn ids_stand_for_one_content(
        images in prop::collection::vec(
            (
                prop::collection::vec(0..3_u8, 0..5),
                prop::collection::vec("[ab]{0,2}", 0..5),
                prop::sample::select(vec!["amd64", "arm64"]),
                "[a-c]?",
            ),
            1..12,
        )
    ) {
        let mut known: HashMap<ImageId, (String, Option<LayerDescriptor>, Vec<ImageId>)> = HashMap::new();
        for (layers, commands, architecture, author) in images {
            let names: Vec<String> = layers.iter().map(ToString::to_string).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
            let more = json!({"author": author, "architecture": architecture});
            let (image, config) = image(&names, &commands, &more);
            // The digest of a manifest depends on its content.
            let named = digest(&format!("{image:?}"));
            let platform = ClientPlatform { os: "linux".into(), architecture: architecture.into() };
            let links = chain(&named, &platform, &image, config.as_bytes()).expect("a chain");
            prop_assert_eq!(
                &links,
                &chain(&named, &platform, &image, config.as_bytes()).expect("a chain")
            );
            let all = ids(&links);
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "no id twice");
            for (at, link) in links.iter().enumerate() {
                let below = all[..at].to_vec();
                let parsed: Value = serde_json::from_str(&link.json).expect("JSON");
                prop_assert_eq!(&parsed["id"], link.id.as_str());
                prop_assert_eq!(parsed["parent"].as_str(), below.last().map(ImageId::as_str));
                let content = (link.json.clone(), link.layer, below);
                let first = known.entry(link.id.clone()).or_insert_with(|| content.clone());
                prop_assert_eq!(&*first, &content);
            }
        }
    }

    #[test]
    fn nothing_panics(config in ".{0,200}", manifest in prop::collection::vec(any::<u8>(), 0..200)) {
        let (image, _) = image(&["base"], &[], &json!({}));
        let _ = chain(&digest("m"), &ClientPlatform::default(), &image, config.as_bytes());
        let _ = ImageManifest::parse(&manifest);
        let _ = super::super::choose(&manifest, &ClientPlatform::default());
    }
}
