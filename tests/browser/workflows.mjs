// Workflows that the tests run.

const start = { id: "start", type: "trigger.manual", config: {} };
const wait = (id, ms) => ({ id, type: "logic.wait", config: { duration_ms: ms } });

const line = (name, ...nodes) => ({
  name,
  nodes: [start, ...nodes],
  connections: nodes.map((node, at) => ({ from: at ? nodes[at - 1].id : "start", to: node.id })),
});

/** Waits for longer than any test. */
export const endless = (name = "Long wait") => line(name, wait("pause", 3_600_000));

/** Waits `count` times for `ms`. */
export const steps = (name, count, ms) => line(name, ...Array.from({ length: count }, (_, at) => wait(`pause_${at + 1}`, ms)));

/** Fails at once and is tried again in a minute. */
export const retrying = line("Tries again", {
  id: "call",
  type: "action.command",
  config: { program: "no-such-program", args: [] },
  retry: { max_retries: 1, backoff_ms: [60_000], retry_on: ["permanent", "transient", "timeout"] },
});

/** Fails for good. */
export const failing = line("Fails", { ...retrying.nodes[1], retry: { max_retries: 0 } });

/** Wrong in several ways at once. */
export const broken = {
  name: "",
  nodes: [start, { id: "what", type: "no.such.kind", config: {} }, { id: "check", type: "logic.if", config: { condition: "(((" } }],
  connections: [{ from: "start", to: "nowhere" }],
};
