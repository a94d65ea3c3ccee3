//! Stores the initial contents of repositories directly in the registries.

use serde_json::json;

use super::bindings::{Bindings, Item};
use super::script::{Holding, Kind};
use super::wire::RawRequest;
use super::world::{World, is_public};
use testkit::sha256;

/// The response of a registry that refused a content.
pub type Refused = String;

impl World {
    /// Stores the initial contents of a repository.
    pub fn hold(&self, bindings: &Bindings, holding: &Holding) -> Result<(), Refused> {
        let name = bindings.name(&holding.name);
        let contents = holding.contents.iter();
        let items: Vec<&Item> = contents.filter_map(|name| bindings.item(name)).collect();
        let tags = holding.tags.iter().filter_map(|(tag, content)| {
            let tag = bindings.tag(&holding.name, tag, false);
            Some((tag, bindings.item(content)?))
        });
        let tags: Vec<(String, &Item)> = tags.collect();
        match holding.registry.as_str() {
            "shelf" => {
                self.hold_on_shelf(&name, &items, &tags);
                Ok(())
            }
            "v1" => self.hold_v1(bindings, &name, &items, &tags),
            registry => self.hold_v2(registry, &name, &items, &tags),
        }
    }

    fn put(&self, registry: &str, raw: RawRequest) -> Result<(), Refused> {
        let done = self.ask_backend(registry, raw).expect("a real registry");
        if done.status() < 300 {
            Ok(())
        } else {
            Err(format!("{registry}: {done:?}"))
        }
    }

    fn hold_v2(
        &self,
        registry: &str,
        name: &str,
        items: &[&Item],
        tags: &[(String, &Item)],
    ) -> Result<(), Refused> {
        let put_manifest = |reference: &str, item: &Item| {
            let raw = RawRequest::new("PUT", format!("/v2/{name}/manifests/{reference}"));
            let raw = raw.with("Content-Type", item.media_type());
            self.put(registry, raw.body(&item.bytes))
        };
        for item in items {
            if matches!(item.kind, Kind::Manifest | Kind::Index) {
                put_manifest(&item.id, item)?;
                continue;
            }
            let start = RawRequest::new("POST", format!("/v2/{name}/blobs/uploads/"));
            let begun = self.ask_backend(registry, start).expect("a real registry");
            let location = begun.header("location").unwrap_or_default();
            let (_, path) = location.split_once("/v2/").unwrap_or_default();
            let finish = RawRequest::new("PUT", format!("/v2/{path}&digest={}", item.id));
            self.put(registry, finish.body(&item.bytes))?;
        }
        for (tag, item) in tags {
            put_manifest(tag, item)?;
        }
        Ok(())
    }

    fn hold_on_shelf(&self, name: &str, items: &[&Item], tags: &[(String, &Item)]) {
        for item in items {
            let bytes = item.bytes.clone();
            if matches!(item.kind, Kind::Manifest | Kind::Index) {
                self.shelf
                    .push_manifest(name, None, item.media_type(), bytes);
            } else {
                self.shelf.push_blob(name, bytes);
            }
        }
        for (tag, item) in tags {
            self.shelf.tag(name, tag, &item.id);
        }
        if is_public(name) {
            // The scripted origin takes `&'static str` only.
            let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
            self.shelf.change_bearer(|bearer| bearer.public.push(name));
        }
    }

    /// Pushes images as Docker 1.x does, parents first.
    fn hold_v1(
        &self,
        bindings: &Bindings,
        name: &str,
        items: &[&Item],
        tags: &[(String, &Item)],
    ) -> Result<(), Refused> {
        let put =
            |target: String, body: &[u8]| self.put("v1", RawRequest::new("PUT", target).body(body));
        for item in items {
            let layer = item.of.first().and_then(|layer| bindings.item(layer));
            let layer = layer.map_or(&[][..], |layer| &layer.bytes);
            let image = format!("/v1/images/{}", item.id);
            let sum = sha256(&[&item.bytes, &b"\n"[..], layer].concat());
            put(format!("{image}/json"), &item.bytes)?;
            put(format!("{image}/layer"), layer)?;
            let complete = RawRequest::new("PUT", format!("{image}/checksum"));
            self.put("v1", complete.with("X-Docker-Checksum-Payload", &sum))?;
        }
        let repository = format!("/v1/repositories/{name}");
        let list: Vec<_> = items.iter().map(|item| json!({"id": item.id})).collect();
        put(
            format!("{repository}/images"),
            json!(list).to_string().as_bytes(),
        )?;
        for (tag, item) in tags {
            put(
                format!("{repository}/tags/{tag}"),
                json!(item.id).to_string().as_bytes(),
            )?;
        }
        Ok(())
    }
}
