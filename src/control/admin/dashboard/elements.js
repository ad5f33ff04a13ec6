/* ---- elements; text is only ever set as text ---- */

const SVG = "http:" + "//www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const svg = ["svg", "polyline", "rect"].includes(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/* Makes `old` like `next` with as few changes as possible, so that what is focused, open or selected stays so. */
function patch(old, next) {
  if (old.nodeName !== next.nodeName) return old.replaceWith(next);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name, value } of [...next.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  patchChildren(old, [...next.childNodes]);
}

/* Children with a key stay the element of that key, wherever they stand; the others are compared by their places. */
function patchChildren(parent, next) {
  const key = (node) => node.dataset?.key;
  const wanted = new Set(next.map(key));
  const kept = new Map();
  for (const child of [...parent.childNodes]) {
    if (key(child) === undefined) continue;
    if (wanted.has(key(child))) kept.set(key(child), child);
    else child.remove();
  }
  let at = parent.firstChild;
  for (const child of next) {
    const same = key(child) !== undefined ? kept.get(key(child)) : at !== null && key(at) === undefined ? at : undefined;
    if (same === undefined) {
      parent.insertBefore(child, at);
      continue;
    }
    if (same === at) at = at.nextSibling;
    else parent.insertBefore(same, at);
    patch(same, child);
  }
  while (at !== null) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

const figure = (name, value, note = null, extra = null, attributes = {}) =>
  make("div", attributes, make("dt", {}, name),
    make("dd", {}, value, note === null ? null : make("small", {}, note)), extra);

/* A part of a whole, for the eye only: the text beside it says the same. */
function bar(share, kind = "") {
  return make("svg", { class: "bar " + kind, viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" },
    make("rect", { width: "100", height: "1" }),
    make("rect", { width: (Math.min(Math.max(share, 0), 1) * 100).toFixed(1), height: "1" }));
}

function curve(points) {
  const top = Math.max(...points, 1);
  const places = points.map((n, index) => `${CURVE_POINTS - points.length + index},${(23 - (22 * n) / top).toFixed(1)}`);
  return make("svg", { viewBox: `0 0 ${CURVE_POINTS - 1} 24`, preserveAspectRatio: "none", "aria-hidden": "true" },
    make("polyline", { points: places.join(" ") }));
}

/* What a screen reader says of changes: what came together is one sentence, and never more than one in five seconds. */
const SPOKEN_MS = 5000, SPOKEN_MAX = 3;
let unsaid = [], saying = null;

function say(text) {
  unsaid.push(text);
  saying ??= setTimeout(() => {
    const more = unsaid.length - SPOKEN_MAX;
    byId("spoken").textContent = unsaid.slice(0, SPOKEN_MAX).join(". ") + (more > 0 ? `. And ${more} more changes.` : ".");
    unsaid = [];
    saying = null;
  }, SPOKEN_MS);
}
