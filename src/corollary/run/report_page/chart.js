// The arithmetic of a chart: ticks, thinning, smoothing, paths. No elements.

/** Round numbers between low and high, about `wanted` of them. */
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.7) * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** The range that a chart shows: from zero where the values lie near it, with some air otherwise. */
function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!finite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  if (low >= 0 && low < 0.6 * high) return [0, high * 1.06];
  const air = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  return [low - air, high + air];
}

/** Significant digits that tell values of this range apart. */
function digitsFor(low, high) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  return Math.min(8, 3 + Math.max(0, Math.floor(Math.log10(size / (high - low)))));
}

/** Exponential moving average over about `span` steps, unbiased at the start; gaps stay gaps. */
function smooth(values, span) {
  const keep = 1 - 2 / (span + 1);
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    if (!finite(value)) return value;
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

/** At most `columns` points {x, y, low, high}: each the mean and the range of its neighbours. */
function thinned(xs, ys, columns) {
  const size = Math.max(1, Math.ceil(xs.length / columns));
  const points = [];
  for (let start = 0; start < xs.length; start += size) {
    const part = ys.slice(start, start + size).filter(finite);
    const x = xs[Math.min(start + (size >> 1), xs.length - 1)];
    const y = part.length ? part.reduce((a, b) => a + b) / part.length : null;
    points.push({ x, y, low: Math.min(...part), high: Math.max(...part) });
  }
  return points;
}

/** An SVG path through points, broken where a value is missing; a lone point becomes a dot-sized stroke. */
function line(points, x, y) {
  const known = (point) => point !== undefined && point.y !== null;
  return points
    .map((point, i) => {
      if (!known(point)) return "";
      const at = `${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`;
      const lone = !known(points[i - 1]) && !known(points[i + 1]);
      return `${known(points[i - 1]) ? "L" : "M"}${at}${lone ? "h0.01" : ""}`;
    })
    .join("");
}

/** An SVG path around the area between two edges of points. */
function area(points, x, low, high) {
  const known = points.filter((point) => point.y !== null);
  if (!known.length) return "";
  const edge = (way, from) => from.map((point) => `${x(point.x).toFixed(1)} ${way(point).toFixed(1)}`).join("L");
  return `M${edge(high, known)}L${edge(low, [...known].reverse())}Z`;
}

/** The index of the entry of a sorted list that is nearest to a value. */
function nearest(sorted, value) {
  let [low, high] = [0, sorted.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle;
    else high = middle;
  }
  return Math.abs(sorted[low] - value) <= Math.abs(sorted[high] - value) ? low : high;
}
