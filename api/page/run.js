// One execution: its state, steps, log lines and whole history, each new event as it is committed.

import { act, recovered, say } from "./app.js";
import { get, list, passes, post } from "./client.js";
import { announce, badge, duration, h, meter, relative, skeleton, sync, table, throttle } from "./dom.js";
import { onOpen, subscribe } from "./live.js";

const OPEN = new Set(["pending", "queued", "running", "paused"]);
const LINES = 5_000; // that stay in the page
const STEPS = 100; // more come a button's press at a time
const pretty = (value) => h("pre.mono", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2));
const told = (error) => error?.message ?? JSON.stringify(error);

function stepRow(step) {
  const earlier = (step.failed_attempts ?? []).filter((failed) => failed.attempt < step.attempt || step.status === "retrying");
  return h("tr", {},
    h("td", {}, h("details", {}, h("summary", {}, h("strong", {}, step.path), step.attempt > 1 ? h("span.soft.small", {}, ` attempt ${step.attempt}`) : null),
      earlier.length ? [h("div.small.soft", {}, "Failed attempts"), h("ol.small", {}, ...earlier.map((failed) =>
        h("li", { value: failed.attempt }, `${told(failed.error)} (${failed.error?.kind ?? "error"}, `, relative(failed.finished_at), ")")))] : null,
      h("div.small.soft", {}, "Input"), pretty(step.input ?? null), h("div.small.soft", {}, "Output"), pretty(step.output ?? null)),
    step.error ? h("div.small.bad", {}, step.error.kind ? `${step.error.kind}: ` : "", told(step.error)) : null,
    step.retry_at ? h("div.small.soft", {}, "tries again ", relative(step.retry_at)) : null,
    step.wait_until ? h("div.small.soft", {}, "goes on ", relative(step.wait_until)) : null),
    h("td.tight", {}, badge(step.status)), h("td.number.tight", {}, duration(step.duration_ms)));
}

function eventRow(event, fresh) {
  const word = event.type.replace(/^ledgerline\.execution\./, "").replace(/\.v\d+$/, "").replaceAll("_", " ");
  return h(fresh ? "tr.fresh" : "tr", { "data-position": event.position },
    h("td.number.tight.mono", {}, String(event.position)),
    h("td.tight.soft.small.mono", { title: event.time }, new Date(event.time).toISOString().slice(11, 23)),
    h("td", {}, h("details", {}, h("summary", {}, word, event.data?.path ? h("code", {}, ` ${event.data.path}`) : null), pretty(event.data)),
      event.data?.error ? h("div.small.bad", {}, told(event.data.error)) : null),
    h("td.tight.soft.small.wide", { title: event.actor }, (event.actor ?? "").split(":")[0] === "human" ? "a person" : (event.actor ?? "").replace(/^system:/, "")));
}

const fact = (term, ...value) => h("div", {}, h("dt", {}, term), h("dd", {}, ...value));

function waiting(execution) {
  if (execution.waits_for?.kind === "timers") return fact("Goes on", relative(execution.waits_for.next_due_at));
  return execution.explanation ? fact("Waits", execution.explanation) : null;
}

function head(execution, refresh) {
  const open = OPEN.has(execution.status);
  const command = (word, path, kind = "") => h(`button${kind}`, { type: "button", onclick: act(async () => {
    const answer = await post(`/executions/${execution.id}/${path}`);
    if (answer?.id && answer.id !== execution.id) location.hash = `#/executions/${answer.id}`;
    else refresh();
  }) }, word);
  return h("div", {},
    h("header", {}, h("h1", {}, execution.workflow_name ?? "Execution"), badge(execution.status), open && execution.cancelling ? badge("cancelling") : open && execution.waiting ? badge("waiting") : null, h("span.spring"),
      h("div.row", {}, open && execution.status !== "paused" ? command("Pause", "pause") : null, execution.status === "paused" ? command("Resume", "resume", ".primary") : null,
        open ? command("Cancel", "cancel", ".danger") : null, execution.status === "failed" ? command("Retry from the failed step", "retry", ".primary") : null,
        open ? null : command("Run again", "rerun"))),
    h("div.pad", {}, h("dl.facts", {},
      fact("Id", h("span.mono.small", {}, execution.id)),
      fact("Version", String(execution.workflow_version)),
      fact("Requested", relative(execution.created_at)),
      open ? fact("Progress", meter(execution.progress ?? 0, "Progress")) : fact("Took", duration(execution.duration_ms)),
      open ? waiting(execution) : null),
    execution.error ? h("p.bad", {}, execution.failed_node ? h("strong", {}, `${execution.failed_node}: `) : null, told(execution.error), execution.error.kind ? ` (${execution.error.kind})` : "") : null,
    execution.cancel_reason ? h("p", {}, `Cancelled: ${execution.cancel_reason}`) : null,
    execution.input != null && Object.keys(execution.input).length ? h("details", {}, h("summary", {}, "Input"), pretty(execution.input)) : null,
    execution.output != null ? h("details", { open: true }, h("summary", {}, "Output"), pretty(execution.output)) : null));
}

