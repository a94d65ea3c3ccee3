// Drives the dashboard in headless Chromium, as an operator would, with mouse, keyboard and screen reader in mind.
//
//     node page.mjs BASE_URL [FACTS.json]
//
// FACTS says what the gateway at BASE_URL holds, among it the command that starts a pull which takes a few seconds. Without
// it BASE_URL is mock.py, and only those checks run that need what no gateway has. SCREENSHOTS names a folder for pictures;
// CHROMIUM the browser, ONLY a pattern of the names of the checks to run, also over the mock.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setMaxListeners } from "node:events";
import { chromium } from "playwright-core";

const [base, factsFile] = process.argv.slice(2);
const here = new URL(".", import.meta.url).pathname;
const facts = factsFile ? JSON.parse(readFileSync(factsFile, "utf8")) : {
  mock: true,
  // A pull of this image begins with this command.
  pulled: "docker.io/library/node:22",
  pull: [process.env.PYTHON ?? "python3", `${here}mock.py`, "--pull", base],
  // A search that finds one repository, that and a tag of it.
  search: "LIBRARY alp", found: { registry: "docker.io", repository: "library/alpine", tag: "3.20" },
  // A repository that is purged.
  purged: "docker.io/library/golang",
  // At least so many repositories, some of them with names like script.
  repositories: 1_000, hostile: "window.broken",
  // An image of which not all layers are listed.
  cut: { registry: "docker.io", repository: "library/node", reference: "3.20" },
  // A filter of the access log that matches some lines, and one that matches none.
  filter: "jürgen", noLine: "no-such-line",
  // Whether pulls are explained; a user who may not pull what was found.
  explain: true, denied: "bäcker",
  // An image that a gate denies, and one of which the previous target is served.
  gateDenies: "quay.io/banned/tool:1", gateHoldsBack: "quay.io/team/moving:latest",
  // How many can listen to events.
  listeners: 16,
};
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const pictures = process.env.SCREENSHOTS;
const LOOKS = [390, 1440].flatMap((width) => ["light", "dark"].map((colorScheme) => ({ width, colorScheme })));

// How many checks run at once: most of their time they wait.
const WORKERS = 3;

const checks = [];
/** `mock`: also over the mock; `alone`: after the others, with the gateway to itself. */
function check(name, act, { mock = false, alone = false } = {}) {
  const { ONLY: only } = process.env;
  if (only ? new RegExp(only).test(name) : mock || !facts.mock) checks.push({ name, act, alone });
}

