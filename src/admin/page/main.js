// Which view is shown: the part of the address behind #.

import { $, el, setText, showVersion } from "./dom.js";
import { Live } from "./api.js";
import * as overview from "./overview.js";
import * as repositories from "./browse.js";
import * as log from "./log.js";
import * as explain from "./explain.js";

const VIEWS = { overview, repositories, repository: repositories.repository, log, explain, config: explain.config };
const TITLES = { overview: "Overview", repositories: "Repositories", repository: "Repository", log: "Log", explain: "Explain", config: "Configuration" };
const STATES = { live: "Live", poll: "Every 10 s: too many dashboards are open", lost: "No answer; trying again", wait: "Connecting" };

const live = new Live((state) => {
  $("link").dataset.state = state;
  setText($("link"), STATES[state]);
});

let current = null;

function route() {
  const [path, query = ""] = location.hash.slice(2).split("?", 2);
  // A link such as the one that skips to the content is not about views.
  if (current && !location.hash.startsWith("#/")) return;
  const name = Object.hasOwn(VIEWS, path) ? path : "overview";
  VIEWS[current]?.hide?.();
  for (const view of Object.keys(VIEWS)) $(view).hidden = view !== name;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === `#/${name === "repository" ? "repositories" : name}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const parameters = new URLSearchParams(query);
  setText(document.querySelector("title"), [parameters.get("repository"), TITLES[name], "Roadstead"].filter(Boolean).join(" – "));
  if (name !== "overview" && name !== "log") live.follow({ overview: showVersion });
  if (current && current !== name) {
    $("content").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  current = name;
  VIEWS[name].show(parameters, live);
}

/** What views have in common: a title, and a search box at the begin of a form. */
function build() {
  for (const [name, title] of Object.entries(TITLES)) if (!$(name).querySelector("h1")) $(name).prepend(el("h1", {}, title));
  for (const form of document.querySelectorAll("form[data-search]")) {
    const input = el("input", { type: "search", name: "q", autocomplete: "off", spellcheck: "false", maxlength: 200 });
    form.prepend(el("label", { class: "grow" }, `${form.dataset.search} `, input));
  }
}

build();
window.addEventListener("hashchange", route);
route();
