// The cache: repositories, their tags, and what a tag leads to.

import {
  $, ago, badge, button, bytes, copyButton, count, el, nameOf, percent, plural, put, repositoryHref, repositoryLink,
  shortDigest, table, terms,
} from "./dom.js";
import { get } from "./api.js";
import { imageActions, purge, togglePin, warm } from "./actions.js";
import { List } from "./list.js";

const STATE = { present: ["good", "in the store"], partial: ["warn", "partly here"], fetching: ["warn", "being fetched"], missing: ["", "not here"] };
const focusView = () => $("content").focus();

/** The row that had the focus may be gone. */
async function again(list) {
  await list.refresh();
  focusView();
}

let lists = null;

export function show() {
  lists ??= begin();
  lists.repositories.show();
  lists.pins.show();
}

export function hide() {
  lists.repositories.leave();
  lists.pins.leave();
}

function begin() {
  const repositories = new List($("repository-list"), {
    path: "repositories", form: $("repository-search"), render: (items) => table("Repositories in the cache", [
      { title: "Repository", head: true, cell: (row) => [repositoryLink(row), row.pinned && [" ", badge("", "pinned")]] },
      { title: "Tags", class: "wide number", cell: (row) => count(row.tags) },
      { title: "Size", class: "number", cell: (row) => bytes(row.cached_bytes) },
      { title: "Pulls", class: "number", cell: (row) => count(row.pulls) },
      { title: "Last used", class: "wide number", cell: (row) => ago(row.last_used_at) },
      { title: el("span", { class: "unseen" }, "Actions"), class: "wide number", cell: (row) =>
        button("Purge…", () => purge(nameOf(row), () => again(repositories)), { class: "small danger", "aria-label": `Purge ${nameOf(row)}` }) },
    ], items, "No repository in the cache has this in its name."),
  });
  const pins = new List($("pins"), {
    path: "pins", limit: 20, render: (items) => table("Pinned images", [
      { title: "Image", head: true, cell: (row) => el("span", { class: "name" }, row.image) },
      { title: "Note", class: "wide", cell: (row) => row.note },
      { title: "In the store", class: "number", cell: (row) => `${bytes(row.cached_bytes)} of ${bytes(row.total_bytes)}` },
      { title: el("span", { class: "unseen" }, "Actions"), class: "number", cell: (row) =>
        button("Unpin", () => togglePin(row.image, true, () => again(pins)), { class: "small", "aria-label": `Unpin ${row.image}` }) },
    ], items, "Nothing is pinned."),
  });
  $("warm").addEventListener("click", () => warm("", () => repositories.refresh()));
  get("registries", { limit: 500 }).then(({ items }) =>
    $("repository-search").registry.append(...items.map(({ name }) => el("option", { value: name }, name)))).catch(() => {});
  return { repositories, pins };
}

