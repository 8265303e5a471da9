// Workflows and executions, kept current by the socket.

import { act, say } from "./app.js";
import { get, post } from "./client.js";
import { ago, badge, duration, h, meter, skeleton, throttle } from "./dom.js";
import { subscribe } from "./live.js";

const OPEN = new Set(["pending", "queued", "running", "paused"]);

const SAMPLE = {
  name: "Hello",
  description: "Greets whoever it is started for.",
  nodes: [
    { id: "start", type: "trigger.manual", config: {} },
    { id: "greet", type: "logic.transform", config: { expression: "{'greeting': 'Hello, ' + (has(input.name) ? input.name : 'world')}" } },
  ],
  connections: [{ from: "start", to: "greet" }],
  settings: {},
  tags: ["sample"],
};

function importDialog(done) {
  const errors = h("ul.errors", { role: "alert" });
  const text = h("textarea.mono", { "aria-label": "Workflow as JSON", spellcheck: "false" });
  text.value = JSON.stringify(SAMPLE, null, 2);
  const file = h("input", { type: "file", accept: ".json,application/json", "aria-label": "Open a workflow file", onchange: async () => { text.value = await file.files[0].text(); } });
  const save = h("button.primary", { type: "submit" }, "Save workflow");
  const dialog = h("dialog", { onclose: () => dialog.remove() }, h("form", { onsubmit: async (event) => {
    event.preventDefault();
    errors.replaceChildren();
    save.disabled = true;
    try {
      await post("/workflows", JSON.parse(text.value));
      dialog.close();
      done();
    } catch (problem) {
      const lines = problem.errors?.length ? problem.errors.map((error) => `${error.pointer || "/"}: ${error.detail}`) : [problem.message];
      errors.replaceChildren(...lines.map((line) => h("li", {}, line)));
    } finally {
      save.disabled = false;
    }
  } }, h("h2", {}, "New workflow"), h("p.soft.small", {}, "Paste a workflow, or open a file from the examples folder. Everything wrong with it is listed at once."),
  file, text, errors, h("div.row", {}, save, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  document.body.append(dialog);
  dialog.showModal();
}

function startDialog(workflow, done) {
  const errors = h("ul.errors", { role: "alert" });
  const input = h("textarea.mono", { "aria-label": "Input as JSON", spellcheck: "false" });
  input.value = "{}";
  input.style.minHeight = "120px";
  const start = h("button.primary", { type: "submit" }, "Start");
  const dialog = h("dialog", { onclose: () => dialog.remove() }, h("form", { onsubmit: async (event) => {
    event.preventDefault();
    start.disabled = true;
    try {
      const execution = await post(`/workflows/${workflow.id}/start`, { input: JSON.parse(input.value) });
      dialog.close();
      done(execution);
    } catch (problem) {
      errors.replaceChildren(h("li", {}, problem.message));
    } finally {
      start.disabled = false;
    }
  } }, h("h2", {}, `Start ${workflow.name}`), h("p.soft.small", {}, "The input is what expressions see as ‘input’."), input, errors,
  h("div.row", {}, start, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
}

function workflowRow(workflow, refresh) {
  return h("tr", {},
    h("td", {}, h("strong", {}, workflow.name), workflow.description ? h("div.soft.small", {}, workflow.description) : null),
    h("td.tight", {}, badge(workflow.status), " ", badge(workflow.intake)),
    h("td.number", {}, String(workflow.execution_count ?? 0)),
    h("td.number", {}, workflow.success_rate == null ? "–" : `${Math.round(workflow.success_rate * 100)} %`),
    h("td.tight", {}, h("button.primary", { type: "button", "aria-label": `Start ${workflow.name}`, onclick: () =>
      startDialog(workflow, (execution) => { refresh(); location.hash = `#/executions/${execution.id}`; }) }, "Start")));
}

function executionRow(execution, refresh) {
  const open = OPEN.has(execution.status);
  return h("tr", { "data-id": execution.id },
    h("td", {}, h("a", { href: `#/executions/${execution.id}` }, execution.workflow_name ?? execution.workflow_id), h("div.soft.small.mono", {}, execution.id.slice(0, 13))),
    h("td.tight", {}, badge(execution.waiting && execution.status === "running" ? "waiting" : execution.status)),
    h("td.tight", {}, open ? meter(execution.progress ?? 0, `Progress of ${execution.workflow_name}`) : duration(execution.duration_ms)),
    h("td.tight.soft.small", { title: execution.created_at }, ago(execution.created_at)),
    h("td.tight", {}, open ? h("button.danger", { type: "button", onclick: act(async () => { await post(`/executions/${execution.id}/cancel`); refresh(); }) }, "Cancel") : null));
}

const table = (heads, rows) => h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))), h("tbody", {}, ...rows)));

/** Shows both lists in `main`; returns what ends it. */
export function overview(main) {
  const workflows = h("div", {}, skeleton(4));
  const executions = h("div", {}, skeleton(6));
  let position = null;
  let ends = [];
  let gone = false;

  async function load() {
    try {
      const [flows, runs] = await Promise.all([get("/workflows?limit=50&sort=-created_at", position), get("/executions?limit=30&sort=-created_at", position)]);
      if (gone) return;
      workflows.replaceChildren(flows.items.length
        ? table(["Workflow", "State", "Runs", "Success", ""], flows.items.map((item) => workflowRow(item, refresh)))
        : h("div.empty", {}, h("p", {}, "No workflow yet. A workflow is a graph of steps that Ledgerline runs durably and shows live."),
          h("button.primary", { type: "button", onclick: act(async () => { await post("/workflows", SAMPLE); refresh(); }) }, "Create a sample")));
      executions.replaceChildren(runs.items.length
        ? table(["Execution", "Status", "Progress", "Requested", ""], runs.items.map((item) => executionRow(item, refresh)))
        : h("div.empty", {}, "Nothing has run yet. Start a workflow and watch it here."));
    } catch (problem) {
      say(problem);
    }
  }
  const refresh = throttle(250, load);

  main.replaceChildren(
    h("section.panel", { "aria-labelledby": "workflows-title" }, h("header", {}, h("h2", { id: "workflows-title" }, "Workflows"), h("span.spring"),
      h("button", { type: "button", onclick: () => importDialog(refresh) }, "New workflow")), workflows),
    h("section.panel", { "aria-labelledby": "executions-title" }, h("header", {}, h("h2", { id: "executions-title" }, "Executions")), executions));
  load();
  const heard = (frame) => { position = Math.max(position ?? 0, frame.position); refresh(); };
  ends = [subscribe("workflows", null, heard), subscribe("executions", null, heard)];
  return () => { gone = true; ends.forEach((end) => end()); };
}
