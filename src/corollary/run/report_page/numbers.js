// How numbers are written: few digits, a true minus sign, and words for what is missing or not finite.

/** Three significant digits, or what the data says instead of a number. */
function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value.replace("Infinity", "∞").replace("-", "−");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7))
    return minus(value.toExponential(digits - 1).replace(/\.?0*e\+?/, "e"));
  if (size >= 1000) return minus(grouped(Math.round(value)));
  return minus(String(Number(value.toPrecision(digits))));
}

/** A fixed number of decimals. */
function fixed(value, decimals = 2) {
  return typeof value === "number" ? minus(value.toFixed(decimals)) : number(value);
}

/** A fixed number of decimals, and a sign always. */
function signed(value, decimals = 2) {
  return typeof value === "number" && value >= 0 ? `+${fixed(value, decimals)}` : fixed(value, decimals);
}

/** A share as a percentage. */
function percent(value) {
  return typeof value === "number" ? `${minus((100 * value).toFixed(1))} %` : number(value);
}

/** A count with thousands apart. */
function grouped(value) {
  return String(value).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** "1 prompt", "2 prompts". */
function count(value, noun) {
  return `${grouped(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** "all 8 steps", "5 of 8 steps". */
function some(shown, total, noun) {
  return shown >= total ? `all ${count(total, noun)}` : `${grouped(shown)} of ${count(total, noun)}`;
}

/** Bytes in the unit that suits them. */
function bytes(value) {
  const unit = Math.min(3, Math.floor(Math.log10(Math.max(1, value)) / 3));
  return `${Number((value / 1000 ** unit).toPrecision(3))} ${["B", "kB", "MB", "GB"][unit]}`;
}

function minus(text) {
  return text.replace(/^-/, "−").replace("e-", "e−");
}

const finite = (value) => typeof value === "number";
