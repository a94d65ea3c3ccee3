// Tests the dashboard against the mock: the contract first, then the page.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { once } from "node:events";

const here = new URL(".", import.meta.url).pathname;
const python = process.env.PYTHON ?? "python3";
const mock = spawn(python, [`${here}mock.py`], { stdio: ["ignore", "pipe", "inherit"] });
const [url] = await once(createInterface({ input: mock.stdout }), "line");
let failed = false;
for (const command of [[python, `${here}contract.py`, url], [process.execPath, `${here}page.mjs`, url]]) {
  const [code] = await once(spawn(command[0], command.slice(1), { stdio: "inherit" }), "exit");
  failed ||= code !== 0;
}
mock.kill();
process.exitCode = failed ? 1 : 0;
