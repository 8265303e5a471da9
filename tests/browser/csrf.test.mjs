// What pages of other origins can make a signed-in person's browser do: nothing. With cookies, in a real browser, against the real program.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { open } from "./browser.mjs";
import { Server } from "./server.mjs";

let server;
let browser;
let stranger;

before(async () => {
  server = await Server.start();
  browser = await open();
  stranger = createServer((_, answer) => answer.setHeader("Content-Type", "text/html").end("<!doctype html><title>Elsewhere</title>"));
  stranger.listen(0);
  await once(stranger, "listening");
});

after(async () => {
  await browser?.close();
  stranger?.close();
  await server?.stop();
  assert.deepEqual(server?.left ?? [], [], "the server left processes behind");
});

/** Asks as a page may: the status, `blocked` where the browser shows the page nothing of an answer. */
const ask = (page, url, init) =>
  page.evaluate(async ([url, init]) => {
    try {
      return (await fetch(url, { credentials: "include", ...init })).status;
    } catch {
      return "blocked";
    }
  }, [url, init]);

/** Opens a socket as a page may: whether it was let in. */
const socket = (page, url) =>
  page.evaluate((url) => new Promise((done) => {
    const socket = new WebSocket(url, ["ledgerline.v1"]);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  }), url);

/** Sends a form as a page may, and waits for what the server answers. */
async function form(page, url, type, fields) {
  const answered = page.waitForResponse((answer) => answer.url() === url);
  await page.evaluate(([url, type, fields]) => {
    const form = Object.assign(document.createElement("form"), { method: "POST", action: url, enctype: type });
    for (const [name, value] of Object.entries(fields)) form.append(Object.assign(document.createElement("input"), { name, value }));
    document.body.append(form);
    form.submit();
  }, [url, type, fields]);
  return (await answered).status();
}

/** How often the server has refused a POST to a path. */
async function refused(path) {
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  const lines = metrics.split("\n").filter((line) => line.startsWith("http_requests_total{"));
  const ours = lines.filter((line) => line.includes('method="POST"') && line.includes(`route="/api/v1${path}"`) && /status="(401|403|415)"/.test(line));
  return ours.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

const json = (method, body) => ({ method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
const simple = (body) => ({ method: "POST", mode: "no-cors", headers: { "Content-Type": "text/plain" }, body });

// 127.0.0.1 and localhost are two sites; two ports of 127.0.0.1 are one site and two origins, and there the cookie goes along.
for (const [kind, host] of [["another site", "localhost"], ["another origin of the same site", "127.0.0.1"]]) {
  test(`a page of ${kind} reads nothing and changes nothing`, async () => {
    const context = await browser.newContext();
    const own = await context.newPage();
    await own.goto(server.url);
    const api = `${server.url}/api/v1`;
    assert.equal(await ask(own, `${api}/auth/login`, json("POST", { email: server.email, password: server.password, cookies: true })), 200);
    const cookies = await context.cookies(`${api}/auth/refresh`);
    assert.deepEqual(cookies.map(({ httpOnly, sameSite }) => ({ httpOnly, sameSite })), Array(2).fill({ httpOnly: true, sameSite: "Strict" }));
    assert.equal(await own.evaluate(() => document.cookie), "");
    // The same requests are answered to our own page, so it is not for another reason that the others are refused.
    assert.equal(await ask(own, `${api}/auth/me`, json("PATCH", { full_name: "By our own page" })), 200);
    assert.equal(await socket(own, `${api.replace("http", "ws")}/ws`), "open");
    const { body: before } = await server.call("GET", "/workflows");

    const page = await context.newPage();
    await page.goto(`http://${host}:${stranger.address().port}/`);
    assert.equal(await ask(page, `${api}/auth/me`, {}), "blocked", "it is not read");
    assert.equal(await ask(page, `${api}/auth/me`, json("PATCH", { full_name: "By a stranger" })), "blocked");
    const workflow = JSON.stringify({ name: "By a stranger", nodes: [] });
    assert.equal(await ask(page, `${api}/workflows`, json("POST", JSON.parse(workflow))), "blocked");
    for (const path of ["/workflows", "/auth/logout", "/auth/ws-ticket", "/auth/refresh"]) {
      const count = await refused(path);
      assert.equal(await ask(page, api + path, simple(workflow)), "blocked", "not even its length is shown");
      assert.equal(await refused(path), count + 1, `${path} is sent without a question, and refused there`);
    }
    assert.equal(await socket(page, `${api.replace("http", "ws")}/ws`), "refused");
    for (const [path, type] of [["/auth/logout", "text/plain"], ["/auth/refresh", "application/x-www-form-urlencoded"], ["/auth/login", "text/plain"]]) {
      const sender = await context.newPage();
      await sender.goto(`http://${host}:${stranger.address().port}/`);
      const status = await form(sender, api + path, type, { '{"email":"x@example.com","password":"': '"}' });
      assert.ok([401, 403, 415].includes(status), `${path} answered ${status}`);
      await sender.close();
    }

    const me = await own.evaluate(async (url) => (await fetch(url)).json(), `${api}/auth/me`);
    assert.equal(me.full_name, "By our own page", "the session lives and nothing was changed");
    const { body: after } = await server.call("GET", "/workflows");
    assert.equal(after.total, before.total);
    // Nor is the API shown within another page.
    await page.evaluate((url) => new Promise((done) => {
      const frame = Object.assign(document.createElement("iframe"), { src: url, onload: done });
      document.body.append(frame);
    }), server.url);
    assert.equal(page.frames().some((frame) => frame.url().startsWith(server.url)), false, "it is not framed");
    await context.close();
  });
}
