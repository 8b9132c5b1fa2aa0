// The same held-out prompts as the first and the last evaluation saw them.

const pairs = DATA.heldout.before.map((before, i) => ({ before, after: DATA.heldout.after[i] ?? null }));
const sought = { filter: "all", extraction: "strict", pattern: null };

/** Fills the section of held-out answers. */
function heldout() {
  const body = document.getElementById("heldout-body");
  if (!pairs.length) return fill(body, make("p", { class: "note" }, "No held-out answer has been recorded yet."));
  const browser = listing("Held-out prompts", {
    row: pairRow,
    detail: pairDetail,
    key: (pair) => pair.before.prompt_id,
  });
  const found = make("p", { class: "found", role: "status" });
  const refresh = () => {
    const chosen = pairs.filter(
      (pair) => (sought.filter === "all" || movement(pair) === sought.filter) && (!sought.pattern || tells(pair)),
    );
    browser.show(chosen, "No prompt fits this filter.");
    fill(found, `${count(chosen.length, "prompt")} of ${grouped(pairs.length)}`);
  };
  const change = (changes) => {
    Object.assign(sought, changes);
    refresh();
  };
  const answered = pairs.some((pair) => pair.before.greedy);
  const kinds = DATA.heldout.after.length ? ["gained", "lost", "right", "wrong"] : ["right", "wrong"];
  const names = { gained: "Gained", lost: "Lost", right: "Right", wrong: "Wrong" };
  fill(
    body,
    make("p", { class: "caption" }, heldoutCaption()),
    make(
      "div",
      { class: "controls" },
      answered &&
        choice(
          "Prompts to show",
          "movement",
          [["all", "All"], ...kinds.map((kind) => [kind, names[kind]])],
          sought.filter,
          (filter) => change({ filter }),
        ),
      answered &&
        choice(
          "Extraction",
          "extraction",
          [
            ["strict", "Strict"],
            ["lenient", "Lenient"],
          ],
          sought.extraction,
          (extraction) => change({ extraction }),
        ),
      search("Search prompts and answers", (pattern) => change({ pattern })),
    ),
    found,
    browser.node,
  );
  return refresh();
}

function heldoutCaption() {
  const { before_step, after_step, total, changed_total, unreadable, after } = DATA.heldout;
  const thinnedOut = pairs.length < total;
  const answered = pairs.some((pair) => pair.before.greedy);
  const [both, one] = answered ? ["Greedy and sampled answers", "Answers"] : ["What was measured", "What was measured"];
  return [
    after.length
      ? `${both} at step ${grouped(before_step)} and at step ${grouped(after_step)}: `
      : `${one} at step ${grouped(before_step)}: `,
    `${some(pairs.length, total, "prompt")}${thinnedOut ? `, those of the ${grouped(changed_total)} whose verdict changed first, the others evenly spaced` : ""}. `,
    after.length && answered
      ? "Gained: wrong before and right after, by the greedy answer. Right and wrong: the same both times."
      : "",
    unreadable ? ` ${count(unreadable, "line")} could not be read.` : "",
  ];
}

/** right, wrong or unjudged: the greedy answer, by the chosen extraction. */
function judged(row) {
  const verdict = row?.greedy?.[sought.extraction];
  if (verdict === null || verdict === undefined) return "unjudged";
  return verdict ? "right" : "wrong";
}

/** What happened to a prompt: gained, lost, right or wrong both times. */
function movement({ before, after }) {
  const [first, last] = [judged(before), judged(after)];
  if (!after || first === last) return first;
  return { "wrong right": "gained", "right wrong": "lost" }[`${first} ${last}`] ?? "unjudged";
}

function tells({ before, after }) {
  const texts = [before, after].flatMap((row) =>
    row ? [row.greedy?.text ?? "", ...row.sampled.map((answer) => answer.text)] : [],
  );
  return [before.prompt, before.prompt_id, ...texts].some((text) => text.search(sought.pattern) >= 0);
}

/** An entry of the list. */
function pairRow(pair) {
  const kind = movement(pair);
  return [
    make("span", { class: "gist", dir: "auto" }, marked(gist(pair.before.prompt), sought.pattern)),
    make(
      "span",
      { class: "under" },
      pair.before.greedy
        ? make("span", {}, sign(judged(pair.before)), pair.after && [" → ", sign(judged(pair.after))])
        : make("span", {}, course(pair)),
      make("span", { class: `where ${kind}` }, kind === "gained" || kind === "lost" ? kind : ""),
    ),
  ];
}

/** "nll 1.92 → 1.5": the first of what was measured of a prompt without sampling. */
function course({ before, after }) {
  const [name] = Object.keys(before.measures);
  if (name === undefined) return "";
  return `${name} ${number(own(before.measures, name))}${after ? ` → ${number(own(after.measures, name))}` : ""}`;
}

/** A prompt with its answers before and after. */
function pairDetail(pair) {
  const both = [
    [pair.before, DATA.heldout.before_step, "before"],
    [pair.after, DATA.heldout.after_step, "after"],
  ];
  return [
    make("p", { class: "ident" }, pair.before.prompt_id),
    passage(pair.before.prompt, sought.pattern),
    columnList(pair.before.columns, sought.pattern),
    make(
      "div",
      { class: "answers pair" },
      both.filter(([row]) => row).map(([row, step, label]) => side(row, step, label)),
    ),
  ];
}

/** One evaluation's answers to a prompt. */
function side(row, step, label) {
  const right = row.sampled.filter((answer) => answer[sought.extraction]).length;
  return make(
    "section",
    { class: "side" },
    make(
      "h3",
      {},
      make("span", { class: `key ${label}` }, label),
      make("span", { class: "where" }, `step ${grouped(step)}`),
    ),
    Object.keys(row.measures).length ? measureList(row.measures) : null,
    row.greedy ? verdictCard(row.greedy, "greedy") : make("p", { class: "note" }, "No greedy answer."),
    row.sampled.length
      ? make(
          "details",
          { open: true },
          make("summary", {}, `${count(row.sampled.length, "sampled answer")}, ${right} right`),
          row.sampled.map((answer, i) => verdictCard(answer, `sample ${i + 1}`)),
        )
      : null,
  );
}

/** What was measured of a prompt without sampling. */
function measureList(measures) {
  return columnList(Object.fromEntries(Object.entries(measures).map(([name, value]) => [name, number(value)])), null);
}

/** One held-out answer with both verdicts. */
function verdictCard(answer, name) {
  const kind = answer[sought.extraction] === null ? "unjudged" : answer[sought.extraction] ? "right" : "wrong";
  const differ = answer.strict !== answer.lenient;
  return make(
    "article",
    { class: `answer ${kind}` },
    make(
      "header",
      {},
      sign(kind),
      make("span", { class: "reward" }, name),
      differ
        ? make(
            "span",
            { class: "tag" },
            answer.lenient ? "right only by the lenient extraction" : "right only by the strict extraction",
          )
        : null,
      answer.truncated ? make("span", { class: "tag" }, "truncated") : null,
    ),
    passage(answer.text, sought.pattern),
  );
}
