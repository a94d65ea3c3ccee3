// Why a pull would be answered as it would, as the gateway tells it; and the configuration that it follows.

import { $, ago, badge, bytes, count, duration, el, plain, plural, put, setText, shortDigest, table } from "./dom.js";
import { get, post } from "./api.js";
import { imageDetails } from "./browse.js";

const DECISION = { allowed: "good", challenged: "warn", denied: "bad", delegated: "warn" };
const TAG = { fresh: "good", stale: "warn", expired: "warn", absent: "", "not-found": "bad" };
const GATE = { served: "good", pinned: "good", "held-back": "warn", undecided: "warn", denied: "bad" };
const FIELDS = ["image", "as", "client", "from", "listener", "ns", "host", "platform"];

let begun = false;

export function show(parameters) {
  const form = $("explain-form");
  if (!begun) form.addEventListener("submit", explain);
  begun = true;
  if (!parameters.get("image")) return;
  for (const name of FIELDS) form.elements[name].value = parameters.get(name) ?? "";
  $("explain-more").open ||= FIELDS.slice(4).some((name) => parameters.get(name));
  form.requestSubmit();
}

async function explain(event) {
  event.preventDefault();
  const form = event.target;
  const asked = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value.trim() || null]));
  try {
    put($("explanation"), render(await post("explain", { ...asked, image: asked.image ?? "", ask: form.elements.ask.checked })));
  } catch (error) {
    put($("explanation"), el("p", { class: "notice bad" }, error.message));
  }
}

const part = (title, verdict, ...rest) => el("section", {}, el("header", {}, el("h2", {}, title), verdict), rest);
/** A sentence begins with a capital, unless it begins with a name. */
const because = (text) => el("p", { class: "sentence" }, text.replace(/^[a-z]+(?=[ ,:;]|$)/, (word) => word[0].toUpperCase() + word.slice(1)));
const code = (text) => el("code", { class: "break" }, text);

function render(told) {
  const { route, client, access, request, answer, listener } = told;
  return [
    part("Answer", badge(answer.status > 0 && answer.status < 400 ? "good" : "bad", answer.status || "no connection"), because(answer.because),
      answer.cache_status && el("p", {}, code(`Cache-Status: roadstead; ${answer.cache_status}`))),
    part("Route", route ? el("span", { class: "name" }, `${route.registry}/${route.repository}`) : badge("bad", "no registry"),
      because(route ? route.because : answer.because), el("p", {}, code(`${request.method} ${request.target}`), ` at ${request.host}, to ${listener.url}`),
      because(`API ${client.api}: ${client.because}`), el("p", { class: "muted" }, code(client.user_agent),
        client.requests_limit != null && ` · ${client.requests_in_flight} of ${count(client.requests_limit)} requests in flight`)),
    access && accessPart(access),
    told.gate && gatePart(told.gate),
    ...contents(told),
    access && upstreamPart(told),
  ];
}

const judged = (who, { decision, status, because: why }) =>
  el("li", { title: why }, `${who}: `, badge(DECISION[decision] ?? "", status === 200 ? decision : `${decision} ${status}`));

const accessPart = (access) => part("Access", badge(DECISION[access.decision] ?? "", access.decision), because(access.because),
  access.rule && el("pre", { class: "rule", tabindex: 0 }, plain(access.rule_line ? `line ${access.rule_line}: ${access.rule}` : access.rule)),
  el("ul", { class: "others muted" }, judged("Anonymous", access.anonymous), access.unknown_user && judged("An unknown user", access.unknown_user)));

function gatePart({ mode, decision, rule, because: why }) {
  // A gate that only reports lets it pass.
  const passes = mode === "report" && ["denied", "held-back"].includes(decision);
  return part("Gate", passes ? badge("warn", `would be ${decision}`) : badge(GATE[decision] ?? "", decision), because(why),
    el("p", { class: "muted" }, rule && [code(`gate.${rule}`), ", "], code(`mode: ${mode}`)));
}

function contents({ tag, manifest, v1_image: old }) {
  return [
    tag && part("Tag", badge(TAG[tag.state], tag.state), tag.digest && el("p", {}, "Points at ", shortDigest(tag.digest), ", fresh until ", ago(tag.fresh_until), "."),
      because(tag.because)),
    manifest && part("Content", badge(manifest.state === "present" ? "good" : "warn", manifest.state), el("p", {}, code(manifest.digest)),
      !manifest.linked && because("The repository is not known to have it."), manifest.images.map(imageDetails),
      manifest.images.length < manifest.images_total && el("p", { class: "muted" }, `and ${count(manifest.images_total - manifest.images.length)} more`)),
    old && part("Image for the v1 API", null, because(old.because), el("p", {}, old.id ? code(old.id) : "Its id is not known."),
      old.parts.length > 0 && table("Parts of the image", [
        { title: "Part", head: true, cell: (row) => code(row.name) },
        { title: "Size", class: "number", cell: (row) => (row.size_bytes == null ? "–" : bytes(row.size_bytes)) },
        { title: "State", cell: (row) => badge(row.state === "present" ? "good" : "", row.state) },
      ], old.parts, "")),
  ];
}

function upstreamPart(told) {
  const { upstream } = told;
  const { requests, failures, said, breaker } = upstream;
  const left = upstream.rate_limit_remaining != null && ` (${count(upstream.rate_limit_remaining)} left)`;
  const size = upstream.fetch_bytes == null ? "an unknown number of bytes" : bytes(upstream.fetch_bytes);
  return part("Upstream", badge(requests.length ? "warn" : "good", plural(requests.length, "request")),
    said && el("p", {}, badge(said.outcome === "failed" ? "bad" : "", said.outcome), ` after ${duration(said.duration_seconds)}: ${said.because}`),
    breaker && breaker.state !== "closed" && el("p", { class: "bad" }, `The circuit breaker is ${breaker.state}.`),
    requests.length > 0 && table("Requests that a pull would cause", [
      { title: "Request", head: true, cell: (row) => code(`${row.method} ${row.url}`) },
      { title: "Counts", cell: (row) => (row.counted ? badge("warn", "counted") : "free") },
      { title: "Why", cell: (row) => row.because },
    ], requests, ""),
    upstream.incomplete && el("p", { class: "muted" }, "And those for what only the registry can name."),
    failures.map((one) => el("p", { class: "bad" }, `Fails with ${one.status}: `, code(one.content), ` ${one.because}`)),
    el("p", {}, `Costs ${plural(upstream.rate_limit_cost, "pull")} of the rate limit`, left, ` and ${size}. `,
      told.asked_upstream ? "The registry was asked with one HEAD." : "Nothing was asked upstream to find this out."));
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
