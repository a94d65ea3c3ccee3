// What an operator can do: each act is a dialog that says what will happen before it does.

import { $, badge, button, bytes, count, el, explainLink, plain, plural, put, setText, shortDigest, toast } from "./dom.js";
import { post, postLines, remove } from "./api.js";

/**
 * Asks in the one dialog. `run(signal)` acts; the dialog shows its error and closes after its success, unless it
 * returns false. Closing the dialog aborts the signal.
 */
function ask({ title, body, go, danger = false, run, opened = () => {} }) {
  const dialog = $("dialog");
  const abort = new AbortController();
  const { signal } = abort;
  setText($("dialog-title"), plain(title));
  setText($("dialog-error"), "");
  setText($("dialog-go"), go);
  put($("dialog-body"), body);
  $("dialog-go").className = danger ? "danger" : "main";
  $("dialog-go").disabled = $("dialog-go").hidden = false;
  setText($("dialog-cancel"), "Cancel");
  $("dialog-cancel").addEventListener("click", () => dialog.close(), { signal });
  dialog.addEventListener("close", () => abort.abort(), { signal });
  $("dialog-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if ($("dialog-go").disabled) return;
    await attempt(signal, async () => {
      $("dialog-go").disabled = true;
      if ((await run(signal)) !== false) dialog.close();
    });
    $("dialog-go").disabled = false;
  }, { signal });
  dialog.showModal();
  return attempt(signal, () => opened(signal));
}

async function attempt(signal, act) {
  setText($("dialog-error"), "");
  try {
    await act();
  } catch (error) {
    if (!signal.aborted) setText($("dialog-error"), plain(error.message));
  }
}

/** Nothing is left to confirm: what remains is to close. */
function over() {
  $("dialog-go").hidden = true;
  setText($("dialog-cancel"), "Close");
  $("dialog-cancel").focus();
}

/** Says what a purge would remove, and removes it once that is confirmed. */
export function purge(target, after) {
  const plan = el("p", { role: "status" }, "Finding out what would go…");
  return ask({
    title: "Purge from the cache",
    body: [el("p", { class: "target" }, target), plan],
    go: "Purge",
    danger: true,
    opened: async (signal) => {
      const would = await post("purge", { target, dry_run: true }, signal);
      put(plan, `Removes ${plural(would.tags, "tag")}, ${plural(would.manifests, "manifest")} and ${plural(would.blobs, "blob")}, and frees `,
        el("strong", {}, bytes(would.freed_bytes)), ". ",
        would.shared_files > 0 && `${plural(would.shared_files, "file")} stay, because other repositories share them. `,
        "The upstream is not touched: the next pull fetches it again.");
    },
    run: async () => {
      const report = await post("purge", { target, dry_run: false });
      toast(`Purged ${target}: ${bytes(report.freed_bytes)} freed.`);
      await after();
    },
  });
}

/** Pins an image with a note, or unpins it at once. */
export async function togglePin(image, pinned, after) {
  if (pinned) {
    try {
      await remove("pins", { image });
      toast(`Unpinned ${image}.`);
    } catch (error) {
      toast(error.message);
    }
    return after();
  }
  const note = el("input", { maxlength: 200, autocomplete: "off" });
  return ask({
    title: "Pin image",
    body: [el("p", { class: "target" }, image),
      el("p", {}, "A pinned image is never evicted, however long it is unused. Layers that are missing are not fetched by this."),
      el("label", {}, "Note ", note)],
    go: "Pin",
    run: async () => {
      await post("pins", { image, note: note.value });
      toast(`Pinned ${image}.`);
      await after();
    },
  });
}

/** Fetches an image beforehand and shows how far it is. */
export function warm(image, after) {
  const name = el("input", { value: image, required: true, maxlength: 1024, autocomplete: "off", spellcheck: "false" });
  const platform = el("input", { placeholder: "the gateway's own", list: "platforms", maxlength: 100, autocomplete: "off" });
  const platforms = ["all", "linux/amd64", "linux/arm64", "linux/arm/v7"].map((value) => el("option", { value }));
  const [bar, note] = progress("Fetched");
  return ask({
    title: "Warm an image",
    body: [el("p", {}, "Fetches the manifest and all layers that are not here."), el("label", {}, "Image ", name),
      el("label", {}, "Platform ", platform), el("datalist", { id: "platforms" }, platforms), bar, note],
    go: "Warm",
    run: async (signal) => {
      bar.hidden = false;
      for await (const line of postLines("warm", { image: name.value.trim(), platform: platform.value.trim() || null }, signal)) {
        advance(bar, line.bytes, line.bytes_total);
        put(note, `${count(line.blobs)} of ${plural(line.blobs_total, "blob")}, ${bytes(line.bytes)} of ${bytes(line.bytes_total)}`,
          line.waits_because && ` · ${line.waits_because}`);
        if (line.done?.error) throw new Error(line.done.error);
      }
      put(note, badge("good", "Complete"), " Everything is in the store.");
      over();
      await after();
      return false;
    },
  });
}

/** Rehashes the store. It goes on when the dialog is closed. */
export function verify() {
  const [bar, note] = progress("Verified");
  return ask({
    title: "Verify the store",
    body: [el("p", {}, "Reads and hashes everything in the store. Damaged content is quarantined and fetched again on the next pull. ",
      "This loads the disk; it goes on if you close this."), bar, note],
    go: "Verify",
    run: async (signal) => {
      bar.hidden = false;
      for await (const line of postLines("verify", {}, signal)) {
        advance(bar, line.bytes, line.bytes_total);
        put(note, `${bytes(line.bytes)} of ${bytes(line.bytes_total)}, ${count(line.damaged)} damaged`);
        if (line.done) put(note, line.done.damaged.length === 0 ? [badge("good", "Sound"), " No damage found."]
          : [badge("bad", "Damaged"), " Quarantined: ", line.done.damaged.slice(0, 20).map((digest) => [shortDigest(digest), " "])]);
      }
      over();
      return false;
    },
  });
}

function progress(label) {
  return [el("progress", { "aria-label": label, hidden: true }), el("p", { class: "muted", role: "status" })];
}

function advance(bar, value, max) {
  if (max > 0) [bar.max, bar.value] = [max, value];
}

/** The buttons that every image has. */
export function imageActions(image, { pinned, changed }) {
  return [
    button(pinned ? "Unpin" : "Pin…", () => togglePin(image, pinned, changed), { "aria-label": `${pinned ? "Unpin" : "Pin"} ${image}` }),
    button("Warm…", () => warm(image, changed), { "aria-label": `Warm ${image}` }),
    button("Purge…", () => purge(image, changed), { class: "danger", "aria-label": `Purge ${image}` }),
    explainLink({ image }, { class: "button" }),
  ];
}
