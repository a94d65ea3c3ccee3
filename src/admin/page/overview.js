// The first view: what is saved, what is under way, how registries and store are doing.

import {
  $, ago, badge, bytes, count, duration, el, nameOf, percent, plain, plural, put, repositoryLink, setText, shortDigest,
  showVersion, table, terms, whoOf,
} from "./dom.js";
import { get } from "./api.js";
import { Plot } from "./plot.js";
import { verify } from "./actions.js";
import { errorList } from "./log.js";

const REGISTRIES_MS = 10_000;
const LISTS_MS = 30_000;
const FILLS_SHOWN = 20;
const READERS_SHOWN = 3;

let plot = null;
let timers = [];
let abort = null;

export function show(_, live) {
  plot ??= begin();
  abort = new AbortController();
  const errors = () => refresh("recent", "errors", { limit: 6 }, ({ items }) => errorList(items));
  every(REGISTRIES_MS, () => refresh("registries", "registries", { limit: 100 }, registries));
  every(LISTS_MS, traffic);
  every(LISTS_MS, () => {
    refresh("pulled", "repositories", { sort: "pulls", limit: 6 }, top("Most pulled repositories", "Pulls", (row) => count(row.pulls)));
    refresh("largest", "repositories", { sort: "size", limit: 6 }, top("Largest repositories", "Size", (row) => bytes(row.cached_bytes)));
    refresh("eviction", "eviction-queue", { limit: 5 }, eviction);
    errors();
  });
  live.follow({ overview, fills, errors });
}

export function hide() {
  timers.forEach(clearInterval);
  timers = [];
  abort.abort();
}

function begin() {
  $("verify").addEventListener("click", verify);
  document.querySelectorAll("input[name=window]").forEach((input) => input.addEventListener("change", traffic));
  return new Plot($("traffic"));
}

function every(ms, act) {
  act();
  timers.push(setInterval(() => document.hidden || act(), ms * (0.9 + 0.2 * Math.random())));
}

/** Asks, and shows the answer unless it is what is shown already, so that focus and selection stay where they are. */
async function refresh(id, path, query, render) {
  const { signal } = abort;
  try {
    const answer = await get(path, query, signal);
    const text = JSON.stringify(answer);
    const [box, minute] = [$(id), String(Math.floor(Date.now() / 60_000))];
    if (signal.aborted || (box.shown === text && box.minute === minute) || box.contains(document.activeElement)) return;
    Object.assign(box, { shown: text, minute });
    put(box, render(answer));
  } catch (error) {
    if (!signal.aborted && !$(id).shown) put($(id), el("p", { class: "empty bad" }, error.message));
  }
}

async function traffic() {
  const window = document.querySelector("input[name=window]:checked").value;
  const series = await get("traffic", { window }, abort.signal).catch(() => null);
  if (series && !abort.signal.aborted) plot.show(series);
}

function overview(now) {
  showVersion(now);
  const trouble = now.draining ? "The gateway is draining: it takes no new requests." : now.ready ? "" : `Not ready: ${now.not_ready_because}`;
  setText($("trouble"), plain(trouble));
  $("trouble").hidden = trouble === "";
  const { now: rate, hour, day } = now.traffic;
  const second = (value) => `${bytes(value / Math.max(1, rate.window_seconds))}/s`;
  put($("figures"),
    figure("Now", rate, second),
    figure("Last hour", hour, bytes),
    figure("Last day", day, bytes));
  store(now);
}

// While more is fetched than served, as at the begin of a download, nothing is saved.
const figure = (title, traffic, write) => el("article", {},
  el("h2", {}, title),
  el("p", { class: "big" }, write(Math.max(0, traffic.saved_bytes)), el("small", {}, " saved")),
  el("p", {}, el("strong", {}, percent(traffic.hit_ratio)), ` hits of ${plural(traffic.requests, "request")}`),
  el("p", { class: "muted" }, `${write(traffic.served_bytes)} served, ${write(traffic.fetched_bytes)} fetched`));

function store({ store: state, verify_failures_disk: damaged }) {
  const full = state.used_bytes / state.max_bytes;
  const meter = el("meter", { min: 0, max: state.max_bytes, value: state.used_bytes, "aria-label": "Fill level of the store" });
  put($("store"),
    el("p", { class: "level" }, el("strong", {}, percent(full)), ` of ${bytes(state.max_bytes)}`, state.scanning && " (still counting)"),
    meter,
    !state.writable && el("p", { class: "notice bad" }, "The store cannot be written: pulls pass through."),
    terms([
      ["Used", bytes(state.used_bytes)], ["Blobs", count(state.blobs)],
      state.free_bytes != null && ["Free on disk", bytes(state.free_bytes), state.free_bytes < state.min_free_bytes && [" ", badge("bad", "below min_free")]],
      ["Pinned", bytes(state.pinned_bytes)], ["Incomplete", bytes(state.partial_bytes)], ["Evicted", bytes(state.evicted_bytes)],
      ["Damaged", count(damaged)], ["Records", bytes(state.record_bytes)],
    ]));
}

