// Every view in both colour schemes and two widths: axe has nothing against it, nothing is wider than the window.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { inspect, leave, live, open, signIn, status, visit } from "./browser.mjs";
import { Server } from "./server.mjs";
import { endless, failing, retrying } from "./workflows.mjs";

let server;
let browser;
const runs = {};

before(async () => {
  server = await Server.start();
  browser = await open();
  const { body } = await server.call("GET", "/workflows?search=digest");
  for (const [name, flow] of [["waiting", endless()], ["retrying", retrying], ["failed", failing]]) runs[name] = await server.begin(await server.create(flow));
  runs.completed = await server.begin(body.items[0]);
});

after(async () => {
  await browser?.close();
  await server?.stop();
  assert.deepEqual(server?.left ?? [], [], "the server left processes behind");
});

for (const scheme of ["light", "dark"]) {
  for (const width of [1200, 400]) {
    test(`every view is accessible: ${scheme}, ${width} px`, async () => {
      const page = await visit(browser, server, { scheme, width, motion: "reduce" });
      const check = (name) => inspect(page, `${name}-${scheme}-${width}`);
      await page.getByLabel("Email").waitFor();
      await check("sign-in");
      await page.getByRole("button", { name: "Create an account" }).click();
      await check("register");
      await page.getByRole("button", { name: "I have an account" }).click();
      await signIn(page, server);
      await live(page);
      await page.getByRole("button", { name: "Start Greeting" }).waitFor();
      await page.getByRole("link", { name: "Tries again" }).waitFor();
      await check("overview");
      await page.getByRole("button", { name: "New workflow" }).click();
      await page.getByLabel("Workflow as JSON").fill("{");
      await page.getByRole("button", { name: "Save workflow" }).click();
      await page.locator("dialog .errors li").waitFor();
      await check("new-workflow");
      await page.keyboard.press("Escape");
      await page.getByRole("button", { name: "Start Greeting" }).click();
      await check("start");
      await page.keyboard.press("Escape");
      for (const [name, run] of Object.entries(runs)) {
        await page.goto(`${server.url}/#/executions/${run.id}`);
        await status(page, name === "retrying" || name === "waiting" ? "running" : name);
        await page.locator("tr[data-position]").nth(4).waitFor();
        await page.locator('section[aria-labelledby="steps-title"] summary').last().click();
        await page.locator("tr[data-position] summary").last().click();
        if (name === "retrying") assert.match(await page.locator("main").innerText(), /tries again (in \d+ s|\d+ s ago)/);
        if (name === "failed") assert.match(await page.locator("p.bad").innerText(), /no-such-program.*\(permanent\)/s);
        await check(`run-${name}`);
      }
      await leave(page);
    });
  }
}
