// What the page shows when the server or the line to it is away: it goes on by itself, and no event is missing or doubled.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { enter, leave, live, open, shown, status, visit, signIn } from "./browser.mjs";
import { Server } from "./server.mjs";
import { steps } from "./workflows.mjs";

let server;
let browser;

before(async () => {
  server = await Server.start();
  browser = await open();
});

after(async () => {
  await browser?.close();
  await server?.stop();
  assert.deepEqual(server?.left ?? [], [], "the server left processes behind");
});

test("a line that breaks again and again misses no event and doubles none", async () => {
  const page = await visit(browser, server);
  let breaks = 0;
  await page.routeWebSocket(/\/api\/v1\/ws$/, (client) => {
    const upstream = client.connectToServer();
    let frames = 0;
    let broken = false;
    // What the page says on a line that is being broken is lost with it.
    client.onMessage((message) => { if (!broken) upstream.send(message); });
    upstream.onMessage((message) => {
      frames += 1;
      if (broken) return undefined;
      if (frames <= 9) return client.send(message);
      // The rest of this connection is lost.
      broken = true;
      breaks += 1;
      upstream.close();
      return client.close({ code: 3000, reason: "broken by the test" });
    });
  });
  await signIn(page, server);
  await page.getByRole("heading", { name: "Workflows" }).waitFor();
  const run = await server.begin(await server.create(steps("Broken line", 6, 250)));
  await page.goto(`${server.url}/#/executions/${run.id}`);
  await status(page, "completed");
  const events = await server.positions(run.id);
  await page.locator(`tr[data-position="${events.at(-1)}"]`).waitFor();
  assert.deepEqual(await shown(page), events);
  assert.ok(breaks >= 2, `the line broke ${breaks} times`);
  await leave(page);
});

test("after a crash and a restart the indicator recovers and the history is whole", async () => {
  const page = await enter(browser, server);
  const run = await server.begin(await server.create(steps("Through a crash", 10, 700)));
  await page.goto(`${server.url}/#/executions/${run.id}`);
  await page.locator("tr[data-position]").nth(5).waitFor();
  const before = await shown(page);
  await server.crash();
  await page.locator("#live:not(.on)").filter({ hasText: "reconnecting" }).waitFor();
  await server.restart();
  await live(page);
  await status(page, "completed");
  const events = await server.positions(run.id);
  assert.ok(events.length > before.length + 5, "most of the run came after the crash");
  await page.locator(`tr[data-position="${events.at(-1)}"]`).waitFor();
  assert.deepEqual(await shown(page), events);
  assert.equal(await page.locator("#notice").isVisible(), false);
  // The browser itself notes each attempt while nobody listened.
  assert.deepEqual(page.complaints.splice(0).filter((text) => !/ERR_CONNECTION|WebSocket connection to|ERR_EMPTY_RESPONSE/.test(text)), []);
  await leave(page);
});

test("a page that is opened while the server is away shows everything once it is back", async () => {
  const page = await enter(browser, server);
  await page.getByRole("button", { name: "Start Greeting" }).waitFor();
  await server.crash();
  await page.locator("#live:not(.on)").waitFor();
  const { id } = (await page.evaluate(() => ({ id: document.querySelector('a[href^="#/executions/"]').hash.split("/").at(-1) })));
  await page.evaluate((hash) => { location.hash = hash; }, `#/executions/${id}`);
  await page.locator("#notice").filter({ hasText: "can't be reached" }).waitFor();
  await server.restart();
  await live(page);
  await status(page, "completed");
  await page.locator("#notice").waitFor({ state: "hidden" });
  const events = await server.positions(id);
  await page.locator(`tr[data-position="${events.at(-1)}"]`).waitFor();
  assert.deepEqual(await shown(page), events);
  page.complaints.length = 0;
  await leave(page);
});
