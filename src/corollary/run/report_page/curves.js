// Small multiples of everything that was measured at each step. One cursor moves through all of them.

// [title, what it is, series by name; a name that ends in "/" stands for all that begin with it]
const PANELS = [
  ["Reward", "mean over answers", ["reward", "reward/"]],
  ["Pass rate", "share of answers with the full mark", ["pass_rate"]],
  ["Signal", "share of groups whose rewards differ", ["signal"]],
  ["KL to the reference", "nats per token", ["kl"]],
  ["Entropy", "nats per token", ["entropy"]],
  ["Answer length", "tokens, mean", ["length"]],
  ["Truncated", "share of answers cut at the limit", ["truncated"]],
  ["Loss", "", ["loss"]],
  ["Gradient norm", "before clipping", ["grad_norm"]],
  ["Importance ratio", "mean", ["ratio"]],
  ["Clipped", "share of tokens whose gradient is cut", ["clipped"]],
  ["Sampler gap", "|trainer − sampler| log-probability, nats", ["sampler_gap", "sampler_gap_max"]],
  ["Learning rate", "", ["lr"]],
  ["Speed", "tokens per second", ["tokens_per_second", "trained_tokens_per_second"]],
  ["Seconds per step", "by phase", ["generate", "reward", "train", "sync", "other"], "stacked"],
  ["Peak memory", "GiB", ["peak_memory_gib"]],
];
const LABELS = new Map([
  ["sampler_gap", "mean"],
  ["sampler_gap_max", "largest"],
  ["tokens_per_second", "generated"],
  ["trained_tokens_per_second", "trained"],
]);
const TIMED = new Set(["Speed", "Seconds per step", "Peak memory"]);
const MARGIN = { left: 46, right: 12, top: 8, bottom: 20 };
const HEIGHT = 148;

const smoothing = {
  on: DATA.metrics.steps.length >= 20,
  span: Math.max(3, Math.round(DATA.metrics.steps.length / 12)),
};
const panels = [];

/** Fills the section of curves. */
function curves() {
  const body = document.getElementById("curves-body");
  if (!DATA.metrics.steps.length && !DATA.timing.steps.length)
    return fill(body, make("p", { class: "note" }, "No step has been logged yet."));
  const timing = timed();
  const known = PANELS.map(([title, note, names, kind]) =>
    panel(title, note, TIMED.has(title) ? timing : DATA.metrics, names, kind),
  );
  const drawn = new Set(PANELS.filter(([title]) => !TIMED.has(title)).flatMap(([, , names]) => names));
  const rest = Object.keys(DATA.metrics.columns).filter((name) => !drawn.has(name) && !name.startsWith("reward/"));
  const others = rest.map((name) => panel(name, "", DATA.metrics, [name]));
  fill(
    body,
    smoother(),
    make("div", { class: "panels" }, known),
    others.length &&
      make(
        "details",
        { ontoggle: redraw },
        make("summary", {}, `${count(others.length, "more metric")}`),
        make("div", { class: "panels" }, others),
      ),
    make("p", { class: "caption" }, make("b", {}, "Figure 2. "), curvesCaption()),
  );
  new ResizeObserver(settled(redraw, 50)).observe(body);
  redraw();
  return body;
}

function curvesCaption() {
  const unreadable = DATA.metrics.unreadable + DATA.timing.unreadable;
  return [
    `Each optimizer step, ${some(DATA.metrics.steps.length, DATA.metrics.steps_total, "step")} drawn. `,
    "Point at a curve, or focus it and use the arrow keys, to read every curve at that step; the number beside a title is the last one.",
    unreadable ? ` ${count(unreadable, "line")} could not be read.` : "",
  ];
}

/** timing.jsonl with what its phases leave of a step's seconds. */
function timed() {
  const { seconds, ...columns } = DATA.timing.columns;
  if (!seconds) return DATA.timing;
  const phases = ["generate", "reward", "train", "sync"].map((name) => columns[name]).filter(Boolean);
  const other = seconds.map((total, i) =>
    finite(total)
      ? Math.max(
          0,
          phases.reduce((left, phase) => left - (finite(phase[i]) ? phase[i] : 0), total),
        )
      : null,
  );
  return { ...DATA.timing, columns: { ...columns, other } };
}