/** Rows are kept by the fill's id, so that a bar grows rather than being replaced. */
function fills({ items, total }) {
  setText($("fills-count"), total === 0 ? "" : plural(total, "download"));
  const [list, known] = [$("fills"), new Map()];
  for (const row of list.children) known.set(row.dataset.id, row);
  const rows = items.slice(0, FILLS_SHOWN).map((fill) => {
    const row = known.get(fill.id) ?? fillRow(fill);
    advance(row, fill);
    return row;
  });
  if (rows.length === 0) rows.push(el("li", { class: "empty" }, "No downloads: everything asked for is in the store."));
  else if (total > rows.length) rows.push(el("li", { class: "muted" }, `and ${count(total - rows.length)} more`));
  if (rows.length !== list.children.length || rows.some((row, index) => row !== list.children[index])) list.replaceChildren(...rows);
}

function fillRow(fill) {
  const name = fill.repository ? repositoryLink(fill) : fill.registry;
  const row = el("li", {},
    el("p", { class: "name" }, name, " ", fill.digest && shortDigest(fill.digest)),
    el("progress", { max: 1, "aria-label": `Download for ${fill.repository ? nameOf(fill) : fill.registry}` }),
    el("p", { class: "state" }), el("p", { class: "muted who" }));
  row.dataset.id = fill.id;
  return row;
}

function advance(row, fill) {
  const [bar, state, who] = [row.querySelector("progress"), row.querySelector(".state"), row.querySelector(".who")];
  if (fill.size_bytes) bar.value = fill.fetched_bytes / fill.size_bytes;
  else bar.removeAttribute("value");
  const amount = bytes(fill.fetched_bytes) + (fill.size_bytes == null ? ", size unknown" : ` of ${bytes(fill.size_bytes)}`);
  const speed = `${bytes(fill.bytes_per_second)}/s${fill.remaining_seconds == null ? "" : `, ${duration(fill.remaining_seconds)} left`}`;
  const phase = { waiting: "waiting for the upstream", streaming: speed, verifying: "verifying" }[fill.phase];
  const resumed = fill.resumed_from_bytes > 0 && `resumed at ${bytes(fill.resumed_from_bytes)}`;
  setText(state, plain([amount, phase, resumed].filter(Boolean).join(" · ")));
  setText(who, plain(waiting(fill)));
}

/** Who waits for a download: a few by name and address, the others by number. */
function waiting({ readers_total: total, readers }) {
  if (total === 0) return "No request waits; the download goes on";
  const named = readers.slice(0, READERS_SHOWN).map(whoOf);
  if (readers.length > named.length) named.push(`${count(readers.length - named.length)} more`);
  return [`${plural(total, "request")} waiting`, named.join(", ")].filter(Boolean).join(": ");
}

const HEALTH = { healthy: ["good", "Healthy"], failing: ["bad", "Failing"], limited: ["warn", "Limited"], idle: ["", "Not asked yet"] };

const registries = ({ items }) => table("Registries and their health", [
  { title: "Registry", head: true, cell: (row) => [el("span", { class: "name" }, row.name), row.default && el("small", { class: "muted" }, " default")] },
  { title: "Health", cell: health },
  { title: "Latency, p95", class: "wide tight", cell: ({ latency: time }) =>
    (time ? `${duration(time.p50_seconds)}, ${duration(time.p95_seconds)}` : "–") },
  { title: "Pulls left", cell: pulls },
  { title: "Failures", class: "wide number", cell: (row) => `${count(row.failures)} of ${count(row.requests)}` },
  { title: "Fills", class: "wide number", cell: (row) => `${row.fills_in_flight} of ${row.fills_limit}` },
], items, "No registries are configured.");

function health({ health: state, breaker, last_failure: failure }) {
  const [kind, label] = HEALTH[state] ?? ["", state];
  const waits = breaker.state === "open" ? ["retry ", ago(breaker.retry_at)] : breaker.state === "half-open" ? ["probing"] : [];
  const because = failure && `${waits.length ? " · " : ""}${failure.message}`;
  return [badge(kind, label), state === "failing" && el("div", { class: "muted" }, waits, because)];
}

function pulls({ rate_limit: limit, accounts }) {
  if (accounts.length < 2) return pullsLeft(limit);
  return [pullsLeft(limit), accounts.map((account) =>
    el("div", { class: "muted" }, `${account.name}: `, account.refused ? badge("bad", "refused") : pullsLeft(account.rate_limit)))];
}

function pullsLeft(limit) {
  if (limit?.remaining == null) return "–";
  const after = limit.retry_at ? [" · again ", ago(limit.retry_at)] : [];
  if (limit.limit == null) return [count(limit.remaining), after];
  const low = limit.remaining * 10 < limit.limit;
  return [el("meter", { min: 0, max: limit.limit, value: limit.remaining, low: limit.limit / 10, optimum: limit.limit, "aria-label": "Pulls left" }),
    el("span", { class: low ? "bad" : "" }, ` ${count(limit.remaining)} of ${count(limit.limit)}`), after];
}

const top = (caption, title, cell) => ({ items }) => table(caption, [
  { title: "Repository", head: true, cell: (row) => repositoryLink(row) },
  { title, class: "number", cell },
], items, "Nothing was pulled yet.");

const eviction = ({ items }) => table("What is evicted next", [
  { title: "Content", head: true, cell: (row) => [shortDigest(row.digest), row.kind === "manifest" && [" ", badge("", "manifest")]] },
  { title: "Size", class: "number", cell: (row) => bytes(row.size_bytes) },
  { title: "Last used", class: "number", cell: (row) => ago(row.last_used_at) },
], items, "The store is empty.");
