// The real program with its own Postgres and nats-server and the demo, in a folder that goes away with it.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = resolve(fileURLToPath(import.meta.url), "../../..");
const PROGRAM = process.env.LEDGERLINE_BIN ?? resolve(ROOT, process.env.CARGO_TARGET_DIR ?? "target", "debug/ledgerline");
const START_MS = 90_000;
const STOP_MS = 30_000;

/** What is to be ended when the tests are: functions that return a promise. */
export const endings = new Set();

/** A process whose arguments name `folder` and whose id one of the folder's own files holds. */
function leftIn(folder) {
  const files = existsSync(folder) ? readdirSync(folder, { recursive: true }).filter((name) => name.endsWith(".pid")) : [];
  const ids = files.map((name) => Number(readFileSync(join(folder, name), "utf8").split("\n")[0]));
  return [...new Set(ids)].filter((id) => {
    try {
      return id > 1 && execFileSync("ps", ["-o", "args=", "-p", String(id)], { encoding: "utf8" }).includes(folder);
    } catch {
      return false;
    }
  });
}

export class Server {
  /** Starts on a free port, and a further time on the same one. */
  static async start() {
    assert.ok(existsSync(PROGRAM), `${PROGRAM} is missing: cargo build -p ledgerline-api --bin ledgerline`);
    const server = new Server();
    server.folder = await mkdtemp(join(tmpdir(), "ledgerline-browser-"));
    // Postgres runs as a user of its own when this is root.
    await chmod(server.folder, 0o711);
    server.ending = () => server.stop();
    endings.add(server.ending);
    try {
      await server.launch("127.0.0.1:0");
      // Before any page does: one address signs in once at a time.
      const { status, body } = await server.send("POST", "/auth/login", { email: server.email, password: server.password });
      assert.equal(status, 200, JSON.stringify(body));
      server.token = body.access_token;
    } catch (error) {
      await server.stop();
      throw error;
    }
    return server;
  }

  async launch(listen) {
    const env = { ...process.env };
    for (const name of ["DATABASE_URL", "NATS_URL", "LEDGERLINE_CONFIG", "LEDGERLINE_ROLES", "LEDGERLINE_LISTEN", "LEDGERLINE_DATA_DIR"]) delete env[name];
    const args = ["serve", "--embedded", "--seed-demo", "--data-dir", join(this.folder, "data"), "--listen", listen];
    this.process = spawn(PROGRAM, args, { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
    this.printed = "";
    const ready = new Promise((found, failed) => {
      const hear = (text) => {
        this.printed += text;
        const url = /listening on (http:\/\/\S+)/.exec(this.printed)?.[1];
        const demo = /sign in as (\S+) with the password (\S+)/.exec(this.printed);
        if (url && demo) found({ url, email: demo[1], password: demo[2] });
      };
      this.process.stdout.setEncoding("utf8").on("data", hear);
      this.process.stderr.setEncoding("utf8").on("data", hear);
      this.process.once("error", failed);
      this.process.once("exit", (code, signal) => failed(new Error(`the server ended (${code ?? signal}):\n${this.printed}`)));
      setTimeout(() => failed(new Error(`the server was not ready within ${START_MS / 1000} s:\n${this.printed}`)), START_MS).unref();
    });
    Object.assign(this, await ready);
  }

  /** Ends it as a crash would: its Postgres and nats-server are left running. */
  async crash() {
    const ended = once(this.process, "exit");
    this.process.kill("SIGKILL");
    await ended;
  }

  async restart() {
    await this.launch(new URL(this.url).host);
  }

  /** Ends it in order, and whatever a crash has left. Says so when something would not end. */
  async stop() {
    if (this.process && this.process.exitCode === null && this.process.signalCode === null) {
      const ended = once(this.process, "exit");
      this.process.kill("SIGTERM");
      const late = setTimeout(() => this.process.kill("SIGKILL"), STOP_MS);
      await ended;
      clearTimeout(late);
    }
    const left = leftIn(this.folder);
    for (const id of left) process.kill(id, "SIGQUIT");
    await rm(this.folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    endings.delete(this.ending);
    this.left = left;
  }

  /** Calls the API as a signed-in client beside the page. */
  async call(method, path, body) {
    return this.send(method, path, body, this.token);
  }

  async send(method, path, body, token) {
    const headers = { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const response = await fetch(`${this.url}/api/v1${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await response.text();
    return { status: response.status, body: text ? JSON.parse(text) : null };
  }

  async create(workflow) {
    const { status, body } = await this.call("POST", "/workflows", workflow);
    assert.equal(status, 201, JSON.stringify(body));
    return body;
  }

  async begin(workflow, input = {}) {
    const { status, body } = await this.call("POST", `/workflows/${workflow.id}/start`, { input });
    assert.equal(status, 202, JSON.stringify(body));
    return body;
  }

  /** The positions of a run's events, as the log has them. */
  async positions(execution) {
    const all = [];
    let cursor = null;
    do {
      const { body } = await this.call("GET", `/executions/${execution}/events?limit=200${cursor ? `&cursor=${cursor}` : ""}`);
      all.push(...body.items.map((event) => event.position));
      cursor = body.next_cursor;
    } while (cursor);
    return all;
  }
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.once(signal, async () => {
    // Whoever listened may be gone already.
    for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
    await Promise.allSettled([...endings].map((end) => end()));
    process.exit(1);
  });
}