/** The switch and the slider of the smoothing. */
function smoother() {
  const label = make("output", { for: "smooth-span" });
  const say = () => fill(label, `over about ${count(smoothing.span, "step")}`);
  const slider = make("input", {
    type: "range",
    id: "smooth-span",
    min: 2,
    max: Math.max(10, Math.round(DATA.metrics.steps.length / 4)),
    value: smoothing.span,
    "aria-label": "Steps to smooth over",
  });
  slider.addEventListener("input", () => {
    smoothing.span = Number(slider.value);
    say();
    redraw();
  });
  const box = make("input", { type: "checkbox", id: "smooth", checked: smoothing.on });
  box.addEventListener("change", () => {
    smoothing.on = box.checked;
    redraw();
  });
  say();
  return make("div", { class: "controls" }, make("label", { for: "smooth" }, box, " Smooth"), slider, label);
}

/** One chart, or null where the run has none of its series. */
function panel(title, note, table, names, kind = "lines") {
  const keys = names.flatMap((name) =>
    name.endsWith("/") ? Object.keys(table.columns).filter((key) => key.startsWith(name)) : [name],
  );
  const series = keys
    .filter((key) => Object.hasOwn(table.columns, key))
    .map((key, i) => ({
      label: LABELS.get(key) ?? key.replace(/^reward\//, ""),
      values: table.columns[key],
      colour: `series-${i % 6}`,
    }));
  if (!series.length) return null;
  const svg = draw("svg", { class: "plot", role: "img", tabindex: "0", height: HEIGHT });
  const view = {
    title,
    table,
    series,
    kind,
    svg,
    readout: make("span", { class: "readout" }),
    cursor: draw("g", { class: "cursor" }),
  };
  svg.setAttribute("aria-label", plain(summary(view)));
  listen(view);
  panels.push(view);
  return make(
    "figure",
    { class: "panel" },
    make(
      "figcaption",
      {},
      make("span", { class: "title" }, title),
      note && make("span", { class: "unit" }, note),
      view.readout,
    ),
    svg,
  );
}

function summary({ title, table, series }) {
  const parts = series.map(({ label, values }) => `${label} from ${number(values[0])} to ${number(values.at(-1))}`);
  return `${title}: ${parts.join("; ")}, steps ${table.steps[0]} to ${table.steps.at(-1)}`;
}

/** Pointer and keys move the cursor of every chart. */
function listen(view) {
  const { svg, table } = view;
  svg.addEventListener("pointermove", (event) => {
    const inside = event.clientX - svg.getBoundingClientRect().left;
    pointAt(table.steps[nearest(table.steps, view.scale.step(inside))]);
  });
  svg.addEventListener("pointerleave", () => pointAt(null));
  svg.addEventListener("blur", () => pointAt(null));
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const now =
      view.step === null || view.step === undefined
        ? table.steps.length - 1
        : nearest(table.steps, view.step) + moves[event.key];
    const index = Math.min(Math.max(now, 0), table.steps.length - 1);
    pointAt(table.steps[index]);
    announce(
      `step ${table.steps[index]}: ${view.series.map(({ label, values }) => `${label} ${number(values[index], view.digits)}`).join(", ")}`,
    );
  });
}

/** Puts every chart's cursor at a step, or at rest. */
function pointAt(step) {
  for (const view of panels) cursor(view, step);
}

