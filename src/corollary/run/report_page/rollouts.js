// The answers that a run was trained on: a step, a prompt, its group side by side, each token with its log-probability.

const SHADES = 8;
const steps = [...new Set(DATA.rollouts.groups.map((group) => group.step))].sort((a, b) => a - b);
const asked = { at: steps.length - 1, filter: "all", pattern: null, coloured: true };

/** Fills the section of rollouts. */
function rollouts() {
  const body = document.getElementById("rollouts-body");
  if (!steps.length) return fill(body, make("p", { class: "note" }, "No rollout has been recorded yet."));
  const browser = listing("Prompts of this step", {
    row: groupRow,
    detail: groupDetail,
    key: (group) => group.prompt_id,
    prefer: isMixed,
  });
  const found = make("p", { class: "found", role: "status" });
  const refresh = () => {
    const groups = matching();
    browser.show(groups, "No group fits this filter.");
    fill(found, tally(groups));
  };
  const change = (changes) => {
    Object.assign(asked, changes);
    refresh();
  };
  const filters = [
    ["all", "All"],
    ["mixed", "Mixed groups"],
    ["wrong", "Wrong"],
    ["right", "Right"],
  ];
  fill(
    body,
    make("p", { class: "caption" }, rolloutsCaption()),
    make(
      "div",
      { class: "controls" },
      stepper(change),
      choice("Answers to show", "answers", filters, asked.filter, (filter) => change({ filter })),
      search("Search prompts and answers of every step", (pattern) => change({ pattern })),
      colouring(() => browser.again()),
    ),
    found,
    browser.node,
  );
  return refresh();
}

function rolloutsCaption() {
  const { groups, groups_total, steps_shown, steps_total, unreadable } = DATA.rollouts;
  return [
    `Here are ${some(steps_shown, steps_total, "step")} and ${some(groups.length, groups_total, "group")}`,
    groups.length < groups_total
      ? ", evenly spaced, the first and the last among them; the others are in rollouts.jsonl."
      : ".",
    unreadable ? ` ${count(unreadable, "line")} could not be read.` : "",
    " A group is the answers that one prompt drew; it teaches something only where its rewards differ.",
  ];
}

/** The slider that picks a step. */
function stepper(change) {
  const slider = make("input", {
    type: "range",
    id: "step",
    min: 0,
    max: steps.length - 1,
    step: 1,
    value: asked.at,
    "aria-label": "Step",
  });
  const label = make("output", { for: "step" });
  const go = (at) => {
    const to = Math.min(Math.max(at, 0), steps.length - 1);
    slider.value = String(to);
    slider.setAttribute("aria-valuetext", `step ${steps[to]}`);
    fill(label, "step ", make("b", {}, grouped(steps[to])));
    change({ at: to });
  };
  slider.addEventListener("input", () => go(Number(slider.value)));
  const button = (text, name, by) =>
    make("button", { type: "button", "aria-label": name, onclick: () => go(asked.at + by) }, text);
  fill(label, "step ", make("b", {}, grouped(steps[asked.at])));
  return make(
    "div",
    { class: "stepper" },
    button("‹", "Earlier step", -1),
    slider,
    button("›", "Later step", 1),
    label,
  );
}

/** The switch of the tokens' colours. */
function colouring(change) {
  const box = make("input", { type: "checkbox", id: "coloured", checked: asked.coloured });
  box.addEventListener("change", () => {
    asked.coloured = box.checked;
    change();
  });
  return make("label", { for: "coloured" }, box, " Colour tokens");
}

/** The groups of the step, or while searching of every step, that the filter lets through. */
function matching() {
  const groups = asked.pattern
    ? DATA.rollouts.groups.filter(mentions)
    : DATA.rollouts.groups.filter((group) => group.step === steps[asked.at]);
  return groups.filter((group) =>
    asked.filter === "mixed" ? isMixed(group) : wanted(group).length > 0 || asked.filter === "all",
  );
}

function mentions(group) {
  return [asking(group), group.prompt_id, ...group.answers.map(wording)].some(
    (text) => text.search(asked.pattern) >= 0,
  );
}

function isMixed(group) {
  return new Set(group.answers.map((answer) => answer.reward).filter((reward) => reward !== null)).size > 1;
}

/** A group's answers that the filter lets through. */
function wanted(group) {
  if (asked.filter === "right") return group.answers.filter((answer) => graded(answer) === "right");
  if (asked.filter === "wrong") return group.answers.filter((answer) => ["wrong", "partial"].includes(graded(answer)));
  return group.answers;
}

