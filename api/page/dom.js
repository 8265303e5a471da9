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

export function ago(time) {
  if (!time) return "–";
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(time).toLocaleDateString();
}

export function duration(ms) {
  if (ms == null) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

export const skeleton = (rows) => h("div.pad", { "aria-busy": "true", "aria-label": "Loading" },
  ...Array.from({ length: rows }, () => h("p.skeleton")));

/** Runs `work` at most every `ms`, and once more after the last call. */
export function throttle(ms, work) {
  let timer = null;
  let again = false;
  return function run() {
    if (timer) { again = true; return; }
    work();
    timer = setTimeout(() => { timer = null; if (again) { again = false; run(); } }, ms);
  };
}
