// Elements, and how values are written. Nothing here parses HTML: every text becomes a text node.

/** Control and direction characters could hide or reorder what a name says, so they are spelled out. */
export const plain = (value) =>
  String(value).replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

/** el("td", { class: "wide", onclick }, "text", child, null) */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, plain(value));
  }
  return put(element, ...children);
}

/** Replaces the children of an element. */
export function put(element, ...children) {
  const nodes = children.flat(Infinity).filter((child) => child != null && child !== false);
  element.replaceChildren(...nodes.map((child) => (child instanceof Node ? child : plain(child))));
  return element;
}

export const $ = (id) => document.getElementById(id);
export const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

export const showVersion = ({ version }) => setText($("version"), plain(version));

/** A table with a caption for screen readers. Columns: { title, cell(row), class, head }. */
export function table(caption, columns, rows, empty) {
  if (rows.length === 0) return el("p", { class: "empty" }, empty);
  const titles = columns.map((column) => el("th", { scope: "col", class: column.class }, column.title));
  const cells = (row) => columns.map((column) =>
    el(column.head ? "th" : "td", { class: column.class, scope: column.head ? "row" : null }, column.cell(row)));
  return el("div", { class: "scroll" }, el("table", {},
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, titles)),
    el("tbody", {}, rows.map((row) => el("tr", {}, cells(row))))));
}

/** Terms and their values, in a grid. */
export const terms = (pairs) =>
  el("dl", {}, pairs.filter(Boolean).map(([term, ...value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));

export const button = (label, onclick, properties = {}) => el("button", { type: "button", onclick, ...properties }, label);
export const badge = (kind, label) => el("span", { class: `badge ${kind}` }, label);

/** A button that copies a text. */
export function copyButton(text, label) {
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      toast("Copied.");
    } catch {
      toast("The browser does not allow copying; select the text instead.");
    }
  }, { "aria-label": label, class: "small" });
  return copy;
}

let toastTimer = 0;
export function toast(text) {
  clearTimeout(toastTimer);
  setText($("toast"), plain(text));
  toastTimer = setTimeout(() => setText($("toast"), ""), 6000);
}

/** Calls after the last of many calls. */
export function debounce(call, ms = 250) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, ms);
  };
}

const numbers = new Intl.NumberFormat("en");
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export const count = (value) => (value == null ? "–" : numbers.format(value));
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
export const percent = (ratio) => (ratio == null ? "–" : `${(ratio * 100).toFixed(ratio >= 0.9995 || ratio < 0.0005 ? 0 : 1)} %`);

export function bytes(value) {
  if (value == null) return "–";
  let [size, unit] = [Math.abs(value), 0];
  while (size >= 1000 && unit < UNITS.length - 1) [size, unit] = [size / 1024, unit + 1];
  const digits = unit === 0 || size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return `${value < 0 ? "−" : ""}${size.toFixed(digits)} ${UNITS[unit]}`;
}

export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const [minutes, hours] = [Math.round(seconds / 60), Math.round(seconds / 3600)];
  return minutes < 60 ? `${minutes} min` : hours < 48 ? `${hours} h` : `${Math.round(seconds / 86400)} days`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const seconds = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
export const clockOf = (at) => clock.format(new Date(at));
export const secondsOf = (at) => seconds.format(new Date(at));

/** How long ago, with the time itself as a tooltip. */
export function ago(at) {
  if (at == null) return "never";
  const age = (Date.now() - new Date(at)) / 1000;
  const words = age < -1 ? `in ${duration(-age)}` : age < 2 ? "just now" : `${duration(age)} ago`;
  return el("time", { datetime: at, title: full.format(new Date(at)) }, words);
}

export const shortDigest = (digest) => el("code", { title: digest }, digest.replace(/^(sha\d+:.{12}).*/, "$1"));

/** The name of a repository as people say it: the registry first, and where a line may break. */
export const nameOf = ({ registry, repository }) => `${registry}/${repository}`;
export const repositoryHref = (row, tag) =>
  `#/repository?${new URLSearchParams({ registry: row.registry, repository: row.repository, ...(tag ? { reference: tag } : {}) })}`;
export const repositoryLink = (row, tag) =>
  el("a", { href: repositoryHref(row, tag), class: "name", title: nameOf(row) }, nameOf(row) + (tag ? `:${tag}` : ""));

/** A client: the user, if there is one, and the address, unless it is on a Unix socket. */
export const whoOf = ({ user, client }) => [user, client].filter(Boolean).join(" at ") || "this machine";

/** Leads to the answer to a question of `/api/v1/explain`, given as its body. */
export const explainLink = (question, properties = {}) => {
  const given = Object.entries(question).filter(([name, value]) => name !== "ask" && value != null);
  return el("a", { href: `#/explain?${new URLSearchParams(given)}`, "aria-label": `Explain the pull of ${question.image}`, ...properties }, "Explain");
};