/** right, wrong, partial (some reward, but not the full mark) or unjudged. */
function graded(answer) {
  if (answer.reward === null) return "unjudged";
  if (answer.passed ?? answer.reward >= DATA.full_mark - 1e-6) return "right";
  return answer.reward > 0 ? "partial" : "wrong";
}

const wording = (answer) => answer.text ?? answer.tokens.join("");

/** What a group was asked: the last message, or the prompt. */
function asking(group) {
  return group.messages.at(-1)?.content ?? group.prompt;
}

function tally(groups) {
  const answers = groups.reduce((sum, group) => sum + wanted(group).length, 0);
  const where = asked.pattern
    ? `in ${some(steps.length, steps.length, "shown step")}`
    : `at step ${grouped(steps[asked.at])}`;
  return `${count(answers, "answer")} in ${count(groups.length, "group")} ${where}`;
}

/** An entry of the list: the prompt, and a cell for each answer. */
function groupRow(group) {
  const right = group.answers.filter((answer) => graded(answer) === "right").length;
  return [
    make("span", { class: "gist", dir: "auto" }, marked(gist(asking(group)), asked.pattern)),
    make(
      "span",
      { class: "under" },
      make(
        "span",
        { class: "cells", role: "img", "aria-label": `${right} of ${group.answers.length} right` },
        group.answers.map((answer) => make("span", { class: `cell ${graded(answer)}` })),
      ),
      make(
        "span",
        { class: "where" },
        asked.pattern ? `step ${grouped(group.step)} · ` : "",
        `${right}/${group.answers.length}`,
      ),
    ),
  ];
}

/** A group in full. */
function groupDetail(group) {
  const answers = wanted(group);
  const widest = Math.max(
    0.1,
    ...group.answers.map((answer) => Math.abs(finite(answer.advantage) ? answer.advantage : 0)),
  );
  const left = group.answers.length - answers.length;
  return [
    make("p", { class: "ident" }, `${group.prompt_id || "prompt"} · step ${grouped(group.step)}`),
    group.messages.map(({ role, content }) =>
      make("div", { class: "message" }, make("span", { class: "role" }, role), passage(content, asked.pattern)),
    ),
    group.messages.length ? null : passage(group.prompt, asked.pattern),
    columnList(group.columns, asked.pattern),
    group.messages.length && group.prompt
      ? make("details", {}, make("summary", {}, "As the model read it"), passage(group.prompt))
      : null,
    make(
      "div",
      { class: "answers-head" },
      make("h3", {}, `${count(answers.length, "answer")}${left ? `, ${left} filtered out` : ""}`),
      asked.coloured && legend(),
    ),
    make(
      "div",
      { class: "answers" },
      answers.map((answer) => answerCard(answer, group.answers.indexOf(answer) + 1, widest)),
    ),
  ];
}

/** The scale of the tokens' colours. */
function legend() {
  const swatches = Array.from({ length: SHADES }, (_, i) => make("span", { class: `shade-${i}` }));
  return make(
    "p",
    { class: "legend" },
    "certain ",
    make("span", { class: "ramp", "aria-hidden": "true" }, swatches),
    " surprising (p ≤ 1 %)",
  );
}

/** One answer: what it earned, then what it says. */
function answerCard(answer, place, widest) {
  const kind = graded(answer);
  const known = answer.logprobs.filter(finite);
  const parts = Object.entries(answer.rewards).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, number(value))),
  );
  const length = answer.tokens.length + answer.more_tokens;
  return make(
    "article",
    { class: `answer ${kind}`, "aria-label": `Answer ${place}` },
    make(
      "header",
      {},
      sign(kind),
      make(
        "span",
        { class: "reward" },
        "reward ",
        make("b", {}, answer.reward === null ? "not judged" : fixed(answer.reward)),
      ),
      advantage(answer.advantage, widest),
    ),
    parts.length ? make("dl", { class: "parts" }, parts) : null,
    asked.coloured && answer.tokens.length ? tokens(answer) : passage(wording(answer), asked.pattern),
    cutNote(answer),
    make(
      "footer",
      {},
      length ? make("span", {}, count(length, "token")) : null,
      known.length
        ? make("span", {}, `mean log-prob. ${fixed(known.reduce((a, b) => a + b, 0) / known.length)}`)
        : null,
      answer.truncated ? make("span", { class: "tag" }, "truncated") : null,
    ),
  );
}

