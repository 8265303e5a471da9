// A worker for `integration.worker` steps: takes tasks of a queue, does them, reports. Every type is inferred, so that node 20 or later
// runs the file as it is, with nothing to install and nothing to build:
//
//   LEDGERLINE_URL=http://127.0.0.1:8080 LEDGERLINE_TOKEN=… QUEUE=greetings node --input-type=module < worker.ts

const env = process.env;
const base = `${env.LEDGERLINE_URL ?? "http://127.0.0.1:8080"}/api/v1/worker-tasks`;
const headers = new Headers({ authorization: `Bearer ${env.LEDGERLINE_TOKEN}`, "content-type": "application/json" });
if (env.LEDGERLINE_WORKSPACE) headers.set("ledgerline-workspace", env.LEDGERLINE_WORKSPACE);

async function call(path = "", body = {}) {
  const answer = await fetch(`${base}/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
  return answer.json();
}

/** What your steps do: the input of the step in, its output out. What is thrown is a failure that may pass. */
async function work(input = { name: "" }) {
  return { greeting: `Hello, ${input.name}`, by: "typescript" };
}

for (;;) {
  const polled = await call("poll", { queue: env.QUEUE ?? "greetings", wait_ms: 20_000, worker: `typescript-${process.pid}` });
  const task = polled.task;
  if (!task) continue;
  const lease = task.lease;
  // 409: the task is somebody else's by now, and so is its outcome.
  const beat = setInterval(() => call(`${task.id}/heartbeat`, { lease }).catch(console.error), task.heartbeat_timeout_ms / 3);
  try {
    const output = await work(task.input);
    await call(`${task.id}/complete`, { lease, output }).catch(console.error);
  } catch (error) {
    await call(`${task.id}/fail`, { lease, error: { kind: "transient", message: String(error) } });
  } finally {
    clearInterval(beat);
  }
}
