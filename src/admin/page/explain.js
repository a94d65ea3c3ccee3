// Why a pull would be answered as it would, as the gateway tells it; and the configuration that it follows.

import { $, ago, badge, bytes, count, duration, el, plain, plural, put, setText, shortDigest, table } from "./dom.js";
import { get, post } from "./api.js";
import { imageDetails } from "./browse.js";

const DECISION = { allowed: "good", challenged: "warn", denied: "bad", delegated: "warn" };

let begun = false;

export function show(parameters) {
  const form = $("explain-form");
  if (!begun) form.addEventListener("submit", explain);
  begun = true;
  if (!parameters.get("image")) return;
  form.image.value = parameters.get("image");
  form.requestSubmit();
}

async function explain(event) {
  event.preventDefault();
  const form = event.target;
  const given = (name) => form.elements[name].value.trim() || null;
  try {
    const asked = { image: given("image") ?? "", as: given("as"), client: given("client"), from: given("from"), ask: form.ask.checked };
    put($("explanation"), render(await post("explain", asked)));
  } catch (error) {
    put($("explanation"), el("p", { class: "notice bad" }, error.message));
  }
}

const part = (title, verdict, ...rest) => el("section", {}, el("header", {}, el("h2", {}, title), verdict), rest);
const because = (text) => el("p", {}, text);

function render(told) {
  const { route, client, access, tag, manifest, upstream, answer } = told;
  return [
    part("Answer", badge(answer.status < 400 ? "good" : "bad", String(answer.status)), because(answer.because),
      answer.cache_status && el("p", {}, el("code", {}, `Cache-Status: roadstead; ${answer.cache_status}`))),
    part("Route", route ? el("span", { class: "name" }, `${route.registry}/${route.repository}`) : badge("bad", "no registry"),
      because(route ? route.because : answer.because), because(`Client: ${client.api}, ${client.because}`)),
    part("Access", badge(DECISION[access.decision] ?? "", access.decision), because(access.because),
      access.rule && el("pre", { class: "rule" }, plain(access.rule_line ? `line ${access.rule_line}: ${access.rule}` : access.rule))),
    tag && part("Tag", badge(tag.state === "fresh" ? "good" : "warn", tag.state),
      because(tag.state === "absent" ? "Not in the cache." : `Confirmed ${duration(tag.age_seconds)} ago.`),
      tag.digest && el("p", {}, "Points at ", shortDigest(tag.digest), ", fresh until ", ago(tag.fresh_until), ".")),
    manifest && part("Content", badge(manifest.state === "present" ? "good" : "warn", manifest.state), manifest.images.map(imageDetails)),
    part("Upstream", badge(upstream.requests.length ? "warn" : "good", plural(upstream.requests.length, "request")),
      upstream.requests.length > 0 && table("Requests that a pull would cause", [
        { title: "Request", head: true, cell: (row) => el("code", { class: "break" }, `${row.method} ${row.url}`) },
        { title: "Counts", cell: (row) => (row.counted ? badge("warn", "counted") : "free") },
        { title: "Why", cell: (row) => row.because },
      ], upstream.requests, ""),
      el("p", {}, `Costs ${plural(upstream.rate_limit_cost, "pull")} of the rate limit`,
        upstream.rate_limit_remaining != null && ` (${count(upstream.rate_limit_remaining)} left)`,
        ` and ${upstream.fetch_bytes == null ? "an unknown number of bytes" : bytes(upstream.fetch_bytes)}. `,
        told.asked_upstream ? "The upstream was asked." : "Nothing was asked upstream to find this out.")),
  ];
}

export const config = {
  async show() {
    try {
      const { path, loaded_at: loaded, yaml } = await get("config");
      put($("config-source"), path ? ["From ", el("code", {}, path)] : "Built-in defaults", ", loaded ", ago(loaded),
        ". The same: ", el("code", {}, "roadstead config"));
      // Line breaks and indentation are what they are here.
      $("config-text").textContent = yaml;
    } catch (error) {
      setText($("config-source"), plain(error.message));
    }
  },
};
