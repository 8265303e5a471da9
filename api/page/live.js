// One socket for the page. It resumes every channel after the last position it saw, so a gap on the line is no gap in the data.

import { say } from "./app.js";
import { accessToken, refresh } from "./client.js";

const SIGNED_OUT = 4401; // the close code when the session is over

const TOLD = new Set(["event", "log", "caught_up"]);

const channels = new Map(); // channel -> { after, handle }
let socket = null;
let log = null; // which log, and how often it was restored
let delay = 250;
let state = () => {};

export const onState = (callback) => { state = callback; };

const opened = new Set();

/** Calls back each time the socket stands (again); returns the function that ends it. */
export function onOpen(callback) {
  opened.add(callback);
  return () => opened.delete(callback);
}

/**
 * Calls `handle(frame)` for every event or line after `after`, and when all that there was has come: from there on a read
 * that is older than what was told is not the newest. Returns the function that ends it.
 */
export function subscribe(channel, after, handle) {
  channels.set(channel, { after, handle });
  if (socket?.readyState === WebSocket.OPEN) ask(channel);
  return () => {
    channels.delete(channel);
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ action: "unsubscribe", channel }));
  };
}

function ask(channel) {
  const { after } = channels.get(channel);
  socket.send(JSON.stringify(after == null ? { action: "subscribe", channel } : { action: "subscribe", channel, after }));
}

export function connect() {
  if (socket || !accessToken()) return;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/api/v1/ws`, ["ledgerline.v1", `bearer.${accessToken()}`]);
  socket.onopen = () => {
    delay = 250;
    state(true);
    for (const channel of channels.keys()) ask(channel);
    for (const callback of opened) callback();
  };
  socket.onmessage = (message) => {
    const frame = JSON.parse(message.data);
    if (frame.type === "connected") {
      // Restored from a backup meanwhile: what the page shows may never have happened.
      if (log && log !== frame.log) return location.reload();
      log = frame.log;
    }
    const channel = channels.get(frame.channel);
    if (!channel) return;
    if (frame.position != null || frame.cursor != null) channel.after = frame.position ?? frame.cursor;
    if (frame.type === "error") say(new Error(frame.detail));
    if (TOLD.has(frame.type)) channel.handle(frame);
  };
  socket.onclose = async (close) => {
    socket = null;
    state(false);
    if (!accessToken()) return;
    await new Promise((wake) => setTimeout(wake, delay * (0.5 + Math.random())));
    delay = Math.min(delay * 2, 5_000);
    // A refused handshake looks like a server that is away: the token may have run out meanwhile.
    if (delay > 1_000 || close.code === SIGNED_OUT) await refresh();
    connect();
  };
}

export function disconnect() {
  channels.clear();
  socket?.close(1000);
}