/** Draws one chart's cursor and writes its read-out. */
function cursor(view, step) {
  view.step = step;
  const { table, series, scale } = view;
  const index = step === null ? table.steps.length - 1 : nearest(table.steps, step);
  const alone = series.length === 1;
  fill(
    view.readout,
    series.map(({ label, values, colour }) =>
      make(
        "span",
        { class: `item ${colour}` },
        alone ? null : make("span", { class: "swatch" }),
        alone ? "" : `${label} `,
        make("b", {}, number(values[index], view.digits ?? 3)),
      ),
    ),
  );
  if (!scale) return;
  if (step === null) return void fill(view.cursor);
  const x = scale.x(table.steps[index]);
  const anchor = x > scale.width - 60 ? "end" : "start";
  const dots = view.kind === "stacked" ? [] : series.filter(({ values }) => finite(values[index]));
  fill(
    view.cursor,
    draw("line", { x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
    dots.map(({ values, colour }) => draw("circle", { class: colour, cx: x, cy: scale.y(values[index]), r: 3 })),
    draw(
      "text",
      { x: anchor === "end" ? x - 4 : x + 4, y: MARGIN.top + 8, "text-anchor": anchor },
      `step ${table.steps[index]}`,
    ),
  );
}

/** Draws every chart anew at the size that it has. */
function redraw() {
  for (const view of panels) plot(view);
}

/** Draws one chart. */
function plot(view) {
  const width = view.svg.clientWidth;
  if (!width) return;
  const { steps } = view.table;
  const drawn = view.kind === "stacked" ? layers(view) : view.series;
  const [low, high] = extent(drawn.flatMap(({ values, base }) => (base ? [...values, 0] : values)));
  const inner = width - MARGIN.left - MARGIN.right;
  const span = steps.at(-1) - steps[0] || 1;
  const x = (step) => MARGIN.left + (inner * (step - steps[0])) / span;
  const y = (value) => HEIGHT - MARGIN.bottom - ((HEIGHT - MARGIN.top - MARGIN.bottom) * (value - low)) / (high - low);
  view.digits = digitsFor(low, high);
  view.scale = { x, y, width, step: (at) => steps[0] + (span * (at - MARGIN.left)) / inner };
  fill(
    view.svg,
    grid(view, low, high),
    drawn.map((one) => (one.base ? layer(one, steps, view.scale, inner) : stroke(one, steps, view.scale, inner))),
    view.cursor,
  );
  cursor(view, view.step ?? null);
}

/** Grid lines with their numbers. */
function grid(view, low, high) {
  const { scale } = view;
  const { steps } = view.table;
  const right = scale.width - MARGIN.right;
  const rows = ticks(low, high, 3).map((value) => [
    draw("line", { class: "grid", x1: MARGIN.left, x2: right, y1: scale.y(value), y2: scale.y(value) }),
    draw(
      "text",
      { class: "tick", x: MARGIN.left - 7, y: scale.y(value), "text-anchor": "end", "dominant-baseline": "central" },
      number(value, view.digits),
    ),
  ]);
  const span = steps.at(-1) - steps[0];
  const whole = ticks(steps[0], steps[0] + (span || 1), Math.max(2, Math.floor(scale.width / 90))).filter(
    (step) => Number.isInteger(step) && step <= steps.at(-1),
  );
  return [
    rows,
    whole.map((step) =>
      draw("text", { class: "tick", x: scale.x(step), y: HEIGHT - 5, "text-anchor": "middle" }, grouped(step)),
    ),
  ];
}

/** One series: its smoothed line over the faint raw one, the range where points were merged, marks where it is not finite. */
function stroke({ values, colour }, steps, { x, y }, inner) {
  const raw = thinned(steps, values, inner);
  const merged = raw.length < steps.length;
  const smoothed = smoothing.on ? thinned(steps, smooth(values, smoothing.span), inner) : null;
  const lost = steps.filter((_, i) => typeof values[i] === "string").slice(0, 500);
  return [
    merged &&
      draw("path", {
        class: `band ${colour}`,
        d: area(
          raw,
          x,
          (point) => y(point.low),
          (point) => y(point.high),
        ),
      }),
    (!merged || !smoothed) && draw("path", { class: `line ${colour}${smoothed ? " faint" : ""}`, d: line(raw, x, y) }),
    smoothed && draw("path", { class: `line ${colour}`, d: line(smoothed, x, y) }),
    lost.map((step) => draw("path", { class: "lost", d: `M${x(step) - 3.5} ${HEIGHT - MARGIN.bottom}h7l-3.5 -6z` })),
  ];
}

/** The series of a stacked chart, each with the sum of those below it. */
function layers({ series }) {
  let base = series[0].values.map(() => 0);
  return series.map(({ values, colour }) => {
    const level = smoothing.on ? smooth(values, smoothing.span) : values;
    const layer = { colour, base, values: level.map((value, i) => base[i] + (finite(value) ? value : 0)) };
    base = layer.values;
    return layer;
  });
}

/** One layer of a stacked chart. */
function layer({ values, base, colour }, steps, { x, y }, inner) {
  const below = thinned(steps, base, inner);
  const points = thinned(steps, values, inner).map((point, i) => ({ ...point, low: below[i].y }));
  return draw("path", {
    class: `layer ${colour}`,
    d: area(
      points,
      x,
      (point) => y(point.low),
      (point) => y(point.y),
    ),
  });
}
