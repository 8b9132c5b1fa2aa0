"use strict";
// Everything that the page shows passes through this file: data becomes text nodes here, and nothing else.

const DATA = JSON.parse(document.getElementById("data").textContent);

// Attributes that can hold neither an address, nor a style, nor code.
const ATTRIBUTES = new Set(
  (
    "class id type for role title tabindex hidden value min max step name scope colspan checked placeholder autocomplete " +
    "spellcheck open dir width height viewBox x y x1 x2 y1 y2 cx cy r d text-anchor dominant-baseline"
  ).split(" "),
);

// Characters that reorder, hide or overwrite what is around them, and halves of a surrogate pair.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e01ef}]|\p{Cs}/gu;

/** The name by which a hidden character is shown: \x1b, \u202e, \u{e0041}. */
function spelled(character) {
  const code = character.codePointAt(0);
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\u{${hex}}`;
}

/** Text with its hidden characters spelled out, for where only a string can stand. */
function plain(text) {
  return String(text).replace(HIDDEN, spelled);
}

/** Text as nodes, its hidden characters spelled out and set apart, so that a text cannot fake them. */
function nodes(text) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(HIDDEN)) {
    found.push(text.slice(end, match.index), make("span", { class: "control" }, spelled(match[0])));
    end = match.index + match[0].length;
  }
  return [...found, text.slice(end)].filter((part) => part !== "");
}

/** An object's own entry, never one that all objects inherit, whatever its name. */
function own(object, name) {
  return object && Object.hasOwn(object, name) ? object[name] : undefined;
}

/** Puts attributes, listeners (`onclick: function`) and children on an element. */
function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (!ATTRIBUTES.has(name) && !name.startsWith("aria-") && !name.startsWith("data-"))
      throw new Error(`attribute ${name}`);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : plain(value));
  }
  return fill(element, ...children);
}

/** Replaces an element's children; strings become text, null and false nothing. */
function fill(element, ...children) {
  element.replaceChildren(
    ...children
      .flat(Infinity)
      .filter((child) => child || child === 0)
      .flatMap((child) => (child instanceof Node ? child : textual(child))),
  );
  return element;
}

function textual(child) {
  const text = String(child);
  return text.search(HIDDEN) < 0 ? text : nodes(text);
}

/** An HTML element. */
function make(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** An SVG element. */
function draw(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** Text with what the pattern finds in it marked. */
function marked(text, pattern) {
  if (!pattern) return [text];
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    parts.push(text.slice(end, match.index), make("mark", {}, match[0]));
    end = match.index + match[0].length;
  }
  return [...parts, text.slice(end)];
}

/** What a user typed as a pattern that finds just that, whatever its case; null for nothing. */
function searching(query) {
  return query.trim() ? new RegExp(query.trim().replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu") : null;
}

/** Says something to a screen reader. */
function announce(text) {
  document.getElementById("announce").textContent = plain(text);
}

/** Calls `task` once its calls have paused. */
function settled(task, milliseconds = 120) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(task, milliseconds);
  };
}

/** Shows the floating hint beside an element, or hides it. */
function hint(element, ...children) {
  const box = document.getElementById("hint");
  box.hidden = !element;
  if (!element) return;
  fill(box, ...children);
  const at = element.getBoundingClientRect();
  const left = Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8);
  const below = at.bottom + box.offsetHeight + 10 < document.documentElement.clientHeight;
  box.style.left = `${Math.max(8, left)}px`;
  box.style.top = `${below ? at.bottom + 6 : at.top - box.offsetHeight - 6}px`;
}

/** A labelled choice of one among several, as radio buttons. */
function choice(label, name, options, chosen, change) {
  const buttons = options.map(([value, text]) => {
    const id = `${name}-${value}`;
    const input = make("input", {
      type: "radio",
      name,
      id,
      value,
      checked: value === chosen,
      onchange: () => change(value),
    });
    return [input, make("label", { for: id }, text)];
  });
  return make("fieldset", { class: "choice" }, make("legend", { class: "unseen" }, label), buttons);
}

/** A search field. */
function search(label, change) {
  const input = make("input", {
    type: "search",
    placeholder: label,
    "aria-label": label,
    autocomplete: "off",
    spellcheck: "false",
  });
  input.addEventListener(
    "input",
    settled(() => change(searching(input.value))),
  );
  return input;
}
