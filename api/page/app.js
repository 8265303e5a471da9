// The first page: sign in, see workflows and executions live, start, cancel, and read a run's whole history.

import { accessToken, onSignedOut, passes, signIn, signOut, user } from "./client.js";
import { h, problems } from "./dom.js";
import { connect, disconnect, onState } from "./live.js";
import { fromMail, join, setPassword, verify, waitingInvitation, withCode } from "./mail.js";
import { overview } from "./overview.js";
import { run } from "./run.js";
import { askForCode, providers, returned } from "./second-step.js";

const main = document.getElementById("main");
let leave = () => {};

let told = null;

export function say(problem) {
  told = problem;
  const notice = document.getElementById("notice");
  notice.hidden = !problem;
  notice.textContent = problem ? `${problem.message}${problem.correlation ? ` (reference ${problem.correlation})` : ""}` : "";
}

/** Takes back that the server is away or busy, when that was told last. */
export function recovered() {
  if (told && (told.status === 0 || passes(told))) say(null);
}

/** Runs what a button does: once at a time, with the keyboard kept on it, and a failure is told in words. */
export const act = (work) => async (event) => {
  const button = event.currentTarget;
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  try {
    say(null);
    await work();
  } catch (problem) {
    say(problem);
  } finally {
    button.removeAttribute("aria-disabled");
  }
};

function signInView(problem = null) {
  let registering = false;
  const errors = problems();
  const title = h("h1", {}, "Sign in");
  const name = h("label", { hidden: true }, "Full name", h("input", { name: "full_name", autocomplete: "name", maxlength: 255 }));
  const submit = h("button.primary", { type: "submit" }, "Sign in");
  const other = h("button.quiet", { type: "button", onclick: () => {
    registering = !registering;
    name.hidden = !registering;
    title.textContent = submit.textContent = registering ? "Create an account" : "Sign in";
    other.textContent = registering ? "I have an account" : "Create an account";
  } }, "Create an account");
  const form = h("form.card", { onsubmit: async (event) => {
    event.preventDefault();
    errors.show(null);
    submit.disabled = true;
    const fields = Object.fromEntries(new FormData(form));
    if (!registering) delete fields.full_name;
    try {
      await signIn(registering ? "register" : "login", fields);
      show();
    } catch (problem) {
      if (problem.challenge) askForCode(main, problem.challenge, show);
      else errors.show(problem);
    } finally {
      submit.disabled = false;
    }
  } }, title, name,
  h("label", {}, "Email", h("input", { name: "email", type: "email", autocomplete: "username", required: true })),
  h("label", {}, "Password", h("input", { name: "password", type: "password", autocomplete: "current-password", required: true, minlength: 12 })),
  errors.element, submit, other,
  h("button.quiet", { type: "button", onclick: () => withCode(main, "login", show) }, "Sign in with a code"),
  h("button.quiet", { type: "button", onclick: () => withCode(main, "reset", show) }, "Forgot your password?"),
  providers());
  main.replaceChildren(form);
  errors.show(problem);
  form.elements.email.focus();
}

/** Ends what another provider began: with a session, with the question for a code, or with what went wrong. */
async function comeBack({ challenge, problem }) {
  if (challenge) {
    try {
      await signIn("login/continue", { challenge });
      return show();
    } catch (failure) {
      if (failure.challenge) return askForCode(main, failure.challenge, show);
      problem = failure;
    }
  }
  show();
  return accessToken() ? say(problem) : signInView(problem);
}

function show() {
  leave();
  leave = () => {};
  say(null);
  const signedIn = Boolean(accessToken());
  for (const id of ["nav", "who", "sign-out", "live"]) document.getElementById(id).hidden = !signedIn;
  const mail = fromMail();
  if (mail) return { verify, reset: setPassword, invitation: join }[mail.what](main, mail.token, show);
  const invitation = waitingInvitation();
  if (invitation) return join(main, invitation, show);
  if (!signedIn) return signInView();
  document.title = "Ledgerline";
  document.getElementById("who").textContent = user()?.full_name || user()?.email || "";
  connect();
  const [, noun, id] = location.hash.slice(1).split("/");
  leave = noun === "executions" && id ? run(main, id) : overview(main);
  return undefined;
}

onState((open) => {
  const live = document.getElementById("live");
  live.classList.toggle("on", open);
  live.lastElementChild.textContent = open ? "live" : "reconnecting…";
});
onSignedOut(() => { disconnect(); show(); });
document.getElementById("sign-out").addEventListener("click", () => signOut());
addEventListener("hashchange", () => {
  show();
  scrollTo(0, 0);
  main.focus();
});
const back = returned();
if (back) comeBack(back);
else show();
