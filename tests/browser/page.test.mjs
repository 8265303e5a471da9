// What a person does on the first page, against the real program.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { enter, leave, open, live, shown, signIn, status, visit } from "./browser.mjs";
import { Server } from "./server.mjs";
import { broken, endless, steps } from "./workflows.mjs";

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

const row = (page, noun, name) => page.locator(`section[aria-labelledby="${noun}-title"] tbody tr`).filter({ hasText: name });

test("a wrong password is refused in words, and the right one signs in", async () => {
  const page = await visit(browser, server);
  await signIn(page, { email: server.email, password: "not the password" });
  await page.locator("form .errors li").waitFor();
  assert.match(await page.locator("form .errors li").innerText(), /password/i);
  assert.equal(await page.locator("table").count(), 0);
  // The browser itself notes a refused request.
  assert.deepEqual(page.complaints.splice(0).filter((text) => !/status of 401/.test(text)), []);
  await signIn(page, server);
  await page.getByRole("heading", { name: "Workflows" }).waitFor();
  await live(page);
  await page.reload();
  await live(page);
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Password").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await leave(page);
});

test("the workflows of the demo are listed with what they are for", async () => {
  const page = await enter(browser, server);
  for (const name of ["Repository digest", "Disk report", "Health watch", "CSV clean-up", "Greeting"]) {
    const found = row(page, "workflows", name);
    await found.waitFor();
    assert.ok((await found.locator(".about").innerText()).length > 20, name);
    assert.match(await found.innerText(), /published/);
  }
  await leave(page);
});