const failures = [];
async function run({ name, act }) {
  const started = performance.now();
  try {
    await act();
    console.log(`ok   ${name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failures.push(name);
    console.log(`FAIL ${name}\n     ${String(error.stack ?? error).split("\n").slice(0, 6).join("\n     ")}`);
  }
}
function must(condition, words) {
  if (!condition) throw new Error(words);
}

setMaxListeners(0);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** A page that remembers everything it complained of, and speaks to the gateway alone. */
async function open({ width = 1440, colorScheme = "light" } = {}, hash = "#/overview") {
  const context = await browser.newContext({ viewport: { width, height: width === 390 ? 844 : 900 }, colorScheme, reducedMotion: "reduce", locale: "de-DE", timezoneId: "Europe/Berlin" });
  // A machine that runs other tests beside this one is slow.
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  page.complaints = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && page.complaints.push(message.text()));
  page.on("pageerror", (error) => page.complaints.push(`uncaught ${error}`));
  page.on("request", (request) => request.url().startsWith(base) || request.url().startsWith("data:") || page.complaints.push(`asked ${request.url()}`));
  await page.addInitScript(() => document.addEventListener("securitypolicyviolation", (event) => console.error(`CSP ${event.violatedDirective} ${event.blockedURI}`)));
  await page.goto(`${base}/${hash}`);
  return page;
}

/** No name ran as script, and every value was written as text. */
async function wording(page) {
  const [broken, text] = await page.evaluate(() => [window.broken, document.querySelector("main > div:not([hidden])").innerText]);
  must(broken === undefined, "a name ran as script");
  must(!/\[object |undefined|NaN|null\b/.test(text), `a value was not written: ${text.match(/.*(\[object |undefined|NaN|null\b).*/)?.[0]}`);
}

/** Closes a page that must have had nothing to complain of. */
async function close(page, expected = /^$/) {
  const complaints = page.complaints.filter((text) => !expected.test(text));
  await wording(page);
  await page.context().close();
  must(complaints.length === 0, `the page complained: ${complaints.join(" | ")}`);
}

async function audit(page, where) {
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run({ resultTypes: ["violations"] }));
  const told = violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => `${node.target} ${node.any.concat(node.all).map((one) => one.message).join("; ")}`).join(" ")}`);
  must(told.length === 0, `${where}: ${told.join("\n     ")}`);
}

/** Nothing is wider than the window, apart from what scrolls by itself. */
async function fits(page, where) {
  const [wide, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  must(wide <= width, `${where}: ${wide} pixels in a window of ${width}`);
}

async function picture(page, name) {
  if (pictures) await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
}

/** Shows the layers of the first platform; those of an only one are open. */
async function openLayers(page) {
  const summary = page.locator("#manifest details summary").first();
  await summary.waitFor();
  if ((await page.locator("#manifest details[open]").count()) === 0) await summary.click();
}

const { registry, repository, tag } = facts.found;
const found = `${registry}/${repository}`;
const foundHash = `#/repository?${new URLSearchParams({ registry, repository, reference: tag })}`;
const explanationOf = (image) => `#/explain?${new URLSearchParams({ image })}`;
const explainHash = explanationOf(`${found}:${tag}`);
const VIEWS = {
  overview: ["#/overview", "#largest tbody tr"], repositories: ["#/repositories", "#repository-list tbody tr"],
  repository: [foundHash, "#manifest-body summary"], log: ["#/log", ".lines tbody tr >> nth=3"],
  ...(facts.explain && { explain: [explainHash, "#explanation section >> nth=3"] }),
  ...(facts.gateHoldsBack && { gate: [explanationOf(facts.gateHoldsBack), "#explanation .badge >> text=held-back"] }), config: ["#/config", "#config-text:not(:empty)"],
};
if (pictures) mkdirSync(pictures, { recursive: true });

check("overview shows figures, registries, the store and what is next to go", async () => {
  const page = await open();
  await page.locator("#link[data-state=live]").waitFor();
  must(await page.locator(".figures article").count() === 3, "three windows");
  must(/\d.* (GiB|MiB|KiB|B)/.test(await page.locator(".figures .big").nth(1).innerText()), "saved bytes of the last hour");
  for (const part of ["#registries tbody tr", "#store meter", "#eviction tbody tr", "#pulled tbody tr", "#largest tbody tr", "#recent li", "#traffic rect.saved"]) await page.locator(part).first().waitFor({ state: "attached" });
  await close(page);
}, { mock: true });

check("a pull made during the test appears, progresses and goes", async () => {
  const page = await open();
  await page.locator("#link[data-state=live]").waitFor();
  const row = page.locator("#fills li", { hasText: facts.pulled.replace(/:[^:/]*$/, "") });
  must((await row.count()) === 0, "nothing pulls it yet");
  spawn(facts.pull[0], facts.pull.slice(1), { stdio: "ignore" });
  await row.first().waitFor();
  const bar = row.first().locator("progress");
  const value = () => bar.evaluate((element) => element.value);
  const begun = await value();
  const handle = await bar.elementHandle();
  await page.waitForFunction(([element, least]) => element.value > least, [handle, begun]);
  must(await handle.evaluate((element) => element.isConnected), "the bar was replaced rather than moved");
  must(/of .*iB/.test(await row.first().locator(".state").innerText()), "how much of how much");
  const who = await row.first().locator(".who").innerText();
  must(/request(s)? waiting: (127\.0\.0\.1|.* at 10\.0)/.test(who), `who waits: ${who}`);
  await row.first().waitFor({ state: "detached" });
  await close(page);
});

check("the plot is read by keyboard, and shows a day too", async () => {
  const page = await open();
  const plot = page.getByRole("slider", { name: "Traffic over time" });
  await page.locator("#traffic rect.cursor").waitFor({ state: "attached" });
  await plot.focus();
  await page.keyboard.press("Home");
  const first = await plot.getAttribute("aria-valuetext");
  await page.keyboard.press("ArrowRight");
  const second = await plot.getAttribute("aria-valuetext");
  must(first !== second && /from the cache/.test(second), `${first} then ${second}`);
  const bars = await page.locator("#traffic rect.fetched").count();
  await page.getByRole("radio", { name: "Day" }).check();
  await page.waitForFunction((before) => document.querySelectorAll("#traffic rect.fetched").length !== before, bars);
  await close(page);
});

check("search finds, pages turn, and one page is in the document", async () => {
  const page = await open({}, "#/repositories");
  const rows = page.locator("#repository-list tbody tr");
  const note = page.locator("#repository-list [role=status]");
  await rows.first().waitFor();
  const shown = Number((await note.innerText()).split("of ").pop().replaceAll(",", ""));
  must(shown >= facts.repositories, `${shown} repositories`);
  must((await rows.count()) <= 50, "one page");
  if (shown > 50) {
    const name = () => rows.first().locator("th").innerText();
    const first = await name();
    await page.locator("#repository-list").getByRole("button", { name: "Next" }).click();
    await note.filter({ hasText: /^51 to/ }).waitFor();
    must((await name()) !== first, "the next page is another one");
    await page.locator("#repository-list").getByRole("button", { name: "Previous" }).click();
    await note.filter({ hasText: /^1 to/ }).waitFor();
    must((await name()) === first, "and the way back");
  }
  await page.getByRole("searchbox", { name: "Search", exact: true }).fill(facts.search);
  await page.waitForFunction(() => document.querySelectorAll("#repository-list tbody tr").length === 1);
  must((await rows.first().innerText()).includes(found), "what was searched");
  await page.getByRole("searchbox", { name: "Search", exact: true }).fill("no such name äöü ß <b>");
  await page.locator("#repository-list .empty").waitFor();
  await close(page);
});

check("a tag leads to platforms, layers and the pull command of each client", async () => {
  const page = await open({}, "#/repositories");
  await page.getByRole("searchbox", { name: "Search", exact: true }).fill(facts.search);
  await page.waitForFunction(() => document.querySelectorAll("#repository-list tbody tr").length === 1);
  await page.locator("#repository-list").getByRole("link", { name: found }).click();
  await page.locator("#tag-list").getByRole("link", { name: tag, exact: true }).click();
  await page.locator("#manifest-title", { hasText: tag }).waitFor();
  await openLayers(page);
  await page.locator("#manifest details[open] tbody tr").first().waitFor();
  const commands = await page.locator(".commands").innerText();
  for (const client of ["docker", "podman", "skopeo", "containerd"]) must(commands.includes(client), `no command for ${client}`);
  await close(page);
});

if (facts.cut) {
  check("a list of layers that is cut says so", async () => {
    const page = await open({}, `#/repository?${new URLSearchParams(facts.cut)}`);
    await openLayers(page);
    await page.getByText("Not all of its layers are listed.").first().waitFor();
    must(/ of at least /.test(await page.locator("#manifest-body").innerText()), "its size is not known");
    await close(page);
  }, { mock: true });
}

check("pin pins and unpins", async () => {
  const page = await open({}, foundHash);
  const image = `${found}:${tag}`;
  const toggle = (word) => page.getByRole("button", { name: `${word} ${image}` });
  await toggle("Pin").or(toggle("Unpin")).waitFor();
  if (await toggle("Unpin").count()) {
    await toggle("Unpin").click();
    await toggle("Pin").waitFor();
  }
  await toggle("Pin").click();
  await page.getByRole("dialog").getByLabel("Note").fill("Prüfung");
  await page.getByRole("dialog").getByRole("button", { name: "Pin" }).click();
  await toggle("Unpin").waitFor();
  await page.getByRole("link", { name: "Repositories" }).first().click();
  await page.locator("#pins tbody tr", { hasText: image }).filter({ hasText: "Prüfung" }).waitFor();
  await close(page);
});

check("purge asks first, does nothing when cancelled, and purges", async () => {
  const page = await open({}, "#/repositories");
  await page.getByRole("searchbox", { name: "Search", exact: true }).fill(facts.purged);
  const row = page.locator("#repository-list tbody tr", { hasText: facts.purged });
  const press = page.getByRole("button", { name: `Purge ${facts.purged}`, exact: true });
  await page.waitForFunction(() => document.querySelectorAll("#repository-list tbody tr").length === 1);
  const sent = [];
  page.on("request", (request) => request.url().endsWith("/purge") && sent.push(request));
  await press.click();
  const dialog = page.getByRole("dialog", { name: "Purge from the cache" });
  await dialog.getByText(/frees/).waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  must(sent.length === 1 && sent[0].postDataJSON().dry_run === true, "only a dry run");
  must((await row.count()) === 1, "it is still there");
  must(await press.evaluate((element) => element === document.activeElement), "the focus came back");
  await press.click();
  await dialog.getByText(/frees/).waitFor();
  await dialog.getByRole("button", { name: "Purge" }).click();
  await page.locator("#toast", { hasText: "Purged" }).waitFor();
  await row.waitFor({ state: "detached" });
  must(sent.every((request) => request.headers()["x-roadstead-request"] === "1"), "the header against other sites");
  await page.reload();
  await page.getByRole("searchbox", { name: "Search", exact: true }).fill(facts.purged);
  await page.locator("#repository-list .empty").waitFor();
  await close(page);
});

check("warm and verify show how far they are, and their end", async () => {
  const page = await open({}, foundHash);
  await page.getByRole("button", { name: `Warm ${found}:${tag}` }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Warm" }).click();
  await page.getByRole("dialog").getByText("Everything is in the store").waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await page.getByRole("link", { name: "Overview" }).click();
  await page.getByRole("button", { name: "Verify…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Verify" }).click();
  await page.getByRole("dialog").getByText(/No damage found|Quarantined/).waitFor();
  await close(page);
});

if (facts.explain) {
  check("explain says who may, what is here and what it costs", async () => {
    const page = await open({}, explainHash);
    for (const title of ["Route", "Access", "Upstream", "Answer"]) await page.getByRole("heading", { name: title }).waitFor();
    must(/allowed/.test(await page.locator("#explanation").innerText()), "allowed");
    if (facts.denied) {
      await page.getByLabel("User").fill(facts.denied);
      await page.getByRole("button", { name: "Explain" }).click();
      await page.locator("#explanation .badge", { hasText: /denied|challenged/ }).first().waitFor();
    }
    await close(page);
  }, { mock: true });
}

if (facts.gateDenies) {
  check("a denial of a gate is shown with its rule, and explained", async () => {
    const page = await open({}, "#/log");
    await page.getByLabel("Kind").selectOption("denial");
    const row = page.locator("#error-list li", { hasText: "denied by the gate rule deny" }).first();
    await row.waitFor();
    must((await row.innerText()).includes("pull quay.io/banned/tool"), "what was denied");
    must((await row.locator(".badge").innerText()) === "denial 403", "its status");
    const gate = page.locator("#explanation section", { has: page.getByRole("heading", { name: "Gate" }) });
    if (facts.mock) await page.goto(`${base}/${explanationOf(facts.gateDenies)}`);
    else await row.getByRole("link").dispatchEvent("click");
    await gate.locator(".badge", { hasText: "denied" }).waitFor();
    must(/matches "banned\/\*\*"/.test(await gate.innerText()) && /gate\.deny/.test(await gate.innerText()), "the rule");
    await page.locator("#explain-form [name=image]").fill(facts.gateHoldsBack);
    await page.getByRole("button", { name: "Explain" }).click();
    await gate.locator(".badge", { hasText: "held-back" }).waitFor();
    must(/gate\.min_age/.test(await gate.innerText()), "the rule that holds it back");
    must((await gate.locator(".sentence").innerText()).startsWith("quay.io/"), "a name is written as it is");
    await close(page);
  }, { mock: true });
}

check("the log is live, is filtered and pauses", async () => {
  const page = await open({}, "#/log");
  const lines = page.locator(".lines tbody tr");
  await lines.first().waitFor();
  const newest = () => page.locator(".lines tbody tr").first().getAttribute("data-id");
  const before = Number(await newest());
  await page.waitForFunction((last) => Number(document.querySelector(".lines tbody tr")?.dataset.id) > last, before);
  await page.getByRole("searchbox", { name: "Filter" }).fill(facts.filter);
  await page.waitForFunction((word) => {
    const rows = [...document.querySelectorAll(".lines tbody tr")];
    return rows.length > 0 && rows.every((row) => row.textContent.includes(word));
  }, facts.filter);
  await page.getByRole("button", { name: "Pause" }).click();
  const paused = await newest();
  await page.locator("#log-note", { hasText: /paused, [1-9]/ }).waitFor();
  must((await newest()) === paused, "nothing moves while it is paused");
  await page.getByRole("button", { name: "Pause" }).click();
  await page.waitForFunction((last) => document.querySelector(".lines tbody tr").dataset.id !== last, paused);
  await page.getByRole("searchbox", { name: "Filter" }).fill(facts.noLine);
  await page.waitForFunction(() => document.querySelectorAll(".lines tbody tr").length === 0);
  await page.locator("#error-list .badge", { hasText: "error" }).first().waitFor();
  await page.getByLabel("Kind").selectOption("denial");
  await page.waitForFunction(() => {
    const badges = [...document.querySelectorAll("#error-list .badge")];
    return badges.length > 0 && badges.every((badge) => badge.textContent.startsWith("denial"));
  });
  await close(page);
});

check("the configuration in force is shown, secrets masked", async () => {
  const page = await open({}, "#/config");
  await page.locator("#config-text", { hasText: "registries:" }).waitFor();
  must(!/password: (?!"?\*{8})/.test(await page.locator("#config-text").innerText()), "a password is shown");
  await close(page);
});

check("everything is reached by keyboard, and focus is seen", async () => {
  const page = await open({}, "#/overview");
  await page.locator("#registries tbody tr").first().waitFor();
  await page.keyboard.press("Tab");
  must(await page.evaluate(() => document.activeElement.className === "skip" && document.activeElement.getBoundingClientRect().top >= 0), "the skip link comes first and is visible");
  await page.keyboard.press("Enter");
  must(await page.evaluate(() => document.activeElement.id === "content" && !document.getElementById("overview").hidden), "it leads to the content");
  await page.getByRole("link", { name: "Repositories" }).click();
  await page.reload();
  await page.locator("#repository-list tbody tr").first().waitFor();
  const reached = new Set();
  for (let step = 0; step < 40; step += 1) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const { activeElement: element } = document;
      const style = getComputedStyle(element);
      return { name: element.getAttribute("aria-label") ?? element.name ?? element.textContent.trim(), label: element.textContent.trim(), seen: style.outlineStyle !== "none" };
    });
    must(at.seen, `no outline on ${at.name || at.label}`);
    reached.add(at.name).add(at.label);
  }
  for (const name of ["Overview", "Log", "q", "registry", "sort", "Warm…", "Purge…"]) must(reached.has(name), `${name} is not reached: ${[...reached]}`);
  await page.getByRole("button", { name: "Warm…" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  for (let step = 0; step < 8; step += 1) {
    await page.keyboard.press("Tab");
    must(await page.evaluate(() => document.activeElement === document.body || document.activeElement.closest("dialog") !== null), "the focus left the dialog");
  }
  await page.keyboard.press("Escape");
  must(await page.evaluate(() => document.activeElement.id === "warm"), "the focus came back");
  await close(page);
});

if (facts.hostile) {
  check("hostile names are text", async () => {
    const page = await open({}, "#/repositories");
    await page.getByRole("searchbox", { name: "Search", exact: true }).fill(facts.hostile);
    await page.waitForFunction((word) => [...document.querySelectorAll("#repository-list tbody th")].filter((cell) => cell.textContent.includes(word)).length >= 3, facts.hostile);
    const links = page.locator("#repository-list tbody th a");
    for (const name of await links.allTextContents()) {
      await page.getByRole("link", { name, exact: true }).click();
      await page.locator("#manifest:not([hidden])").waitFor();
      must((await page.locator("#repository-name").innerText()) === name, `${name} is not shown as it is`);
      await page.goBack();
      await page.waitForFunction((word) => document.querySelector("#repository-list tbody th")?.textContent.includes(word), facts.hostile);
    }
    const made = await page.evaluate(() => document.querySelectorAll("main script, main img, main iframe").length);
    must(made === 0, "markup in a name became elements");
    await page.getByRole("searchbox", { name: "Search", exact: true }).fill("exe");
    // Characters that turn the direction of writing are spelled out.
    await page.locator("#repository-list tbody th", { hasText: "⟨U+202E⟩" }).waitFor();
    await close(page);
  }, { mock: true });
}

if (facts.hostileText) {
  check("what clients and registries write is text", async () => {
    const page = await open({}, `#/repository?${new URLSearchParams(facts.hostileImage)}`);
    await page.locator("#manifest-body", { hasText: "⟨U+202E⟩" }).waitFor({ state: "attached" });
    for (const summary of await page.locator("#manifest-body summary").all()) await summary.click();
    must((await page.locator("#manifest-body").innerText()).split(facts.hostileText).length > 3, "annotations, artifact type, platform");
    await page.getByRole("link", { name: "Log", exact: true }).click();
    await page.getByRole("searchbox", { name: "Filter" }).fill("window.broken");
    await page.locator(".lines td.path", { hasText: "window.broken" }).first().waitFor();
    const made = await page.evaluate(() => document.querySelectorAll("main script, main img, main iframe").length);
    must(made === 0, "text became elements");
    await close(page);
  });

  check("a failed login names the user that the client claims", async () => {
    const page = await open({}, "#/log");
    const rows = page.locator("#error-list li");
    const login = `login as ${facts.hostileText} at 127.0.0.1`;
    await rows.filter({ hasText: login }).first().waitFor();
    await page.locator("#error-filter").getByRole("searchbox").fill(facts.hostileText);
    await page.waitForFunction((text) => {
      const texts = [...document.querySelectorAll("#error-list li")].map((row) => row.textContent);
      return texts.length > 0 && texts.every((row) => row.includes(text));
    }, login);
    await close(page);
  });

  check("a line of the log and a denial lead to their explanation", async () => {
    const page = await open({}, "#/log");
    for (const link of [page.locator(".lines tbody a").first(), page.locator("#error-list li", { hasText: "denial 403" }).getByRole("link").first()]) {
      const image = (await link.getAttribute("aria-label")).replace("Explain the pull of ", "");
      // The log moves on below the pointer.
      await link.dispatchEvent("click");
      await page.getByRole("heading", { name: "Answer" }).waitFor();
      must((await page.locator("#explain-form [name=image]").inputValue()) === image, `${image} is asked about`);
      await page.goBack();
      await page.locator(".lines tbody a").first().waitFor();
    }
    await close(page);
  });
}

check("with too many dashboards the page polls and says so", async () => {
  const abort = new AbortController();
  try {
    // Pages of earlier tests may not have left yet, so it is tried again until all places are ours. A response that
    // nobody holds would be closed.
    const held = [];
    const listen = () => fetch(`${base}/api/v1/events`, { signal: abort.signal });
    for (const end = performance.now() + 120_000; held.length < facts.listeners && performance.now() < end; ) {
      const response = await listen();
      if (response.ok) held.push(response);
      else await response.text();
    }
    must(held.length === facts.listeners, `only ${held.length} can listen`);
    const { status, headers } = await listen();
    must(status === 503 && headers.get("content-type") === "application/problem+json" && headers.has("retry-after"), `one more got ${status}`);
    const page = await open();
    await page.locator("#link[data-state=poll]").waitFor();
    must((await page.locator(".figures article").count()) === 3, "figures come all the same");
    await close(page, /503/);
  } finally {
    abort.abort();
  }
}, { alone: true });

check("a gateway that goes away is reported", async () => {
  const page = await open();
  await page.locator("#link[data-state=live]").waitFor();
  await page.context().setOffline(true);
  await page.reload().catch(() => {});
  await page.context().setOffline(false);
  await page.goto(`${base}/#/repositories`);
  await page.locator("#repository-list tbody tr").first().waitFor();
  await page.context().setOffline(true);
  await page.getByRole("searchbox", { name: "Search", exact: true }).fill(facts.search);
  await page.locator("#repository-list .bad", { hasText: "does not answer" }).waitFor();
  await page.context().setOffline(false);
  await page.getByRole("button", { name: "Try again" }).click();
  await page.locator("#repository-list tbody tr").first().waitFor();
  await close(page, /ERR_INTERNET_DISCONNECTED|Failed to load|503/);
}, { alone: true });

/** Shows another view in the same page, as a link does. */
async function turn(page, hash, ready) {
  await page.evaluate((next) => (location.hash = next), hash);
  await page.locator(ready).first().waitFor();
  await page.waitForFunction(() => !document.querySelector("main > div:not([hidden]) [aria-busy]"));
}

for (const look of LOOKS) {
  check(`axe finds nothing and everything fits at ${look.width} pixels, ${look.colorScheme}`, async () => {
    const page = await open(look);
    await page.locator("#link[data-state=live]").waitFor();
    for (const [view, [hash, ready]] of Object.entries(VIEWS)) {
      await turn(page, hash, ready);
      if (view === "overview") await page.locator("#fills li").first().waitFor();
      if (view === "repository") await openLayers(page);
      await picture(page, `${view}-${look.width}-${look.colorScheme}`);
      await audit(page, view);
      await fits(page, view);
      await wording(page);
    }
    await turn(page, foundHash, VIEWS.repository[1]);
    await page.getByRole("button", { name: `Purge ${found}:${tag}` }).click();
    await page.getByRole("dialog").getByText(/frees/).waitFor();
    await picture(page, `dialog-${look.width}-${look.colorScheme}`);
    await audit(page, "dialog");
    await close(page);
  }, { mock: true });
}

const queue = checks.filter(({ alone }) => !alone);
await Promise.all(Array.from({ length: WORKERS }, async () => {
  while (queue.length > 0) await run(queue.shift());
}));
// A check that failed has left its page.
for (const context of browser.contexts()) await context.close();
for (const one of checks.filter(({ alone }) => alone)) await run(one);
await browser.close();
console.log(`${checks.length - failures.length} passed, ${failures.length} failed`);
process.exit(failures.length === 0 && checks.length > 0 ? 0 : 1);
