//! The routes of the v1 API.

use serde_json::{Value, json};

use super::connection::V1Answer;
use super::{State, StoredImage, V1Request};

/// The response to a request.
pub fn answer(state: &mut State, request: &V1Request) -> V1Answer {
    let mut words = request.line.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = if method == "HEAD" { "GET" } else { method };
    if let Some(status) = state.script.broken {
        return V1Answer::error(status, "broken");
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["v1", "search"] => search(state, query),
        ["v1", "images", id, part] => {
            if let Some(refused) = refused(state, request) {
                return refused;
            }
            image(state, request, method, id, part)
        }
        ["v1", "repositories", namespace, name, rest @ ..] => {
            if state.script.no_tags && matches!(rest, ["tags", ..]) {
                return V1Answer::error(404, "Repository not found");
            }
            let of_index = matches!(rest, ["" | "images" | "auth"]);
            if !of_index && let Some(refused) = refused(state, request) {
                return refused;
            }
            repository(state, request, method, &format!("{namespace}/{name}"), rest)
        }
        _ => V1Answer::error(404, "no such route"),
    }
}

fn refused(state: &State, request: &V1Request) -> Option<V1Answer> {
    let token = state.script.tokens.as_ref()?;
    let sent = request.header("authorization").unwrap_or_default();
    let good = sent == format!("Token {token}");
    (!good)
        .then(|| V1Answer::error(401, "Requires authorization").with("WWW-Authenticate", "Token"))
}

fn search(state: &State, query: &str) -> V1Answer {
    let results: Vec<Value> = state
        .repositories
        .keys()
        .map(|name| json!({"name": name, "description": ""}))
        .collect();
    V1Answer::json(
        200,
        &json!({"num_results": results.len(), "query": query, "results": results}),
    )
}

