// One execution: its state, nodes, log lines and whole history, each new event as it is committed.

import { act, say } from "./app.js";
import { get, post } from "./client.js";
import { badge, duration, h, meter, skeleton, throttle } from "./dom.js";
import { subscribe } from "./live.js";

const OPEN = new Set(["pending", "queued", "running", "paused"]);
const pretty = (value) => h("pre.mono", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2));

function nodeRow(node) {
  return h("tr", {},
    h("td", {}, h("strong", {}, node.path), node.attempt > 1 ? h("span.soft.small", {}, ` attempt ${node.attempt}`) : null,
      node.error ? h("div.small", {}, node.error.message ?? JSON.stringify(node.error)) : null),
    h("td.tight", {}, badge(node.status)), h("td.number.tight", {}, duration(node.duration_ms)),
    h("td", {}, h("details", {}, h("summary", {}, "Input and output"), h("div.small.soft", {}, "Input"), pretty(node.input ?? null), h("div.small.soft", {}, "Output"), pretty(node.output ?? null))));
}

function eventRow(event, fresh) {
  const word = event.type.replace(/^ledgerline\.execution\./, "").replace(/\.v\d+$/, "").replaceAll("_", " ");
  return h(fresh ? "tr.fresh" : "tr", {},
    h("td.number.tight.mono", {}, String(event.position)), h("td.tight.soft.small.mono", {}, new Date(event.time).toISOString().slice(11, 23)),
    h("td", {}, h("details", {}, h("summary", {}, word, event.data?.path ? h("code", {}, ` ${event.data.path}`) : null), pretty(event.data))));
}

function head(execution, refresh) {
  const open = OPEN.has(execution.status);
  const command = (word, path, kind = "") => h(`button${kind}`, { type: "button", onclick: act(async () => {
    const answer = await post(`/executions/${execution.id}/${path}`);
    if (answer?.id && answer.id !== execution.id) location.hash = `#/executions/${answer.id}`;
    else refresh();
  }) }, word);
  return [
    h("header", {}, h("h1", {}, execution.workflow_name ?? "Execution"), badge(execution.status), execution.waiting ? badge("waiting") : null, h("span.spring"),
      h("div.row", {}, open && execution.status !== "paused" ? command("Pause", "pause") : null, execution.status === "paused" ? command("Resume", "resume", ".primary") : null,
        open ? command("Cancel", "cancel", ".danger") : null, execution.status === "failed" ? command("Retry from the failed step", "retry", ".primary") : null,
        open ? null : command("Run again", "rerun"))),
    h("div.pad", {}, h("dl.facts", {},
      h("div", {}, h("dt", {}, "Id"), h("dd.mono.small", {}, execution.id)),
      h("div", {}, h("dt", {}, "Version"), h("dd", {}, String(execution.workflow_version))),
      h("div", {}, h("dt", {}, "Requested"), h("dd", {}, new Date(execution.created_at).toLocaleString())),
      h("div", {}, h("dt", {}, open ? "Progress" : "Took"), h("dd", {}, open ? meter(execution.progress ?? 0, "Progress") : duration(execution.duration_ms)))),
    execution.error ? h("p", {}, badge("error"), " ", execution.error.message ?? JSON.stringify(execution.error)) : null,
    execution.output != null ? h("details", { open: true }, h("summary", {}, "Output"), pretty(execution.output)) : null),
  ];
}

/** Shows a run in `main`; returns what ends it. */
export function run(main, id) {
  const summary = h("section.panel", {}, skeleton(3));
  const nodes = h("div", {}, skeleton(3));
  const lines = h("pre.log", { tabindex: 0, role: "log", "aria-label": "Log lines" });
  const history = h("tbody", {});
  const count = h("span.soft.small", {});
  let position = null;
  let seen = 0;
  let printed = new Set();
  let gone = false;
  const ends = [];

  const refresh = throttle(200, async () => {
    try {
      const [execution, list] = await Promise.all([get(`/executions/${id}`, position), get(`/executions/${id}/nodes`, position)]);
      if (gone) return;
      summary.replaceChildren(...head(execution, refresh));
      const opened = new Set([...nodes.querySelectorAll("details[open]")].map((item) => item.closest("tr").firstChild.textContent));
      nodes.replaceChildren(h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, ...["Step", "Status", "Took", ""].map((word) => h("th", { scope: "col" }, word)))), h("tbody", {}, ...list.items.map(nodeRow)))));
      for (const item of nodes.querySelectorAll("details")) item.open = opened.has(item.closest("tr").firstChild.textContent);
    } catch (problem) {
      say(problem);
    }
  });

  function add(event, fresh) {
    if (event.position <= seen) return;
    seen = event.position;
    history.append(eventRow(event, fresh));
    count.textContent = `${history.childElementCount} events, each as it was committed`;
  }

  function print(line) {
    const key = `${line.claim}/${line.n}`;
    if (printed.has(key)) return;
    printed.add(key);
    const end = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 8;
    lines.append(h(`span.${line.level}`, {}, `${line.at.slice(11, 23)}  ${line.node ? `[${line.node}] ` : ""}${line.message}\n`));
    if (end) lines.scrollTop = lines.scrollHeight;
  }

  async function load() {
    try {
      refresh();
      let after = 0;
      for (;;) {
        const page = await get(`/executions/${id}/events?limit=200${after ? `&cursor=${encodeURIComponent(after)}` : ""}`);
        if (gone) return;
        page.items.forEach((event) => add(event, false));
        if (!page.next_cursor) break;
        after = page.next_cursor;
      }
      const printedSoFar = await get(`/executions/${id}/logs?limit=200`);
      printedSoFar.items.forEach(print);
      if (gone) return;
      ends.push(subscribe(`execution:${id}`, seen, (frame) => { position = frame.position; add(frame.event, true); refresh(); }));
      ends.push(subscribe(`logs:${id}`, null, (frame) => print(frame.line ?? frame)));
    } catch (problem) {
      say(problem);
    }
  }

  main.replaceChildren(h("p.small", {}, h("a", { href: "#/" }, "← All executions")), summary,
    h("section.panel", {}, h("header", {}, h("h2", {}, "Steps")), nodes),
    h("section.panel", {}, h("header", {}, h("h2", {}, "Log")), lines),
    h("section.panel", {}, h("header", {}, h("h2", {}, "History"), count), h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, ...["Position", "Time (UTC)", "Event"].map((word) => h("th", { scope: "col" }, word)))), history))));
  load();
  return () => { gone = true; ends.forEach((end) => end()); };
}
