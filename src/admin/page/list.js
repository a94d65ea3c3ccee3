// A list that the gateway searches, sorts and cuts into pages: one page is in the document, however long the list is.

import { button, count, debounce, el, put, setText } from "./dom.js";
import { get } from "./api.js";

export class List {
  #before = [];
  #after = null;
  #next = null;
  #abort = new AbortController();

  /** `render` turns items into an element; `form` has controls named like the API's parameters. */
  constructor(container, { path, render, form, limit = 50, onPage = () => {} }) {
    Object.assign(this, { path, render, form, limit, onPage, fixed: {} });
    this.rows = el("div", { "aria-busy": "true" });
    this.note = el("span", { class: "muted", role: "status" });
    this.previous = button("Previous", () => this.#turn(this.#before.pop() ?? null));
    this.following = button("Next", () => {
      if (this.#next == null) return;
      this.#before.push(this.#after);
      this.#turn(this.#next);
    });
    const pages = el("div", { class: "actions" }, this.previous, this.following);
    put(container, this.rows, el("div", { class: "pages" }, this.note, pages));
    form?.addEventListener("submit", (event) => event.preventDefault());
    form?.addEventListener("input", debounce(() => this.show()));
  }

  /** The first page. */
  show(fixed = this.fixed) {
    this.fixed = fixed;
    this.#before = [];
    return this.#turn(null);
  }

  /** This page again. */
  refresh() {
    return this.#turn(this.#after);
  }

  /** Nothing that is under way will be shown. */
  leave() {
    this.#abort.abort();
  }

  async #turn(after) {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    this.rows.setAttribute("aria-busy", "true");
    const query = { ...Object.fromEntries(this.form ? new FormData(this.form) : []), ...this.fixed, limit: this.limit, after };
    try {
      const page = await get(this.path, query, signal);
      if (signal.aborted) return;
      [this.#after, this.#next] = [after, page.next];
      put(this.rows, this.render(page.items));
      this.#told(page);
      this.onPage(page);
    } catch (error) {
      if (error.name === "AbortError") return;
      put(this.rows, el("p", { class: "empty bad" }, error.message, " ", button("Try again", () => this.#turn(after))));
    } finally {
      if (!signal.aborted) this.rows.removeAttribute("aria-busy");
    }
  }

  #told({ items, total }) {
    const first = this.#before.length * this.limit + 1;
    const range = `${count(first)} to ${count(first + items.length - 1)}`;
    setText(this.note, items.length === 0 ? "" : total == null ? range : `${range} of ${count(total)}`);
    // A button that is switched off would lose the focus.
    this.previous.hidden = this.following.hidden = this.#before.length === 0 && this.#next == null;
    this.previous.ariaDisabled = String(this.#before.length === 0);
    this.following.ariaDisabled = String(this.#next == null);
  }
}
