// What may stand between a first step of signing in and the page: the code of a second factor, and another provider's page.

import { get, signIn } from "./client.js";
import { h, problems } from "./dom.js";

/** Why a provider sent the browser back without a sign-in, in words for whoever sits before it. */
const FAILED = {
  state: "That sign-in was begun elsewhere, or it took too long. Try again.",
  denied: "The provider did not sign you in.",
  refused: "The provider's answer can't be trusted. Tell whoever runs this server.",
  too_many: "Too many sign-ins were begun from your network. Wait a few minutes.",
  address_unverified: "The provider has not verified your email address, so it can't be used here.",
  domain: "Your email address is not of a domain that may sign in with this provider.",
  account_unverified: "There is an account with your email address, and the address was never verified. Sign in with its password and verify it first.",
  closed: "There is no account with your email address, and registration is closed. Ask for an invitation.",
};
const AWAY = "The provider can't be reached right now. Try again in a moment.";

/** What a provider sent the browser back with. It is taken off the address at once, so that nobody keeps or passes it on. */
export function returned() {
  const [, word, value] = /^#(sign-in|sign-in-failed)=([\w-]+)$/.exec(location.hash) ?? [];
  if (!word) return null;
  history.replaceState(null, "", "#/");
  return word === "sign-in" ? { challenge: value } : { problem: { message: FAILED[value] ?? AWAY } };
}

/** The other providers' buttons; none where there are none, or while the server is away. */
export function providers() {
  const place = h("div.providers", {});
  get("/auth/oidc").then(({ items }) => place.replaceChildren(...items.map(({ title, start }) =>
    h("a.button", { href: start }, `Sign in with ${title}`)))).catch(() => {});
  return place;
}

/** Asks for the code of a second factor; `done` when it was right, and when somebody would rather begin anew. */
export function askForCode(main, challenge, done) {
  const errors = problems();
  const submit = h("button.primary", { type: "submit" }, "Sign in");
  const form = h("form.card", { onsubmit: async (event) => {
    event.preventDefault();
    if (submit.disabled) return;
    errors.show(null);
    submit.disabled = true;
    try {
      await signIn("login/continue", { challenge, code: form.elements.code.value });
      done();
    } catch (problem) {
      errors.show(problem);
      form.elements.code.select();
    } finally {
      submit.disabled = false;
    }
  } }, h("h1", {}, "One more step"),
  h("p", { id: "code-help" }, "Type the code that your authenticator app shows, or one of your recovery codes."),
  h("label", {}, "Code", h("input", { name: "code", autocomplete: "one-time-code", autocapitalize: "off", spellcheck: "false", required: true, maxlength: 40, "aria-describedby": "code-help" })),
  errors.element, submit, h("button.quiet", { type: "button", onclick: done }, "Start again"));
  main.replaceChildren(form);
  form.elements.code.focus();
}