/** One repository: its tags, and the manifest that `reference` leads to. */
export const repository = (() => {
  let [tags, shown, abort] = [null, null, null];

  const tagList = () => new List($("tag-list"), {
    path: "tags", form: $("tag-search"), limit: 25, render: (items) => table("Cached tags", [
      { title: "Tag", head: true, cell: (row) =>
        [el("a", { class: "name", href: repositoryHref(shown, row.tag) }, row.tag), row.pinned && [" ", badge("", "pinned")]] },
      { title: "Digest", class: "wide", cell: (row) => shortDigest(row.digest) },
      { title: "Confirmed", cell: (row) => [badge(row.state === "fresh" ? "good" : "warn", row.state), " ", ago(row.checked_at)] },
      { title: "Last used", class: "wide number", cell: (row) => ago(row.last_used_at) },
    ], items, "No cached tag has this in its name."),
    onPage: ({ items }) => {
      if (!shown.reference && items.length > 0 && $("manifest").hidden) manifest(items[0].tag, "quiet");
      else mark();
    },
  });

  /** Shows which tag is shown. */
  function mark() {
    for (const link of $("tag-list").querySelectorAll("th a")) {
      if (link.textContent === $("manifest-title").textContent) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  async function manifest(reference, manner) {
    abort?.abort();
    const { signal } = (abort = new AbortController());
    const image = nameOf(shown) + (reference.includes(":") ? `@${reference}` : `:${reference}`);
    const changed = async () => {
      await Promise.all([tags.refresh(), manifest(reference, "quiet")]);
      focusView();
    };
    try {
      const found = await get("manifest", { registry: shown.registry, repository: shown.repository, reference }, signal);
      if (signal.aborted) return;
      put($("manifest-actions"), imageActions(image, { pinned: found.pinned, changed }));
      put($("manifest-body"), details(found));
    } catch (error) {
      if (signal.aborted) return;
      put($("manifest-actions"));
      put($("manifest-body"), el("p", { class: "empty" }, error.status === 404 ? "It is not in the cache." : error.message));
    }
    put($("manifest-title"), el("span", { class: "name" }, reference));
    $("manifest").hidden = false;
    mark();
    if (manner !== "quiet") $("manifest-title").focus();
  }

  return {
    show(parameters) {
      const { registry, repository, reference } = Object.fromEntries(parameters);
      const same = shown?.registry === registry && shown?.repository === repository;
      shown = { registry, repository, reference };
      tags ??= tagList();
      put($("repository-name"), el("span", { class: "name" }, nameOf(shown)));
      const purged = () => (location.hash = "#/repositories");
      put($("repository-actions"), button("Purge repository…", () => purge(nameOf(shown), purged), { class: "danger" }));
      if (!same) {
        $("manifest").hidden = true;
        $("tag-search").reset();
      }
      // A tag that is chosen leaves the list at its page.
      if (!same || !reference) tags.show({ registry, repository });
      if (reference) manifest(reference);
    },
    hide() {
      tags.leave();
      abort?.abort();
    },
  };
})();

function details(found) {
  const whole = found.images.reduce((sum, image) => sum + image.total_bytes, 0);
  // Of a manifest that is not here, or that lists too much, the whole is not known.
  const least = found.images.some((image) => image.total_bytes == null) || found.images.length < found.images_total;
  const here = found.images.reduce((sum, image) => sum + image.cached_bytes, 0);
  return [
    terms([
      ["Digest", el("code", { class: "break" }, found.digest)],
      ["Media type", el("code", { class: "break" }, found.artifact_type ?? found.media_type)],
      ["In the store", `${bytes(here)} of ${least ? "at least " : ""}${bytes(whole)}`],
      ["Confirmed", ago(found.checked_at)], ["Last used", ago(found.last_used_at)],
      found.tags.length > 0 && ["Tags", found.tags.join(", ")],
      found.subject && ["Refers to", shortDigest(found.subject)],
    ]),
    el("h3", {}, found.images_total === 1 ? "Image" : plural(found.images_total, "platform")),
    found.images.map(imageDetails),
    found.images.length < found.images_total && el("p", { class: "muted" }, `and ${count(found.images_total - found.images.length)} more`),
    Object.keys(found.annotations).length > 0 && el("details", {}, el("summary", {}, "Annotations"), terms(Object.entries(found.annotations))),
    el("h3", {}, "Pull"),
    el("ul", { class: "commands" }, found.pull_commands.map(({ client, command, note }) => el("li", {},
      el("span", { class: "client" }, client), el("code", { class: "break" }, command), copyButton(command, `Copy the ${client} command`),
      note && el("small", { class: "muted" }, note)))),
  ];
}

/** A platform, folded, with its layers. */
export function imageDetails(image, index, all) {
  const part = image.total_bytes ? image.cached_bytes / image.total_bytes : null;
  const layer = (row) => (row === image.config ? "config" : row.media_type.replace(/^.*\.(?=[^.]*(layer|tar|diff))/, ""));
  const rows = [image.config, ...image.layers].filter(Boolean);
  const isCut = image.state === "present" && image.total_bytes == null;
  const size = isCut ? `more than ${plural(rows.length, "blob")}` : `${bytes(image.total_bytes)}, ${percent(part)} in the store`;
  return el("details", { open: all.length === 1 },
    el("summary", {}, el("strong", {}, image.artifact_type ?? image.platform ?? "image"), " ",
      el("span", { class: "muted" }, image.state === "missing" ? "manifest not here" : size)),
    el("p", {}, el("code", { class: "break" }, image.digest)),
    image.state === "present" && table("Config and layers", [
      { title: "Digest", head: true, cell: (row) => shortDigest(row.digest) },
      { title: "Kind", class: "wide", cell: layer },
      { title: "Size", class: "number", cell: (row) => (row.size_bytes == null ? "–" : bytes(row.size_bytes)) },
      { title: "State", cell: (row) => [badge(...STATE[row.state]), row.state === "present" && !row.linked && [" ", badge("warn", "not linked")]] },
      { title: "Last used", class: "wide number", cell: (row) => ago(row.last_used_at) },
    ], rows, "It has no layers."),
    isCut && el("p", { class: "muted" }, "Not all of its layers are listed."));
}
