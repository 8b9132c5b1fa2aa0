// The head of the page, and what the held-out problems say before and after.

/** Fills the masthead. */
function masthead() {
  const done = DATA.metrics.steps_total;
  const planned = DATA.steps_planned;
  const facts = [
    ...Object.entries(DATA.facts),
    ["steps", planned && planned > done ? `${grouped(done)} of ${grouped(planned)}` : grouped(done)],
    ...(DATA.as_of ? [["as of", DATA.as_of]] : []),
  ];
  document.title = plain(`${DATA.name} · Corollary run`);
  fill(document.getElementById("name"), DATA.name);
  fill(
    document.getElementById("facts"),
    facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

/** Fills the results. */
function results() {
  const measured = DATA.evaluation;
  const body = document.getElementById("results-body");
  if (!measured?.before) return fill(body, make("p", { class: "note" }, "No held-out measurement yet."));
  const names = [...new Set([...Object.keys(measured.before.metrics), ...Object.keys(measured.after?.metrics ?? {})])];
  const known = ["sampled/strict/pass@1", "greedy/strict"].filter((name) => names.includes(name));
  const primary = known.length ? known : names.slice(0, 1);
  return fill(
    body,
    primary.map((name) => headline(measured, name)),
    effects(measured, names),
  );
}

/** "greedy/strict" → "Greedy, strict". */
function titled(name) {
  const text = name.split("/").join(", ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The result in one look: before → after, and the interval of the difference. */
function headline(measured, name) {
  const before = own(measured.before.metrics, name);
  const after = own(measured.after?.metrics, name);
  const change = own(measured.difference, name);
  const figure = (label, metric, kind) =>
    make(
      "div",
      { class: `figure ${kind}` },
      make("span", { class: "value" }, percent(metric?.value)),
      make("span", { class: "label" }, label),
    );
  return make(
    "div",
    { class: "headline" },
    make(
      "div",
      { class: "figures" },
      figure("before", before, "before"),
      after && make("span", { class: "arrow", "aria-hidden": "true" }, "→"),
      after && figure("after", after, "after"),
    ),
    make(
      "p",
      { class: "verdict" },
      change ? verdict(change, name, measured) : `${titled(name)}. Not measured again yet.`,
    ),
  );
}

/** What the difference says, in words. */
function verdict(change, name, measured) {
  const points = `${signed(100 * change.estimate, 1)} points`;
  const sure = excludesZero(change) ? "excludes zero" : "includes zero: no change can be told from chance";
  return [
    make("strong", {}, points),
    ` in ${name.split("/").join(", ")} accuracy; paired ${Math.round(100 * change.confidence)} % interval ${range(change)} points, which ${sure}. `,
    finite(change.gained) && finite(change.lost)
      ? `Of ${count(change.prompts ?? measured.prompts ?? 0, "held-out prompt")}, ${grouped(change.gained)} were gained and ${grouped(change.lost)} lost.`
      : "",
  ];
}

const excludesZero = (change) => finite(change.low) && finite(change.high) && (change.low > 0 || change.high < 0);
const range = (change) => `[${signed(100 * change.low, 1)}, ${signed(100 * change.high, 1)}]`;

/** Every metric with its intervals, one row each, on one axis. */
function effects(measured, names) {
  const end = axisEnd(
    names.flatMap((name) => [own(measured.before.metrics, name)?.high, own(measured.after?.metrics, name)?.high]),
  );
  const heads = ["metric", "", "before", "after", "difference, points", "gained", "lost"];
  const rows = names.map((name) => effect(name, measured, end));
  const methods = [...new Set(Object.values(measured.difference).map((change) => change.method))].filter(Boolean);
  const foot = make(
    "tr",
    { class: "axis" },
    make("td"),
    make("td", { class: "chart" }, axis(end)),
    make("td", { colspan: "5" }),
  );
  return make(
    "figure",
    { class: "effects" },
    make(
      "table",
      {},
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          heads.map((head) => make("th", { scope: "col" }, head)),
        ),
      ),
      make("tbody", {}, rows, foot),
    ),
    make(
      "figcaption",
      {},
      make("b", {}, "Figure 1. "),
      `Held-out accuracy on ${measured.dataset || "the held-out prompts"}`,
      measured.prompts ? ` (${count(measured.prompts, "prompt")})` : "",
      ", ",
      make("span", { class: "key before" }, "before"),
      measured.after
        ? [" and ", make("span", { class: "key after" }, "after"), ` step ${measured.after.step ?? "–"}`]
        : "",
      ", with 95 % intervals.",
      methods.length ? ` Difference: ${methods.join("; ")}.` : "",
    ),
  );
}

/** One metric's row. */
function effect(name, measured, end) {
  const before = own(measured.before.metrics, name);
  const after = own(measured.after?.metrics, name);
  const change = own(measured.difference, name);
  const text = change
    ? [make("b", {}, signed(100 * change.estimate, 1)), " ", make("span", { class: "range" }, range(change))]
    : "–";
  const cell = (label, ...children) => make("td", { "data-label": label }, children);
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, titled(name)),
    make("td", { class: "chart" }, intervals(before, after, end)),
    cell("before", percent(before?.value)),
    cell("after", percent(after?.value)),
    make("td", { "data-label": "difference", class: change && !excludesZero(change) ? "unsure" : null }, text),
    cell("gained", finite(change?.gained) ? grouped(change.gained) : "–"),
    cell("lost", finite(change?.lost) ? grouped(change.lost) : "–"),
  );
}

/** Two dots with their intervals. */
function intervals(before, after, end) {
  const at = (value) => `${((100 * value) / end).toFixed(2)}%`;
  const one = (metric, kind, y) =>
    metric && finite(metric.value)
      ? [
          finite(metric.low) &&
            finite(metric.high) &&
            draw("line", { class: kind, x1: at(metric.low), x2: at(metric.high), y1: y, y2: y }),
          draw("circle", { class: kind, cx: at(metric.value), cy: y, r: 4.5 }),
        ]
      : null;
  const label = `before ${percent(before?.value)}, after ${percent(after?.value)}`;
  return draw(
    "svg",
    { class: "intervals", role: "img", "aria-label": label },
    shares(end).map((value) => draw("line", { class: "grid", x1: at(value), x2: at(value), y1: 0, y2: 34 })),
    one(before, "before", 11),
    one(after, "after", 23),
  );
}

/** The axis that the rows share. */
function axis(end) {
  const anchor = (value) => (value === 0 ? "start" : value >= end - 1e-9 ? "end" : "middle");
  return draw(
    "svg",
    { class: "intervals", "aria-hidden": "true" },
    shares(end).map((value) =>
      draw(
        "text",
        { x: `${(100 * value) / end}%`, y: 14, "text-anchor": anchor(value) },
        `${Math.round(100 * value)} %`,
      ),
    ),
  );
}

/** Where the axis ends: the next tick above the highest interval, 1 at most. */
function axisEnd(values) {
  const highest = Math.max(0.1, ...values.filter(finite));
  const step = spacing(highest);
  return Math.min(1, Math.ceil(highest / step - 1e-9) * step);
}

const spacing = (end) => (end > 0.6 ? 0.2 : 0.1);

/** The ticks from 0 to the end of the axis. */
function shares(end) {
  return Array.from({ length: Math.round(end / spacing(end)) + 1 }, (_, i) => i * spacing(end));
}
