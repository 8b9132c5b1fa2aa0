// A list beside what it selects, and the texts and verdicts that both browsers show.

const ROWS = 300; // entries of a list; a search finds the others

/**
 * A list of items and the detail of the selected one. Arrow keys move through the list.
 *
 * `row(item)` gives an entry's contents, `detail(item)` what stands beside it, `key(item)` what tells items apart.
 * `show(items, empty)` puts items in the list and selects the one that was selected, else the first that `prefer`s, else the first.
 */
function listing(label, { row, detail, key, prefer = () => false }) {
  const id = label.toLowerCase().replace(/\W+/g, "-");
  const list = make("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": label });
  const beside = make("div", { class: "detail" });
  const node = make("div", { class: "browser" }, list, beside);
  let [shown, at] = [[], -1];

  const select = (index) => {
    at = index;
    [...list.children].forEach((child, i) => child.setAttribute("aria-selected", String(i === at)));
    if (at < 0) return void fill(beside);
    list.setAttribute("aria-activedescendant", `${id}-${at}`);
    fill(beside, detail(shown[at]));
  };
  const move = (event) => {
    const moves = {
      ArrowUp: at - 1,
      ArrowDown: at + 1,
      PageUp: at - 10,
      PageDown: at + 10,
      Home: 0,
      End: shown.length - 1,
    };
    if (!(event.key in moves) || !shown.length) return;
    event.preventDefault();
    select(Math.min(Math.max(moves[event.key], 0), shown.length - 1));
    list.children[at].scrollIntoView({ block: "nearest" });
  };
  const show = (items, empty) => {
    const before = at >= 0 ? key(shown[at]) : null;
    shown = items.slice(0, ROWS);
    const entries = shown.map((item, i) =>
      make("div", { class: "row", role: "option", id: `${id}-${i}`, onclick: () => select(i) }, row(item)),
    );
    const more = items.length - shown.length;
    fill(list, entries, more > 0 && make("p", { class: "note" }, `${grouped(more)} more; search to narrow them down`));
    list.scrollTop = 0;
    const index = [(item) => key(item) === before, prefer, () => true]
      .map((fits) => shown.findIndex(fits))
      .find((i) => i >= 0);
    select(index ?? -1);
    if (!shown.length) fill(beside, make("p", { class: "note" }, empty));
  };
  list.addEventListener("keydown", move);
  return { node, show, again: () => select(at) };
}

/** A short name for a prompt: what the user said last, on one line. */
function gist(text) {
  const short = text.replace(/\s+/g, " ").trim();
  return short.length > 140 ? `${short.slice(0, 140)}…` : short;
}

/** A sign for right, wrong, in between and not judged; never colour alone. */
function sign(kind) {
  const signs = { right: "✓", wrong: "✗", partial: "½", unjudged: "–" };
  return make("span", { class: `sign ${kind}`, title: kind, role: "img", "aria-label": kind }, signs[kind]);
}

/** The prompt's other columns. */
function columnList(columns, pattern) {
  const entries = Object.entries(columns);
  if (!entries.length) return null;
  return make(
    "dl",
    { class: "columns" },
    entries.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, marked(value, pattern)))),
  );
}

/** A text as it stands, its line breaks kept. */
function passage(text, pattern) {
  return make(
    "div",
    { class: "passage", dir: "auto" },
    text ? marked(text, pattern) : make("span", { class: "note" }, "(empty)"),
  );
}
