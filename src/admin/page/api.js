// The operator API: answers, problems, and streams of them.

const POLL_MS = 10_000;
const RETRY_MS = 30_000;

export class Problem extends Error {
  constructor(problem, status) {
    super(problem.detail ?? `the gateway answered ${status}`);
    this.code = problem.code;
    this.status = status;
  }
}

async function call(method, path, { query, body, signal } = {}) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value != null && value !== "");
  const url = `/api/v1/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-Roadstead-Request"] = "1";
  if (method === "POST") headers["Content-Type"] = "application/json";
  const response = await fetch(url, { method, headers, signal, body: method === "POST" ? JSON.stringify(body ?? {}) : undefined })
    .catch((error) => {
      throw error.name === "AbortError" ? error : new Problem({ detail: "The gateway does not answer." }, 0);
    });
  if (!response.ok) throw new Problem(await response.json().catch(() => ({})), response.status);
  return response;
}

export const get = async (path, query, signal) => (await call("GET", path, { query, signal })).json();
export const post = async (path, body, signal) => (await call("POST", path, { body, signal })).json();
export const remove = (path, query) => call("DELETE", path, { query });

/** Posts, and yields what comes as lines of JSON; without a last line that has `done` the answer is incomplete. */
export async function* postLines(path, body, signal) {
  const response = await call("POST", path, { body, signal });
  let [rest, done] = ["", false];
  for await (const piece of pieces(response.body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean).map((text) => JSON.parse(text))) {
      done = line.done != null;
      yield line;
    }
  }
  if (!done) throw new Problem({ detail: "The connection broke before the end; the gateway may go on." }, 0);
}

async function* pieces(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield value;
  }
}

/**
 * Live data for the view that is shown. There is one stream at most, closed while nobody looks at the page. When
 * the gateway has no place for another listener, what can be polled is polled.
 */
export class Live {
  #source = null;
  #timer = 0;
  #wanted = null;

  constructor(onState) {
    this.onState = onState;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close() : this.#open()));
  }

  /** `handlers` has a function for each topic; `query` filters requests. */
  follow(handlers, query = {}) {
    this.#close();
    this.#wanted = { handlers, query };
    if (!document.hidden) this.#open();
  }

  #open() {
    if (this.#source || !this.#wanted) return;
    clearTimeout(this.#timer);
    const { handlers, query } = this.#wanted;
    const given = Object.entries(query).filter(([, value]) => value);
    const topics = Object.keys(handlers).join(",");
    const source = new EventSource(`/api/v1/events?${new URLSearchParams([["topics", topics], ...given])}`);
    for (const [topic, handler] of Object.entries(handlers)) {
      source.addEventListener(topic, (event) => handler(JSON.parse(event.data)));
    }
    source.onopen = () => this.onState("live");
    source.onerror = () => {
      // The browser tries again by itself, unless there was an answer that is no stream.
      if (source.readyState === EventSource.CLOSED) this.#poll(performance.now() + RETRY_MS * (1 + Math.random()));
      else this.onState("lost");
    };
    this.#source = source;
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  async #poll(until) {
    this.#close();
    if (document.hidden) return;
    const wanted = this.#wanted;
    try {
      for (const topic of ["overview", "fills"]) {
        if (topic in wanted.handlers) wanted.handlers[topic](await get(topic));
      }
      if ("requests" in wanted.handlers) {
        const { items } = await get("requests", { ...wanted.query, limit: 100 });
        wanted.handlers.requests({ items: items.reverse(), skipped: 0 });
      }
      this.onState("poll");
    } catch {
      this.onState("lost");
    }
    if (this.#wanted !== wanted || this.#source) return;
    const again = () => (performance.now() < until ? this.#poll(until) : this.#open());
    this.#timer = setTimeout(again, POLL_MS * (0.8 + 0.4 * Math.random()));
  }
}
