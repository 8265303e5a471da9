// Signing in with a second factor, against the real program.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after, before, test } from "node:test";
import { inspect, leave, live, open, signIn, visit } from "./browser.mjs";
import { Server } from "./server.mjs";

const PASSWORD = "correct horse battery";
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

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

/** The code that an authenticator app shows for a secret (RFC 6238), `steps` steps from now. */
function code(secret, steps = 0) {
  const bits = [...secret].map((letter) => LETTERS.indexOf(letter).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const digest = createHmac("sha1", key).update(step).digest();
  const number = digest.readUInt32BE(digest.at(-1) & 15) & 0x7fffffff;
  return String(number % 1_000_000).padStart(6, "0");
}

/** Somebody with a second factor. */
async function somebody(email) {
  const { body } = await server.send("POST", "/auth/register", { email, password: PASSWORD, full_name: "Grace Hopper" });
  const begun = await server.send("POST", "/auth/totp", { password: PASSWORD }, body.access_token);
  assert.equal(begun.status, 201, JSON.stringify(begun.body));
  const secret = begun.body.secret;
  const on = await server.send("POST", "/auth/totp/confirm", { code: code(secret) }, body.access_token);
  assert.equal(on.status, 200, JSON.stringify(on.body));
  return { email, password: PASSWORD, secret, recovery: on.body.recovery_codes };
}

test("a second factor is asked for after the password, with the keyboard alone, and a wrong code is told", async () => {
  const grace = await somebody("grace@example.com");
  const page = await visit(browser, server, { motion: "reduce" });
  await signIn(page, grace);
  await page.getByRole("heading", { name: "One more step" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.name), "code");
  assert.equal(await page.evaluate(() => sessionStorage.length), 0, "there is no session yet");
  await inspect(page, "second-factor");
  await page.keyboard.type("000000");
  await page.keyboard.press("Enter");
  await page.locator("form .errors li").filter({ hasText: /code is wrong/ }).waitFor();
  // The code that turned it on is used up; the next one counts.
  await page.keyboard.type(code(grace.secret, 1));
  await page.keyboard.press("Enter");
  await live(page);
  assert.equal(await page.locator("#who").innerText(), "Grace Hopper");
  // The browser itself notes refused requests.
  assert.deepEqual(page.complaints.splice(0).filter((text) => !/status of 401/.test(text)), []);
  await leave(page);
});

test("who has lost the app comes in with a recovery code, and who gives up begins again", async () => {
  const ada = await somebody("ada.second@example.com");
  const page = await visit(browser, server);
  await signIn(page, ada);
  await page.getByRole("button", { name: "Start again" }).click();
  await page.getByLabel("Password").waitFor();
  await signIn(page, ada);
  await page.getByLabel("Code").fill(ada.recovery[0]);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await live(page);
  assert.deepEqual(page.complaints.splice(0).filter((text) => !/status of 401/.test(text)), []);
  await leave(page);
});

test("a provider that sends the browser back without a sign-in is told in words, and the address keeps nothing", async () => {
  const page = await visit(browser, server);
  await page.goto(`${server.url}/#sign-in-failed=closed`);
  await page.reload();
  await page.locator("form .errors li").filter({ hasText: /registration is closed/ }).waitFor();
  assert.equal(new URL(page.url()).hash, "#/");
  await page.evaluate(() => { location.hash = "#sign-in=llc_unknown"; });
  await page.reload();
  await page.locator("form .errors li").filter({ hasText: /sign in again/ }).waitFor();
  assert.equal(new URL(page.url()).hash, "#/");
  assert.deepEqual(page.complaints.splice(0).filter((text) => !/status of 401/.test(text)), []);
  await leave(page);
});
