// Workflows and executions, kept current by the socket.

import { act, recovered, say } from "./app.js";
import { get, list, passes, post } from "./client.js";
import { badge, dialog, duration, h, meter, relative, skeleton, sync, table, throttle } from "./dom.js";
import { onOpen, subscribe } from "./live.js";

const OPEN = new Set(["pending", "queued", "running", "paused"]);

const SAMPLE = {
  name: "Hello",
  description: "Greets whoever it is started for: input {\"name\": \"Ada\"}.",
  nodes: [
    { id: "start", type: "trigger.manual", config: {} },
    { id: "greet", type: "logic.transform", config: { expression: "{'greeting': 'Hello, ' + (has(input.name) ? input.name : 'world')}" } },
  ],
  connections: [{ from: "start", to: "greet" }],
  settings: {},
  tags: ["sample"],
};

const pretty = (value) => JSON.stringify(value, null, 2);

/** What a person typed, as JSON; what is wrong with it is said with its place. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
}

function newDialog(done) {
  const text = h("textarea.mono", { "aria-label": "Workflow as JSON", spellcheck: "false", autofocus: true });
  text.value = pretty(SAMPLE);
  const file = h("input", { type: "file", accept: ".json,application/json", "aria-label": "Open a workflow file", onchange: async () => { if (file.files[0]) text.value = await file.files[0].text(); } });
  dialog("New workflow", "Save workflow", [
    h("p.soft.small", {}, "Paste a workflow, or open a file from the examples folder. Everything wrong with it is listed at once."), file, text,
  ], async () => { await post("/workflows", parsed(text.value)); return done; });
}

/** The first JSON object in a description: how the author says what the input looks like. */
function exampleIn(description) {
  for (const [candidate] of (description ?? "").matchAll(/\{[^{}]*\}/g)) {
    try {
      return JSON.parse(candidate);
    } catch { /* Braces in prose. */ }
  }
  return null;
}

async function lastInput(workflow) {
  const [last] = (await get(`/executions?workflow_id=${workflow.id}&limit=1&sort=-created_at`)).items;
  return last ? (await get(`/executions/${last.id}`)).input : null;
}

function startDialog(workflow, done) {
  const input = h("textarea.mono.short", { "aria-label": "Input as JSON", spellcheck: "false", autofocus: true });
  input.value = "{}";
  const use = (word, value) => h("button", { type: "button", onclick: () => { input.value = pretty(value); input.focus(); } }, word);
  const example = exampleIn(workflow.description);
  const offers = h("div.row", {}, example ? use("Use the example", example) : null);
  dialog(`Start ${workflow.name}`, "Start", [
    h("p.soft.small", {}, workflow.description || "The input is what expressions see as ‘input’."), input, offers,
  ], async () => {
    const execution = await post(`/workflows/${workflow.id}/start`, { input: parsed(input.value) });
    return () => done(execution);
  });
  if (workflow.execution_count) {
    lastInput(workflow).then((last) => { if (last && Object.keys(last).length) offers.append(use("Use the last input", last)); }, () => {});
  }
}

function workflowRow(workflow, refresh) {
  return h("tr", {},
    h("td", {}, h("strong", {}, workflow.name), workflow.description ? h("div.soft.small.about", {}, workflow.description) : null),
    h("td.tight", {}, badge(workflow.status), workflow.intake === "inactive" ? null : h("span.wide", {}, " ", badge(workflow.intake))),
    h("td.number.wide", {}, String(workflow.execution_count ?? 0)),
    h("td.number.wide", {}, workflow.success_rate == null ? "–" : `${Math.round(workflow.success_rate * 100)} %`),
    h("td.tight", {}, h("button.primary", { type: "button", "aria-label": `Start ${workflow.name}`, onclick: () =>
      startDialog(workflow, (execution) => { refresh(); location.hash = `#/executions/${execution.id}`; }) }, "Start")));
}

