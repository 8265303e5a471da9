// Elements without a framework: text is always text, never markup.

/** `h("td.number", {title}, child, …)`; properties that begin with `on` are listeners. */
export function h(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export const badge = (word) => h(`span.badge.${word}`, {}, String(word).replaceAll("_", " "));

export function meter(fraction, label) {
  const bar = h("span", {});
  bar.style.width = `${Math.round(100 * fraction)}%`;
  return h("span.meter", { role: "progressbar", "aria-valuenow": Math.round(100 * fraction), "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": label }, bar);
}

function distance(time) {
  const seconds = (Date.parse(time) - Date.now()) / 1000;
  const size = Math.abs(seconds);
  const words = size < 60 ? `${Math.floor(size)} s` : size < 3600 ? `${Math.floor(size / 60)} min` : size < 86_400 ? `${Math.floor(size / 3600)} h` : null;
  if (!words) return new Date(time).toLocaleDateString();
  return seconds > 0 ? `in ${words}` : `${words} ago`;
}

/** A time as its distance from now, which goes on by itself. */
export const relative = (time) => (time
  ? h("time", { datetime: time, title: new Date(time).toLocaleString(), "data-relative": true }, distance(time))
  : h("span", {}, "–"));

setInterval(() => {
  for (const element of document.querySelectorAll("time[data-relative]")) {
    const words = distance(element.dateTime);
    if (element.textContent !== words) element.textContent = words;
  }
}, 1000);

export function duration(ms) {
  if (ms == null) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

export const skeleton = (rows) => h("div.pad", { "aria-busy": "true", "aria-label": "Loading" },
  ...Array.from({ length: rows }, () => h("p.skeleton")));

/** A table whose heads are words; one that ends in `#` stands over numbers, one in `-` is left out on a narrow screen. */
export const table = (heads, body, hidden = []) => h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((head) => {
  const classes = `${head.includes("#") ? ".number" : ""}${head.includes("-") ? ".wide" : ""}`;
  const word = head.replace(/[#-]/g, "");
  return h(`th${classes}`, { scope: "col" }, hidden.includes(word) ? h("span.unseen", {}, word) : word);
}))), body));

const focusable = (element) => [...element.querySelectorAll("a[href], button, summary, input, textarea")];

/** Puts `fresh` where `old` is: what is open stays open, and the keyboard stays where it was. */
function swap(old, fresh) {
  const open = [...old.querySelectorAll("details")].map((details) => details.open);
  if (open.length) fresh.querySelectorAll("details").forEach((details, at) => { details.open = open[at] ?? details.open; });
  const before = focusable(old);
  const at = before.indexOf(document.activeElement);
  const words = document.activeElement?.textContent;
  old.replaceWith(fresh);
  if (at < 0) return;
  const after = focusable(fresh);
  (after.find((element) => element.textContent === words) ?? after[Math.min(at, after.length - 1)])?.focus({ preventScroll: true });
}

/** Makes the children of `parent` those of `items`, in their order, and builds only those that changed. */
export function sync(parent, items, keyOf, build) {
  const keys = new Set(items.map((item) => String(keyOf(item))));
  const known = new Map();
  for (const child of [...parent.children]) {
    if (keys.has(child.dataset.key)) known.set(child.dataset.key, child);
    else child.remove();
  }
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    const state = JSON.stringify(item);
    let child = known.get(key);
    if (child?.state !== state) {
      const fresh = build(item);
      fresh.dataset.key = key;
      fresh.state = state;
      if (at === child) at = fresh;
      if (child) swap(child, fresh);
      child = fresh;
    }
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
}

/** Runs `work` at most every `ms` and never twice at a time, and once more after the last call. */
export function throttle(ms, work) {
  let busy = false;
  let again = false;
  return async function run() {
    if (busy) { again = true; return; }
    busy = true;
    do {
      again = false;
      await work();
      await new Promise((wake) => setTimeout(wake, ms));
    } while (again);
    busy = false;
  };
}

/** Says it to those who do not see the page change. */
export function announce(words) {
  document.getElementById("announce").textContent = words;
}

/** Shows a dialog with a form; Escape closes it, and the keyboard goes back to where it came from. */
export function dialog(title, submitWord, content, submit) {
  const from = document.activeElement;
  const key = from?.closest("[data-key]")?.dataset.key;
  const errors = problems();
  const save = h("button.primary", { type: "submit" }, submitWord);
  const element = h("dialog", { "aria-label": title, onclose: () => {
    element.remove();
    const back = from?.isConnected ? from : key && [...document.querySelectorAll(`[data-key="${CSS.escape(key)}"] button`)].find((button) => button.textContent === from.textContent);
    back?.focus();
  } }, h("form", { onsubmit: async (event) => {
    event.preventDefault();
    if (save.disabled) return;
    errors.show(null);
    save.disabled = true;
    try {
      const done = await submit();
      element.close();
      done?.();
    } catch (problem) {
      errors.show(problem);
    } finally {
      save.disabled = false;
    }
  } }, h("h2", {}, title), ...content, errors.element, h("div.row", {}, save, h("button", { type: "button", onclick: () => element.close() }, "Cancel"))));
  document.body.append(element);
  element.showModal();
}

/** A place that tells everything a problem names, a line each. */
export function problems() {
  const list = h("ul.errors");
  const lines = (problem) => (problem.errors?.length
    ? problem.errors.map((error) => `${error.pointer || "/"}: ${error.detail}`) : [problem.message]);
  return {
    element: h("div", { role: "alert" }, list),
    show: (problem) => list.replaceChildren(...(problem ? lines(problem).map((line) => h("li", {}, line)) : [])),
  };
}
