// What the mails of accounts lead to on the first page: a verified address, a way in by code, a new password.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { inspect, leave, live, open, signIn, visit } from "./browser.mjs";
import { Server } from "./server.mjs";

const EMAIL = "marvin@example.com";
const PASSWORD = "a brain the size of a planet";
const ANOTHER = "and the diodes down my left side";

let server;
let browser;

before(async () => {
  server = await Server.start();
  browser = await open();
  const { status, body } = await server.send("POST", "/auth/register", { email: EMAIL, password: PASSWORD, full_name: "Marvin" });
  assert.equal(status, 201, JSON.stringify(body));
});

after(async () => {
  await browser?.close();
  await server?.stop();
  assert.deepEqual(server?.left ?? [], [], "the server left processes behind");
});

/** The text of the newest mail; the deployment has no mail server, so an operator reads it in the outbox. */
async function mail() {
  const { body } = await server.call("GET", "/system/outbox");
  return body.items.find((item) => item.recipient === EMAIL).text;
}

const code = async () => /^\s*(\d{6})\s*$/m.exec(await mail())[1];
const refusals = (page) => page.complaints.splice(0).filter((text) => !/status of 40[149]/.test(text));

test("the link of a mail verifies the address once, and leaves no token in the address bar", async () => {
  const link = new URL(/http\S+#verify=\S+/.exec(await mail())[0]);
  const page = await visit(browser, server);
  await page.goto(`${server.url}/${link.hash}`);
  await page.getByRole("heading", { name: "Your address is verified", exact: true }).waitFor();
  assert.equal(new URL(page.url()).hash, "");
  await inspect(page, "mail-verified");
  await page.getByRole("button", { name: "Sign in" }).click();
  await signIn(page, { email: EMAIL, password: PASSWORD });
  await live(page);

  await page.goto(`${server.url}/${link.hash}`);
  await page.getByRole("heading", { name: "Your address is verified already" }).waitFor();
  await page.getByRole("button", { name: "Go on" }).click();
  await live(page);
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Password").waitFor();
  await page.goto(`${server.url}/${link.hash}`);
  await page.getByRole("heading", { name: "This link is no longer good" }).waitFor();
  await inspect(page, "mail-used");
  assert.deepEqual(refusals(page), []);
  await leave(page);
});

test("a code signs in, and a wrong one is refused in words", async () => {
  const page = await visit(browser, server);
  await page.getByRole("button", { name: "Sign in with a code" }).click();
  await page.getByLabel("Email").fill(EMAIL);
  await inspect(page, "mail-ask");
  await page.getByRole("button", { name: "Send me a code" }).click();
  await page.getByLabel("Code").waitFor();
  await inspect(page, "mail-code");
  const right = await code();
  await page.getByLabel("Code").fill(right === "000000" ? "000001" : "000000");
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.locator("form .errors li").waitFor();
  assert.match(await page.locator("form .errors li").innerText(), /wrong, used, or too old/);
  assert.deepEqual(refusals(page), []);
  await page.getByLabel("Code").fill(` ${right} `);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await live(page);
  await leave(page);
});

test("a forgotten password is set anew, and the old one is no good any more", async () => {
  const page = await visit(browser, server);
  await page.getByRole("button", { name: "Forgot your password?" }).click();
  await page.getByLabel("Email").fill(EMAIL);
  await page.getByRole("button", { name: "Send me a code" }).click();
  await page.getByLabel("Code").waitFor();
  await page.getByLabel("Code").fill(await code());
  await page.getByRole("button", { name: "Go on" }).click();
  await page.getByLabel("New password").fill(ANOTHER);
  await inspect(page, "mail-password");
  await page.getByRole("button", { name: "Set the password" }).click();
  await page.getByRole("heading", { name: "Your new password is set" }).waitFor();
  await page.getByRole("button", { name: "Sign in" }).click();
  await signIn(page, { email: EMAIL, password: PASSWORD });
  await page.locator("form .errors li").waitFor();
  assert.deepEqual(refusals(page), []);
  await signIn(page, { email: EMAIL, password: ANOTHER });
  await live(page);
  await leave(page);
});

test("an invitation waits until its reader is signed in, and then makes a member", async () => {
  const { body: workspace } = await server.call("POST", "/workspaces", { name: "Heart of Gold" });
  const { status, body } = await server.call("POST", `/workspaces/${workspace.id}/invite`, { email: EMAIL, role: "viewer" });
  assert.equal(status, 201, JSON.stringify(body));
  const link = new URL(/http\S+#invitation=\S+/.exec(await mail())[0]);
  const page = await visit(browser, server);
  await page.goto(`${server.url}/${link.hash}`);
  await page.getByRole("heading", { name: "You are invited to a workspace" }).waitFor();
  await inspect(page, "mail-invited");
  await page.getByRole("button", { name: "Go on" }).click();
  await signIn(page, { email: EMAIL, password: ANOTHER });
  await page.getByRole("heading", { name: "You are a member of Heart of Gold" }).waitFor();
  await page.getByRole("button", { name: "Go on" }).click();
  await live(page);
  await page.goto(`${server.url}/${link.hash}`);
  await page.getByRole("button", { name: "Go on" }).waitFor();
  assert.deepEqual(refusals(page), []);
  await leave(page);
});