function executionRow(execution, refresh) {
  const open = OPEN.has(execution.status);
  const name = execution.workflow_name ?? execution.workflow_id;
  return h("tr", {},
    h("td", {}, h("a", { href: `#/executions/${execution.id}` }, name), h("div.soft.small.mono", { title: execution.id }, execution.id.slice(0, 13)),
      execution.error ? h("div.small.bad.about", {}, execution.failed_node ? `${execution.failed_node}: ` : "", execution.error.message) : null),
    h("td.tight", {}, badge(execution.cancelling && open ? "cancelling" : execution.waiting && execution.status === "running" ? "waiting" : execution.status)),
    h("td.tight.wide", {}, open ? meter(execution.progress ?? 0, `Progress of ${name}`) : duration(execution.duration_ms)),
    h("td.tight.soft.small.wide", {}, relative(execution.created_at)),
    h("td.tight", {}, open ? h("button.danger", { type: "button", "aria-label": `Cancel ${name}`, onclick: act(async () => { await post(`/executions/${execution.id}/cancel`); refresh(); }) }, "Cancel") : null));
}

/** A list with a table, what stands there while it is empty, and a button for more of it. */
function panel({ noun, title, heads, size, empty, row, button }) {
  const body = h("tbody", {});
  const shown = table(heads, body, ["Actions"]);
  const place = h("div", {}, skeleton(4));
  const count = h("span.soft.small", {});
  let wanted = size;
  const more = h("button", { type: "button", onclick: () => { wanted += size; fill(); } }, `Load more ${noun}`);
  const foot = h("div.foot", { hidden: true }, more);
  let fill = () => {};
  return {
    element: h("section.panel", { "aria-labelledby": `${noun}-title` },
      h("header", {}, h("h2", { id: `${noun}-title` }, title), count, h("span.spring"), button ?? null), place, foot),
    filledBy: (refresh) => { fill = refresh; },
    read: (position) => list(`/${noun}?sort=-created_at`, wanted, position),
    show(answer) {
      sync(body, answer.items, (item) => item.id, row);
      const next = answer.items.length ? shown : empty;
      if (place.firstElementChild !== next || place.childElementCount !== 1) place.replaceChildren(next);
      count.textContent = answer.more ? `the newest ${answer.items.length}` : "";
      foot.hidden = !answer.more;
    },
  };
}

/** Shows both lists in `main`; returns what ends it. */
export function overview(main) {
  let position = null;
  let gone = false;
  const refresh = throttle(250, async () => {
    if (gone) return;
    try {
      const [flows, runs] = await Promise.all([workflows.read(position), executions.read(position)]);
      if (gone) return;
      workflows.show(flows);
      executions.show(runs);
      recovered();
    } catch (problem) {
      if (gone) return;
      say(problem);
      if (passes(problem)) setTimeout(refresh, 1000);
    }
  });
  const workflows = panel({
    noun: "workflows", title: "Workflows", size: 50, heads: ["Workflow", "State", "Runs#-", "Success#-", "Actions"], row: (item) => workflowRow(item, refresh),
    button: h("button", { type: "button", onclick: () => newDialog(refresh) }, "New workflow"),
    empty: h("div.empty", {}, h("p", {}, "No workflow yet. A workflow is a graph of steps that Ledgerline runs durably and shows live."),
      h("button.primary", { type: "button", onclick: act(async () => { await post("/workflows", SAMPLE); refresh(); }) }, "Create a sample")),
  });
  const executions = panel({
    noun: "executions", title: "Executions", size: 30, heads: ["Execution", "Status", "Progress-", "Requested-", "Actions"], row: (item) => executionRow(item, refresh),
    empty: h("div.empty", {}, "Nothing has run yet. Start a workflow and watch it here."),
  });
  for (const each of [workflows, executions]) each.filledBy(refresh);

  main.replaceChildren(h("h1.unseen", {}, "Overview"), workflows.element, executions.element);
  refresh();
  const heard = (frame) => { position = Math.max(position ?? 0, frame.position); refresh(); };
  const ends = [subscribe("workflows", null, heard), subscribe("executions", null, heard), onOpen(refresh)];
  return () => { gone = true; ends.forEach((end) => end()); };
}
