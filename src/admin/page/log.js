// The access log as it is written, and what was denied or failed.

import {
  $, ago, badge, bytes, count, debounce, duration, el, explainLink, put, secondsOf, setText, showVersion, whoOf,
} from "./dom.js";
import { List } from "./list.js";

const LINES = 200;

let [errors, body, paused, held, skipped] = [null, null, false, [], 0];

export function show(_, live) {
  errors ??= begin(live);
  errors.show();
  follow(live);
}

export function hide() {
  errors.leave();
}

function begin(live) {
  const titles = ["Time", "Client", "Request", "Status", "Sent", "Took", "Cache", el("span", { class: "unseen" }, "Why")];
  const classes = ["", "wide", "", "number", "wide number", "wide number", "wide", "number"];
  body = el("tbody");
  const box = el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Access log lines" });
  put($("log-lines"), put(box, el("table", { class: "lines" },
    el("caption", { class: "unseen" }, "Access log, newest first"),
    el("thead", {}, el("tr", {}, titles.map((title, index) => el("th", { scope: "col", class: classes[index] }, title)))), body)));
  $("log-filter").addEventListener("submit", (event) => event.preventDefault());
  $("log-filter").addEventListener("input", debounce(() => follow(live)));
  $("log-pause").addEventListener("click", () => pause(!paused));
  return new List($("error-list"), { path: "errors", form: $("error-filter"), limit: 25, render: errorList });
}

/** Begins anew with the latest lines that match. */
function follow(live) {
  const query = Object.fromEntries(new FormData($("log-filter")));
  [held, skipped] = [[], 0];
  body.replaceChildren();
  note();
  const again = debounce(() => errors.refresh(), 2000);
  live.follow({ overview: showVersion, requests: add, errors: again }, query);
}

function pause(on) {
  paused = on;
  $("log-pause").setAttribute("aria-pressed", String(on));
  if (!on) add({ items: held.splice(0), skipped: 0 });
  note();
}

function add({ items, skipped: missed }) {
  skipped += missed;
  // The lines of a new filter are shown, also while it is paused.
  if (paused && body.firstElementChild) {
    held.push(...items);
    skipped += held.splice(0, Math.max(0, held.length - LINES)).length;
    return note();
  }
  // After a reconnection, or while polling, lines may come twice.
  const newest = Number(body.firstElementChild?.dataset.id ?? -1);
  body.prepend(...items.filter(({ id }) => id > newest).map(line).reverse());
  while (body.children.length > LINES) body.lastElementChild.remove();
  return note();
}

function note() {
  const parts = [paused && `paused, ${count(held.length)} waiting`, skipped > 0 && `${count(skipped)} lines left out: filter to see them`];
  setText($("log-note"), parts.filter(Boolean).join(" · "));
}

function line(row) {
  const status = row.status === 0 ? "left" : row.status;
  const level = row.status >= 500 ? "bad" : row.status >= 400 || row.status === 0 ? "warn" : "";
  const path = row.path.replace(/(sha\d+:[0-9a-f]{12})[0-9a-f]+/g, "$1…");
  const cell = (kind, ...content) => el("td", { class: kind }, ...content);
  const made = el("tr", {},
    cell("time", secondsOf(row.at)),
    cell("wide", row.user === "anonymous" ? row.client : `${row.user} at ${row.client}`),
    el("td", { class: "path", title: row.path }, el("span", { class: "method" }, row.method), ` ${path}`),
    cell(`number ${level}`, String(status)), cell("wide number", bytes(row.sent_bytes)), cell("wide number", duration(row.duration_seconds)),
    cell("wide", row.cache_status ?? "–"), cell("number", row.explain && explainLink(row.explain)));
  made.dataset.id = row.id;
  return made;
}

const kind = (row) => badge(row.kind === "denial" ? "warn" : "bad", `${row.kind} ${row.status}`);
const what = ({ action, registry, repository, reference }) => {
  const name = [registry, repository].filter(Boolean).join("/");
  return [action, reference ? `${name}${reference.includes(":") ? "@" : ":"}${reference}` : name].filter(Boolean).join(" ");
};

/** A user whose password was refused is the client's claim. */
const who = ({ user, refused_user: refused, client }) => whoOf({ user: refused == null ? user : `login as ${refused}`, client });

/** What was denied or failed, newest first. */
export function errorList(items) {
  if (items.length === 0) return el("p", { class: "empty" }, "No errors and no denials.");
  return el("ul", { class: "events" }, items.map((row) => el("li", {},
    el("p", {}, kind(row), " ", ago(row.last_at), el("span", { class: "muted" }, row.count > 1 && ` × ${count(row.count)}`, ` · ${who(row)}`), row.explain && [" ", explainLink(row.explain)]),
    el("p", { class: "name" }, what(row)),
    el("p", { class: "muted break" }, row.reason))));
}