test("a run is seen to complete live, with its steps, log lines and every event once and in order", async () => {
  const page = await enter(browser, server);
  await page.evaluate(() => { window.loadedOnce = true; });
  await page.getByRole("button", { name: "Start Repository digest" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Use the example" }).click();
  assert.deepEqual(JSON.parse(await page.getByLabel("Input as JSON").inputValue()), { commits: 200, busy: 20 });
  await page.getByRole("dialog").getByRole("button", { name: "Start", exact: true }).click();
  await page.waitForURL(/#\/executions\//);
  await status(page, "completed");
  const id = page.url().split("/").at(-1);

  const { body: nodes } = await server.call("GET", `/executions/${id}/nodes?limit=200`);
  const names = page.locator('section[aria-labelledby="steps-title"] summary strong');
  await page.waitForFunction(([selector, count]) => document.querySelectorAll(selector).length === count, ['section[aria-labelledby="steps-title"] tbody tr', nodes.items.length]);
  assert.deepEqual(await names.allInnerTexts(), nodes.items.map((node) => node.path));
  await page.locator("pre.log span").filter({ hasText: "[log]" }).first().waitFor();
  assert.match(await page.locator(".panel details[open] pre").first().innerText(), /Repository digest/);

  const events = await server.positions(id);
  assert.ok(events.length > 10);
  await page.locator(`tr[data-position="${events.at(-1)}"]`).waitFor();
  assert.deepEqual(await shown(page), events);
  assert.ok(await page.evaluate(() => window.loadedOnce), "the page was loaded again");

  // Read back later it is the same, line for line.
  const lines = await page.locator("pre.log span").allInnerTexts();
  await page.reload();
  await status(page, "completed");
  await page.locator(`tr[data-position="${events.at(-1)}"]`).waitFor();
  assert.deepEqual(await shown(page), events);
  await page.waitForFunction((count) => document.querySelectorAll("pre.log span").length >= count, lines.length);
  assert.deepEqual(await page.locator("pre.log span").allInnerTexts(), lines);
  await leave(page);
});

test("a greeting goes to whoever the input names", async () => {
  const page = await enter(browser, server);
  await page.getByRole("button", { name: "Start Greeting" }).click();
  await page.getByLabel("Input as JSON").fill("{not json");
  await page.getByRole("dialog").getByRole("button", { name: "Start", exact: true }).click();
  assert.match(await page.getByRole("dialog").locator(".errors li").innerText(), /not JSON/);
  await page.getByLabel("Input as JSON").fill('{"name": "<b>Ada</b>"}');
  await page.getByRole("dialog").getByRole("button", { name: "Start", exact: true }).click();
  await status(page, "completed");
  // Text stays text.
  assert.match(await page.locator("details[open] pre").first().innerText(), /Hello, <b>Ada<\/b>!/);
  assert.equal(await page.locator("main b").count(), 0);
  // The next start offers what was given.
  await page.getByRole("link", { name: "All executions" }).click();
  await page.getByRole("button", { name: "Start Greeting" }).click();
  await page.getByRole("button", { name: "Use the last input" }).click();
  assert.deepEqual(JSON.parse(await page.getByLabel("Input as JSON").inputValue()), { name: "<b>Ada</b>" });
  await leave(page);
});

test("a new workflow is pasted, started, and its long run is cancelled from the list", async () => {
  const page = await enter(browser, server);
  await page.getByRole("button", { name: "New workflow" }).click();
  await page.getByLabel("Workflow as JSON").fill(JSON.stringify(endless("To be cancelled")));
  await page.getByRole("button", { name: "Save workflow" }).click();
  await page.getByRole("button", { name: "Start To be cancelled" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Start", exact: true }).click();
  await page.locator(".badge.waiting").first().waitFor();
  assert.match(await page.locator("main").innerText(), /goes on in (59|60) min|goes on in 1 h/);
  await page.getByRole("link", { name: "All executions" }).click();
  const run = row(page, "executions", "To be cancelled");
  await run.locator(".badge.waiting").waitFor();
  await run.getByRole("button", { name: "Cancel" }).click();
  await run.locator(".badge.cancelled").waitFor();
  assert.equal(await run.getByRole("button").count(), 0);
  await leave(page);
});

test("a broken workflow shows every problem that the server finds, and is kept for the correction", async () => {
  const page = await enter(browser, server);
  await page.getByRole("button", { name: "New workflow" }).click();
  await page.getByLabel("Workflow as JSON").fill(JSON.stringify(broken));
  await page.getByRole("button", { name: "Save workflow" }).click();
  const items = page.getByRole("dialog").locator(".errors li");
  await items.first().waitFor();
  const { status: code, body } = await server.call("POST", "/workflows", broken);
  assert.equal(code, 422);
  assert.ok(body.errors.length >= 4, JSON.stringify(body.errors));
  const squeezed = (text) => text.replace(/\s+/g, " ").trim();
  assert.deepEqual((await items.allTextContents()).map(squeezed), body.errors.map((error) => squeezed(`${error.pointer}: ${error.detail}`)));
  assert.equal(await page.getByLabel("Workflow as JSON").inputValue(), JSON.stringify(broken));
  assert.deepEqual(page.complaints.splice(0).filter((text) => !/status of 422/.test(text)), []);
  await leave(page);
});

test("the keyboard alone starts a workflow; Escape closes the dialog and goes back", async () => {
  const page = await enter(browser, server);
  // From the top of the page.
  await page.reload();
  await live(page);
  await page.getByRole("button", { name: "Start Greeting" }).waitFor();
  const focus = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent.trim());
  const order = [];
  while (order.at(-1) !== "Start Greeting" && order.length < 40) {
    await page.keyboard.press("Tab");
    order.push(await focus());
  }
  const fixed = ["Skip to content", "Ledgerline", "Overview", "API", "Sign out", "New workflow"];
  const starts = (await page.getByRole("button", { name: /^Start / }).evaluateAll((buttons) => buttons.map((button) => button.getAttribute("aria-label"))));
  assert.deepEqual(order, [...fixed, ...starts.slice(0, starts.indexOf("Start Greeting") + 1)]);

  await page.keyboard.press("Enter");
  assert.equal(await focus(), "Input as JSON");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await focus(), "Start Greeting");

  await page.keyboard.press("Enter");
  while (await focus() !== "Start") await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await status(page, "completed");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await leave(page);
});

test("what has the keyboard and what is open stay so while others change", async () => {
  const flow = await server.create(steps("Many small pauses", 8, 400));
  const page = await enter(browser, server);
  await page.getByRole("button", { name: "Start Many small pauses" }).focus();
  const run = await server.begin(flow);
  await row(page, "executions", "Many small pauses").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Start Many small pauses");
  await row(page, "executions", "Many small pauses").getByRole("link").click();
  const first = page.locator('section[aria-labelledby="steps-title"] tr[data-key="pause_1"] summary');
  await first.click();
  const event = page.locator("tr[data-position] summary").first();
  await event.click();
  await first.focus();
  await status(page, "completed");
  assert.ok(await first.evaluate((summary) => summary.parentElement.open && document.activeElement === summary));
  assert.ok(await event.evaluate((summary) => summary.parentElement.open));
  assert.deepEqual(await shown(page), await server.positions(run.id));
  await leave(page);
});

test("lists go on beyond their first page", async () => {
  for (let at = 0; at < 55; at += 1) await server.create(endless(`Numbered ${at}`));
  const page = await enter(browser, server);
  const rows = page.locator('section[aria-labelledby="workflows-title"] tbody tr');
  await page.getByText("the newest 50").waitFor();
  assert.equal(await rows.count(), 50);
  assert.equal(await row(page, "workflows", "Repository digest").count(), 0);
  await page.getByRole("button", { name: "Load more workflows" }).click();
  await row(page, "workflows", "Repository digest").waitFor();
  const { body } = await server.call("GET", "/workflows?limit=1");
  assert.equal(await rows.count(), body.total);
  await page.getByRole("button", { name: "Load more workflows" }).waitFor({ state: "hidden" });
  await leave(page);
});
