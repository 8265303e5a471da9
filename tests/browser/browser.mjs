// A browser of the system, and pages that remember everything they complained about.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { endings } from "./server.mjs";

const OUT = fileURLToPath(new URL("out/", import.meta.url));
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const NAMES = ["chromium", "chromium-browser", "google-chrome"];
const MAC = ["/Applications/Chromium.app/Contents/MacOS/Chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"];

function program() {
  const folders = (process.env.PATH ?? "").split(delimiter);
  const places = [process.env.CHROMIUM, ...NAMES.flatMap((name) => folders.map((folder) => join(folder, name))), ...MAC];
  const found = places.find((place) => place && existsSync(place));
  assert.ok(found, "no browser found: run scripts/prerequisites test, or name one in CHROMIUM");
  return found;
}

/** Starts the browser; its profile is a folder of its own, which goes away with it. */
export async function open() {
  const browser = await chromium.launch({
    executablePath: program(),
    // On a signal it ends together with the servers; by itself it would end this process before they are gone.
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  endings.add(() => browser.close());
  return browser;
}

/** A page in a fresh context. `page.complaints` is what the console, the scripts and the content policy had to say. */
export async function visit(browser, server, { scheme = "light", width = 1200, motion = "no-preference" } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme, reducedMotion: motion });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.complaints = [];
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) page.complaints.push(message.text()); });
  page.on("pageerror", (error) => page.complaints.push(error.stack ?? error.message));
  await page.exposeFunction("complain", (text) => page.complaints.push(text));
  await page.addInitScript(() => document.addEventListener("securitypolicyviolation", (event) =>
    window.complain(`policy ${event.effectiveDirective} refused ${event.blockedURI}`)));
  await page.goto(server.url);
  return page;
}

export async function signIn(page, { email, password }) {
  await page.getByLabel("Email").fill(email);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
}

/** A page that is signed in and live. */
export async function enter(browser, server, options) {
  const page = await visit(browser, server, options);
  await signIn(page, server);
  await live(page);
  return page;
}

export const live = (page) => page.locator("#live.on").waitFor();

/** Closes the page, which must not have complained of anything. */
export async function leave(page) {
  await page.context().close();
  assert.deepEqual(page.complaints, []);
}

/** Asserts that the page shows what axe has nothing against, and takes its picture. */
export async function inspect(page, name) {
  mkdirSync(OUT, { recursive: true });
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: join(OUT, `${name}.png`), fullPage: true });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(wide, 0, `${name} is wider than the window`);
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  assert.deepEqual(violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes[0].html}`), [], name);
}

/** The positions in the history of a run's page. */
export const shown = (page) => page.locator("tr[data-position]").evaluateAll((rows) => rows.map((row) => Number(row.dataset.position)));

/** Waits until the run's page says that it has this status. */
export const status = (page, word) => page.locator("h1 + .badge").filter({ hasText: word }).waitFor();