/** Shows a run in `main`; returns what ends it. */
export function run(main, id) {
  const summary = h("section.panel", { "aria-label": "Execution" }, skeleton(3));
  const steps = h("tbody", {});
  const more = h("button", { type: "button", onclick: () => { wanted += STEPS; refresh(); } }, "Load more steps");
  const foot = h("div.foot", { hidden: true }, more);
  const log = h("pre.log", { tabindex: 0, role: "log", "aria-label": "Log lines" });
  const history = h("tbody", {});
  const count = h("span.soft.small", {});
  const ends = [];
  let wanted = STEPS;
  let position = null;
  let seen = 0;
  let printed = [0, 0];
  let status = null;
  let gone = false;
  let loading = false; // or done

  const refresh = throttle(200, async () => {
    if (gone) return;
    try {
      const [execution, page] = await Promise.all([get(`/executions/${id}`, position), list(`/executions/${id}/nodes`, wanted, position)]);
      if (OPEN.has(execution.status) && execution.waits_for && execution.waits_for.kind !== "timers") {
        execution.explanation = (await get(`/executions/${id}/why`)).explanation;
      }
      if (gone) return;
      const name = execution.workflow_name ?? "Execution";
      document.title = `${name} · ${execution.status} · Ledgerline`;
      if (status && status !== execution.status) announce(`${name}: ${execution.status}`);
      status = execution.status;
      sync(summary, [execution], (item) => item.id, (item) => head(item, refresh));
      sync(steps, page.items, (step) => step.path, stepRow);
      foot.hidden = !page.more;
      recovered();
    } catch (problem) {
      if (gone) return;
      say(problem);
      if (passes(problem)) setTimeout(refresh, 1000);
    }
  });

  function add(event, fresh) {
    if (event.position <= seen) return;
    seen = event.position;
    history.append(eventRow(event, fresh));
    count.textContent = `${history.childElementCount} events, each as it was committed`;
  }

  function print({ line }) {
    if (!line) return;
    const [claim, n] = printed;
    if (line.claim < claim || (line.claim === claim && line.n <= n)) return;
    printed = [line.claim, line.n];
    const end = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    log.append(h(`span.${line.level}`, {}, `${line.at.slice(11, 23)}  ${line.node ? `[${line.node}] ` : ""}${line.message}\n`));
    if (log.childElementCount > LINES) log.firstElementChild.remove();
    if (end) log.scrollTop = log.scrollHeight;
  }

  /** The history so far, then what follows on it; a line that breaks in between is taken up where it broke. */
  async function load() {
    if (loading) return;
    loading = true;
    try {
      let cursor = null;
      do {
        const page = await get(`/executions/${id}/events?limit=200${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
        if (gone) return;
        page.items.forEach((event) => add(event, false));
        cursor = page.next_cursor;
      } while (cursor);
      ends.push(subscribe(`execution:${id}`, seen, (frame) => {
        position = frame.position;
        if (frame.event) add(frame.event, true);
        refresh();
      }));
      ends.push(subscribe(`logs:${id}`, null, print));
    } catch (problem) {
      loading = false;
      if (!gone) say(problem);
    }
  }

  main.replaceChildren(h("p.small.back", {}, h("a", { href: "#/" }, "← All executions")), summary,
    h("section.panel", { "aria-labelledby": "steps-title" }, h("header", {}, h("h2", { id: "steps-title" }, "Steps")), table(["Step", "Status", "Took#"], steps), foot),
    h("section.panel", { "aria-labelledby": "log-title" }, h("header", {}, h("h2", { id: "log-title" }, "Log")), log),
    h("section.panel", { "aria-labelledby": "history-title" }, h("header", {}, h("h2", { id: "history-title" }, "History"), count), table(["Position#", "Time (UTC)", "Event", "By-"], history)));
  refresh();
  load();
  ends.push(onOpen(() => { refresh(); load(); }));
  return () => { gone = true; ends.forEach((end) => end()); };
}
