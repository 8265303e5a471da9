// One door to the API: tokens, refresh, problems, and positions, so that a read after a write sees it.

const KEY = "ledgerline.session";

/** A problem answer (RFC 9457) as an error that a person can read. */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || body?.title || `The server answered ${status}.`);
    this.status = status;
    this.errors = body?.errors ?? [];
    this.correlation = body?.correlation_id;
    this.challenge = body?.challenge;
  }
}

/** Whether the same request may well succeed in a moment. */
export const passes = (problem) => problem.status === 429 || problem.status === 503;

let session = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
let refreshing = null;
let signedOut = () => {};

export const user = () => session?.user ?? null;
export const accessToken = () => session?.access_token ?? null;
export const onSignedOut = (callback) => { signedOut = callback; };

function keep(tokens) {
  session = tokens;
  if (tokens) sessionStorage.setItem(KEY, JSON.stringify(tokens));
  else sessionStorage.removeItem(KEY);
}

async function answer(response) {
  if (response.status === 204) return null;
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, body);
  return body;
}

async function send(path, options, retry = true) {
  const headers = new Headers(options.headers);
  if (session) headers.set("Authorization", `Bearer ${session.access_token}`);
  let response;
  try {
    response = await fetch(`/api/v1${path}`, { ...options, headers });
  } catch {
    throw new Problem(0, { detail: "The server can't be reached. Check that it runs; this page goes on by itself when it is back." });
  }
  if (response.status === 401 && session && retry && await refresh()) return send(path, options, false);
  return answer(response);
}

/**
 * Renews the tokens; several callers at once share one renewal, because a refresh token is spent by its first use.
 * A refusal is the end of the session; a server that is away is not.
 */
export function refresh() {
  refreshing ??= fetch("/api/v1/auth/refresh", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ refresh_token: session?.refresh_token }),
  }).then(answer).then((tokens) => { keep(tokens); return true; }, (problem) => {
    if (problem.status >= 400 && problem.status < 500 && problem.status !== 429) {
      keep(null);
      signedOut();
    }
    return false;
  }).finally(() => { refreshing = null; });
  return refreshing;
}

/** Reads; with `position` the answer reflects at least that. */
export const get = (path, position) =>
  send(path, { headers: position ? { "Ledgerline-Min-Position": String(position) } : {} });

/** The first `wanted` items of a list, over as many pages as that takes. */
export async function list(path, wanted, position) {
  const items = [];
  let cursor = null;
  do {
    const limit = Math.min(200, wanted - items.length);
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}limit=${limit}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`, position);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < wanted);
  return { items, more: Boolean(cursor) };
}

/** Writes; the key makes a repeat of the same click harmless. */
export const post = (path, body = {}, key = crypto.randomUUID()) =>
  send(path, { method: "POST", headers: { "Content-Type": "application/json", "Idempotency-Key": key }, body: JSON.stringify(body) });

export async function signIn(path, body) {
  keep(null);
  keep(await send(`/auth/${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));
}

export async function signOut() {
  await post("/auth/logout", {}).catch(() => null);
  keep(null);
  signedOut();
}