function cutNote({ more_tokens, more_characters, tokens: kept }) {
  const left =
    asked.coloured && kept.length
      ? more_tokens && count(more_tokens, "more token")
      : more_characters && count(more_characters, "more character");
  return left ? make("p", { class: "note" }, `${left}, in rollouts.jsonl`) : null;
}

/** The advantage as a number and as a bar from the middle. */
function advantage(value, widest) {
  if (value === null) return null;
  const size = finite(value) ? (50 * Math.abs(value)) / widest : 0;
  const bar = draw("rect", {
    class: value < 0 ? "less" : "more",
    x: `${value < 0 ? 50 - size : 50}%`,
    y: 3,
    width: `${size}%`,
    height: 6,
  });
  const middle = draw("line", { x1: "50%", x2: "50%", y1: 0, y2: 12 });
  return make(
    "span",
    { class: "advantage" },
    draw("svg", { "aria-hidden": "true", width: 44, height: 12 }, bar, middle),
    "adv. ",
    make("b", {}, signed(value)),
  );
}

/** An answer's tokens: colour by log-probability, the number on hover, on focus and by arrow keys. */
function tokens(answer) {
  const hits = hitTokens(answer.tokens);
  const spans = answer.tokens.map((token, i) =>
    make(
      "span",
      {
        class: `token ${heard(answer, i) ? "heard" : `shade-${shade(answer.logprobs[i])}`}${hits.has(i) ? " hit" : ""}`,
        tabindex: i ? "-1" : "0",
        "data-i": i,
      },
      visibleToken(token),
    ),
  );
  const box = make(
    "div",
    {
      class: "passage tokens",
      role: "group",
      dir: "auto",
      "aria-label": `${count(spans.length, "token")}; arrow keys move through them`,
    },
    spans,
  );
  const tell = (event) => {
    const i = Number(event.target.closest(".token")?.dataset.i ?? -1);
    if (i < 0) return hint(null);
    const words = heard(answer, i)
      ? ["not sampled", "what the environment said, never trained"]
      : [
          `${fixed(answer.logprobs[i], 3)} nats`,
          finite(answer.logprobs[i]) ? `p = ${percent(Math.exp(answer.logprobs[i]))}` : "",
        ];
    spans[i].setAttribute("aria-label", plain(`${answer.tokens[i]}: ${words.join(", ")}`));
    hint(
      spans[i],
      make("code", {}, JSON.stringify(answer.tokens[i])),
      make("b", {}, words[0]),
      words[1],
      make("span", { class: "where" }, `token ${i + 1} of ${spans.length + answer.more_tokens}`),
    );
  };
  for (const kind of ["pointerover", "focusin"]) box.addEventListener(kind, tell);
  for (const kind of ["pointerleave", "focusout"]) box.addEventListener(kind, () => hint(null));
  box.addEventListener("keydown", (event) => {
    const at = spans.indexOf(event.target);
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: spans.length - 1 }[event.key];
    if (next === undefined || !spans[next]) return;
    event.preventDefault();
    spans[at].setAttribute("tabindex", "-1");
    spans[next].setAttribute("tabindex", "0");
    spans[next].focus();
  });
  return box;
}

/** Whether a token is an observation: read by the model and not said by it. */
const heard = (answer, i) => answer.sampled[i] === 0;

/** A token's text, a line break made visible. */
function visibleToken(token) {
  const lines = token.split("\n");
  return lines.flatMap((text, i) =>
    i < lines.length - 1 ? [text, make("span", { class: "break" }, "↵"), "\n"] : [text],
  );
}

/** 0 for a certain token, SHADES - 1 for one of probability 1 % or less. */
function shade(logprob) {
  if (!finite(logprob)) return SHADES - 1;
  return Math.min(SHADES - 1, Math.max(0, Math.floor((SHADES * logprob) / Math.log(0.01))));
}

/** The tokens that a search touches. */
function hitTokens(texts) {
  const hits = new Set();
  if (!asked.pattern) return hits;
  const matches = [...texts.join("").matchAll(asked.pattern)].map((match) => [
    match.index,
    match.index + match[0].length,
  ]);
  let [start, next] = [0, 0];
  texts.forEach((text, i) => {
    const end = start + text.length;
    while (next < matches.length && matches[next][1] <= start) next += 1;
    if (next < matches.length && matches[next][0] < end) hits.add(i);
    start = end;
  });
  return hits;
}
