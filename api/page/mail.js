// What mails lead to: an address to verify, a new password to set, a code to come in with, a workspace to join.

import { accessToken, get, post, signIn } from "./client.js";
import { h, problems } from "./dom.js";
import { askForCode } from "./second-step.js";

const LINK = /^#(verify|reset|invitation)=([A-Za-z0-9_-]{1,256})$/;
const INVITATION = "ledgerline.invitation";

/** The token that a mail's link carries behind the `#`. It is taken out of the address bar, where others could read it. */
export function fromMail() {
  const found = LINK.exec(location.hash);
  if (!found) return null;
  history.replaceState(null, "", location.pathname);
  return { what: found[1], token: found[2] };
}

const goOn = (words, done) => h("button.primary", { type: "button", onclick: done }, words);

/** The invitation that waits until its reader is signed in. */
export function waitingInvitation() {
  const token = sessionStorage.getItem(INVITATION);
  if (!token || !accessToken()) return null;
  sessionStorage.removeItem(INVITATION);
  return token;
}

/** Joins the workspace of an invitation; whoever is not signed in yet signs in first. */
export async function join(main, token, done) {
  if (!accessToken()) {
    sessionStorage.setItem(INVITATION, token);
    told(main, "You are invited to a workspace", "Sign in with the address that the invitation was sent to, or create an account with it. You join right after.", goOn("Go on", done));
    return;
  }
  main.replaceChildren(h("section.card", { "aria-busy": "true" }, h("h1", {}, "Joining…")));
  try {
    const workspace = await post(`/invitations/${encodeURIComponent(token)}/accept`);
    told(main, `You are a member of ${workspace.name}`, `Your role is ${workspace.role}.`, goOn("Go on", done));
  } catch (problem) {
    const over = problem.status === 404 || problem.status === 409;
    told(main, over ? "This invitation is no longer good" : "You could not join", over ? "It was used or taken back, is more than seven days old, or was sent to another address than that of this account." : problem.message, goOn("Go on", done));
  }
}

/** A card with one form; what it can't do is told in it. */
function card(main, title, submitWord, fields, submit, ...beside) {
  const errors = problems();
  const button = h("button.primary", { type: "submit" }, submitWord);
  const form = h("form.card", { onsubmit: async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    errors.show(null);
    button.disabled = true;
    try {
      await submit(Object.fromEntries(new FormData(form)));
    } catch (problem) {
      errors.show(problem);
    } finally {
      button.disabled = false;
    }
  } }, h("h1", {}, title), ...fields, errors.element, button, ...beside);
  main.replaceChildren(form);
  form.querySelector("input")?.focus();
}

/** A card that says how something went, with one way on. */
function told(main, title, words, way) {
  main.replaceChildren(h("section.card", { role: "status" }, h("h1", {}, title), h("p", {}, words), way));
  way.focus();
}

/** Verifies the address that the link was sent to. */
export async function verify(main, token, done) {
  main.replaceChildren(h("section.card", { "aria-busy": "true" }, h("h1", {}, "Verifying your address…")));
  try {
    await post("/auth/verify-email", { token });
    told(main, "Your address is verified", "Mails about your account reach you from now on.", goOn(accessToken() ? "Go on" : "Sign in", done));
  } catch (problem) {
    if (problem.status === 401) await linkIsOver(main, done);
    else told(main, "Your address could not be verified", problem.message, goOn("Try again", () => verify(main, token, done)));
  }
}

/** Says what to do about a link that was used or is too old. */
async function linkIsOver(main, done) {
  const me = accessToken() ? await get("/auth/me").catch(() => null) : null;
  if (me?.email_verified) {
    told(main, "Your address is verified already", "The link was used before; there is nothing left to do.", goOn("Go on", done));
  } else if (me) {
    told(main, "This link is no longer good", "It was used before, or is more than a day old, or a newer one was sent.", goOn("Send a new link", async () => {
      try {
        await post("/auth/request-verification");
        told(main, "A new link is on its way", "Look into your mailbox. Only the newest link is good.", goOn("Go on", done));
      } catch (refused) {
        told(main, "No new link was sent", refused.message, goOn("Go on", done));
      }
    }));
  } else {
    told(main, "This link is no longer good", "It was used before, or is more than a day old. Sign in and open it again to have a new one sent.", goOn("Sign in", done));
  }
}

const password = (words) => h("label", {}, words, h("input", { name: "new_password", type: "password", autocomplete: "new-password", required: true, minlength: 12, maxlength: 1024 }));

/** Sets a new password with the right that a code or a link gave. */
export function setPassword(main, token, done) {
  card(main, "Set a new password", "Set the password", [password("New password")], async (fields) => {
    await post("/auth/password", { reset_token: token, new_password: fields.new_password });
    told(main, "Your new password is set", "You were signed out everywhere. Sign in with the new password.", goOn("Sign in", done));
  });
}

/** Comes in with a code, or sets a new password with one. */
export function withCode(main, purpose, done) {
  const title = purpose === "login" ? "Sign in with a code" : "Set a new password";
  const back = h("button.quiet", { type: "button", onclick: done }, "Back to sign in");
  card(main, title, "Send me a code", [
    h("label", {}, "Email", h("input", { name: "email", type: "email", autocomplete: "username", required: true, maxlength: 254 })),
  ], async ({ email }) => {
    const sent = await post("/auth/request-otp", { email, purpose });
    enterCode(main, purpose, email, sent, done);
  }, back);
}

function enterCode(main, purpose, email, sent, done) {
  const minutes = Math.round(sent.expires_in / 60);
  const back = h("button.quiet", { type: "button", onclick: () => withCode(main, purpose, done) }, "Send another code");
  card(main, "Enter the code", purpose === "login" ? "Sign in" : "Go on", [
    h("p", {}, `If ${email} can be used, a code of six digits is on its way to it. It is good for ${minutes} minutes, and only the newest one is.`),
    h("label", {}, "Code", h("input", { name: "code", inputmode: "numeric", autocomplete: "one-time-code", pattern: "\\s*[0-9]{6}\\s*", title: "six digits", required: true, maxlength: 16 })),
  ], async ({ code }) => {
    const proof = { email, purpose, code: code.trim() };
    if (purpose === "login") {
      try {
        await signIn("verify-otp", proof);
      } catch (problem) {
        if (!problem.challenge) throw problem;
        return askForCode(main, problem.challenge, done);
      }
      done();
    } else {
      const { reset_token: token } = await post("/auth/verify-otp", proof);
      setPassword(main, token, done);
    }
    return undefined;
  }, back);
}
