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

/** Whether a metric is a number of its own scale, such as nats; else it is a share. */
function isNumber(measured, name) {
  return [measured.before, measured.after].some((side) => side && own(side.metrics, name)?.unit === "number");
}

/** How a metric's values and its differences are written. */
function scale(measured, name) {
  if (isNumber(measured, name))
    return { value: (value) => number(value), change: (value) => (value >= 0 ? "+" : "") + number(value), unit: "" };
  return { value: percent, change: (value) => signed(100 * value, 1), unit: " points" };
}

/** "greedy/strict" → "Greedy, strict"; a name of one part, such as nll, stays as it is. */
function titled(name) {
  if (!name.includes("/")) return name;
  const text = name.split("/").join(", ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The result in one look: before → after, and the interval of the difference. */
function headline(measured, name) {
  const before = own(measured.before.metrics, name);
  const after = own(measured.after?.metrics, name);
  const change = own(measured.difference, name);
  const written = scale(measured, name);
  const figure = (label, metric, kind) =>
    make(
      "div",
      { class: `figure ${kind}` },
      make("span", { class: "value" }, written.value(metric?.value)),
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
  const written = scale(measured, name);
  const sure = excludesZero(change) ? "excludes zero" : "includes zero: no change can be told from chance";
  const what = `${name.split("/").join(", ")}${isAccuracy(name) ? " accuracy" : ""}`;
  return [
    make("strong", {}, `${written.change(change.estimate)}${written.unit}`),
    ` in ${what}; paired ${Math.round(100 * change.confidence)} % interval ${range(change, written)}${written.unit}, which ${sure}. `,
    finite(change.gained) && finite(change.lost)
      ? `Of ${count(change.prompts ?? measured.prompts ?? 0, "held-out prompt")}, ${moved(change, isNumber(measured, name))}.`
      : "",
  ];
}

/** A share of answers that are right. */
const isAccuracy = (name) => /^(greedy|sampled)\//.test(name);

/** On how many prompts a metric moved, and which way. */
function moved({ gained, lost }, isNumber) {
  const [up, down] = [grouped(gained), grouped(lost)];
  return isNumber ? `it rose on ${up} and fell on ${down}` : `${up} were gained and ${down} lost`;
}

const excludesZero = (change) => finite(change.low) && finite(change.high) && (change.low > 0 || change.high < 0);
const range = (change, written) => `[${written.change(change.low)}, ${written.change(change.high)}]`;

/** Every metric with its intervals, one row each: shares on one axis, and below it numbers, each on its own. */
function effects(measured, names) {
  const shares = names.filter((name) => !isNumber(measured, name));
  const numbers = names.filter((name) => isNumber(measured, name));
  const end = axisEnd(
    shares.flatMap((name) => [own(measured.before.metrics, name)?.high, own(measured.after?.metrics, name)?.high]),
  );
  const points = shares.length ? "difference, points" : "difference";
  const heads = ["metric", "", "before", "after", points, ...(shares.length ? ["gained", "lost"] : ["rose", "fell"])];
  const from0 = { start: 0, end, grid: graduation(end) };
  const rows = shares.map((name) => effect(name, measured, from0));
  const others = numbers.map((name) => effect(name, measured, around(measured, name)));
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
      make("tbody", {}, rows, shares.length ? foot : null, others),
    ),
    make(
      "figcaption",
      {},
      make("b", {}, "Figure 1. "),
      `${shares.length ? "Held-out accuracy" : "What was measured"} on ${measured.dataset || "the held-out prompts"}`,
      measured.prompts ? ` (${count(measured.prompts, "prompt")})` : "",
      ", ",
      make("span", { class: "key before" }, "before"),
      measured.after
        ? [" and ", make("span", { class: "key after" }, "after"), ` step ${measured.after.step ?? "–"}`]
        : "",
      ", with 95 % intervals.",
      numbers.length ? " A number that is no share has an axis of its own, which need not begin at 0." : "",
      methods.length ? ` Difference: ${methods.join("; ")}.` : "",
    ),
  );
}

/** One metric's row. */
function effect(name, measured, axis) {
  const before = own(measured.before.metrics, name);
  const after = own(measured.after?.metrics, name);
  const change = own(measured.difference, name);
  const written = scale(measured, name);
  const text = change
    ? [make("b", {}, written.change(change.estimate)), " ", make("span", { class: "range" }, range(change, written))]
    : "–";
  const cell = (label, ...children) => make("td", { "data-label": label }, children);
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, titled(name)),
    make("td", { class: "chart" }, intervals(before, after, axis, written.value)),
    cell("before", written.value(before?.value)),
    cell("after", written.value(after?.value)),
    make("td", { "data-label": "difference", class: change && !excludesZero(change) ? "unsure" : null }, text),
    cell(written.unit ? "gained" : "rose", finite(change?.gained) ? grouped(change.gained) : "–"),
    cell(written.unit ? "lost" : "fell", finite(change?.lost) ? grouped(change.lost) : "–"),
  );
}

/** Two dots with their intervals. */
function intervals(before, after, { start, end, grid }, written) {
  const at = (value) => `${((100 * (value - start)) / (end - start)).toFixed(2)}%`;
  const one = (metric, kind, y) =>
    metric && finite(metric.value)
      ? [
          finite(metric.low) &&
            finite(metric.high) &&
            draw("line", { class: kind, x1: at(metric.low), x2: at(metric.high), y1: y, y2: y }),
          draw("circle", { class: kind, cx: at(metric.value), cy: y, r: 4.5 }),
        ]
      : null;
  const label = `before ${written(before?.value)}, after ${written(after?.value)}`;
  return draw(
    "svg",
    { class: "intervals", role: "img", "aria-label": label },
    grid.map((value) => draw("line", { class: "grid", x1: at(value), x2: at(value), y1: 0, y2: 34 })),
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
    graduation(end).map((value) =>
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

/** The axis of a number: what its intervals span, and a little more. */
function around(measured, name) {
  const sides = [measured.before, measured.after].map((side) => side && own(side.metrics, name));
  const values = sides.flatMap((metric) => (metric ? [metric.low, metric.value, metric.high] : [])).filter(finite);
  const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const room = 0.05 * (high - low || Math.abs(high) || 1);
  return { start: low - room, end: high + room, grid: [] };
}

/** The ticks from 0 to the end of the axis. */
function graduation(end) {
  return Array.from({ length: Math.round(end / spacing(end)) + 1 }, (_, i) => i * spacing(end));
}