fn repository(
    state: &mut State,
    request: &V1Request,
    method: &str,
    name: &str,
    rest: &[&str],
) -> V1Answer {
    let host = request.header("host").unwrap_or_default().to_owned();
    let given = state.script.index.clone();
    let endpoints = move |answer: V1Answer| {
        let answer = answer.with("X-Docker-Endpoints", host.clone());
        match &given {
            Some(token) => answer.with("X-Docker-Token", token.clone()),
            None => answer.with("X-Docker-Token", "Token signature=THEIRS,access=all"),
        }
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match (method, rest) {
        ("PUT", ["" | "images"]) => {
            let (list, _) = state.repositories.entry(name.to_owned()).or_default();
            let new = body.as_array().cloned().unwrap_or_default();
            list.extend(
                new.into_iter()
                    .filter(|item| !list.contains(item))
                    .collect::<Vec<_>>(),
            );
            let ends = rest == ["images"];
            endpoints(V1Answer::json(if ends { 204 } else { 200 }, &json!("")))
        }
        ("GET", ["images"]) => match state.repositories.get(name) {
            Some((list, _)) => endpoints(V1Answer::json(200, &json!(list))),
            None => V1Answer::error(404, "images not found"),
        },
        ("GET", ["tags"]) => match state.repositories.get(name) {
            Some((_, tags)) => V1Answer::json(200, &json!(tags)),
            None => V1Answer::error(404, "Repository not found"),
        },
        ("GET", ["json"]) => V1Answer::json(200, &json!({"arch": "amd64", "os": "linux"})),
        ("GET", ["tags", tag]) => {
            let known = state.repositories.get(name);
            match known.and_then(|(_, tags)| tags.get(*tag)) {
                Some(id) => V1Answer::json(200, &json!(id)),
                None => V1Answer::error(404, "Tag not found"),
            }
        }
        ("PUT", ["tags", tag]) => {
            let id = body.as_str().unwrap_or_default().to_owned();
            if !state.images.contains_key(&id) {
                return V1Answer::error(404, "Image not found");
            }
            let (_, tags) = state.repositories.entry(name.to_owned()).or_default();
            tags.insert((*tag).to_owned(), id);
            V1Answer::json(200, &json!(true))
        }
        // Without the slash at the end.
        ("DELETE", []) => {
            let location = format!(
                "http://{}/v1/repositories/{name}/",
                request.header("host").unwrap_or_default()
            );
            V1Answer::error(301, "moved").with("Location", location)
        }
        ("DELETE", ["" | "tags"]) => match state.repositories.remove(name) {
            Some(_) => V1Answer::json(200, &json!(true)),
            None => V1Answer::error(404, "Repository not found"),
        },
        _ => V1Answer::error(404, "no such route"),
    }
}

fn image(state: &mut State, request: &V1Request, method: &str, id: &str, part: &str) -> V1Answer {
    if method == "GET" && request.header("if-modified-since").is_some() {
        return V1Answer::error(304, "");
    }
    let lost = state.script.lost.as_deref() == Some(id);
    let Some(held) = state.images.get(id).filter(|_| !lost) else {
        return match (method, part) {
            ("PUT", "json") => {
                let held = StoredImage {
                    json: request.body.clone(),
                    ..StoredImage::default()
                };
                state.images.insert(id.to_owned(), held);
                V1Answer::json(200, &json!(true))
            }
            _ => V1Answer::error(404, "Image not found"),
        };
    };
    if method == "GET" && !held.complete {
        return V1Answer::error(400, "Image is being uploaded, retry later");
    }
    match method {
        "GET" => get_part(state, request, id, part),
        "PUT" => put_part(state, request, id, part),
        _ => V1Answer::error(405, "no such method"),
    }
}

/// Serves a part of a complete image.
fn get_part(state: &State, request: &V1Request, id: &str, part: &str) -> V1Answer {
    let held = &state.images[id];
    match part {
        "json" => {
            let bytes = held.layer.as_deref().unwrap_or_default();
            let mut answer = V1Answer::error(200, "");
            if !state.script.no_sizes {
                answer = answer.with("X-Docker-Size", bytes.len().to_string());
            }
            if let Some(write) = state.script.checksum {
                let payload = crate::sha256(&[&held.json, &b"\n"[..], bytes].concat());
                answer = answer.with("X-Docker-Checksum-Payload", write(&payload));
            }
            answer.body.clone_from(&held.json);
            if let Some(sum) = &state.script.claims {
                answer = answer.with("X-Docker-Checksum-Payload", sum.clone());
            }
            answer.cacheable()
        }
        "ancestry" => {
            let mut ids = vec![id.to_owned()];
            while let Some(parent) = state.images.get(ids.last().expect("one")).and_then(|held| {
                let json: Value = serde_json::from_slice(&held.json).ok()?;
                Some(json["parent"].as_str()?.to_owned())
            }) {
                ids.push(parent);
            }
            V1Answer::json(200, &json!(ids)).cacheable()
        }
        "layer" => {
            if let Some(storage) = &state.script.storage {
                return V1Answer::error(302, "").with("Location", storage.clone());
            }
            let range = request.header("range").filter(|_| !state.script.no_ranges);
            let mut bytes = held.layer.clone().unwrap_or_default();
            if let Some(last) = bytes.last_mut().filter(|_| state.script.sends_wrong_bytes) {
                *last ^= 1;
            }
            let mut answer = layer(&bytes, range);
            answer.chunked = state.script.chunked && answer.status == 200;
            answer
        }
        _ => V1Answer::error(405, "no such method"),
    }
}

/// Stores a part of an image that is being pushed.
fn put_part(state: &mut State, request: &V1Request, id: &str, part: &str) -> V1Answer {
    let held = state.images.get_mut(id).expect("an image");
    match part {
        "json" if held.complete => V1Answer::error(409, "Image already exists"),
        "json" | "layer" => {
            if part == "json" {
                held.json.clone_from(&request.body);
            } else {
                held.layer = Some(request.body.clone());
            }
            V1Answer::json(200, &json!(true))
        }
        "checksum" => {
            let sum = request.header("x-docker-checksum-payload");
            if sum.is_none() {
                return V1Answer::error(412, "Missing Image's checksum");
            }
            held.complete = true;
            V1Answer::json(200, &json!(true))
        }
        _ => V1Answer::error(405, "no such method"),
    }
}

/// A layer, with the range faults of docker-registry.
fn layer(bytes: &[u8], range: Option<&str>) -> V1Answer {
    let mut answer = V1Answer {
        status: 200,
        headers: vec![
            ("Content-Type".into(), "application/octet-stream".into()),
            ("Content-Encoding".into(), "gzip".into()),
        ],
        length: None,
        body: bytes.to_vec(),
        chunked: false,
        unframed: false,
    };
    let size = bytes.len();
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    else {
        return answer.with("Accept-Ranges", "bytes").cacheable();
    };
    let (Ok(first), last) = (
        first.parse::<usize>(),
        last.parse::<usize>().unwrap_or(size),
    ) else {
        return answer.cacheable();
    };
    // docker-registry refuses a range of a single byte.
    if first >= size || last <= first {
        answer = V1Answer::error(416, "");
        answer.body.clear();
        return answer;
    }
    let end = (last + 1).min(size);
    answer.status = 206;
    answer.length = Some(last + 1 - first).map(|length| length.min(size + 1 - first));
    if last >= size {
        // docker-registry announces one byte more than there is.
        answer.length = Some(size + 1 - first);
    }
    answer.body = bytes[first..end].to_vec();
    answer.with("Content-Range", format!("{first}-{last}/{size}"))
}
