// What the run was given, where it ran, where its files are, and how to go on.

/** Fills the section of the set-up. */
function setup() {
  const packages = DATA.environment.filter(({ key }) => key.startsWith("packages."));
  const machine = DATA.environment.filter(({ key }) => !key.startsWith("packages."));
  fill(
    document.getElementById("setup-body"),
    make(
      "div",
      { class: "columns-two" },
      part("To go on", commands()),
      part("Where the files are", filesTable()),
      part(
        `Changed from the defaults`,
        DATA.changed.length ? settingsTable(DATA.changed) : make("p", { class: "note" }, "Nothing."),
      ),
      part(
        "Environment",
        machine.length ? settingsTable(machine) : make("p", { class: "note" }, "Not recorded."),
        packages.length ? folded(count(packages.length, "package"), settingsTable(packages, "packages.")) : null,
      ),
    ),
    DATA.config.length
      ? folded(
          `Every setting (${grouped(DATA.config.length)})`,
          settingsTable(DATA.config, "", new Set(DATA.changed.map(({ key }) => key))),
        )
      : null,
  );
}

function part(title, ...children) {
  return make("div", { class: "part" }, make("h3", {}, title), children);
}

function folded(title, ...children) {
  return make("details", {}, make("summary", {}, title), children);
}

/** A dotted key that may break after its dots. */
function broken(key) {
  return key && key.split(".").map((part, i) => (i ? [".", make("wbr"), part] : part));
}

/** Keys and values; those in `changed` are set apart. */
function settingsTable(settings, prefix = "", changed = new Set()) {
  const row = ({ key, value }) =>
    make(
      "tr",
      { class: changed.has(key) ? "changed" : null },
      make("th", { scope: "row" }, broken(key.slice(prefix.length)) || "(whole file)"),
      make("td", {}, value, changed.has(key) ? make("span", { class: "tag" }, "changed") : null),
    );
  return make("div", { class: "scroller" }, make("table", { class: "settings" }, make("tbody", {}, settings.map(row))));
}

function commands() {
  return make(
    "dl",
    { class: "commands" },
    DATA.commands.map(({ purpose, line: text }) => [
      make("dt", {}, purpose),
      make("dd", {}, make("code", { class: "command" }, text)),
    ]),
  );
}

function filesTable() {
  const row = ({ name, purpose, size, inside }) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("code", {}, name)),
      make(
        "td",
        {},
        purpose,
        inside.length > 1 || inside[0] !== name ? make("span", { class: "inside" }, inside.join("  ")) : null,
      ),
      make("td", { class: "size" }, bytes(size)),
    );
  return [
    make("p", {}, make("code", { class: "command" }, DATA.path)),
    make(
      "div",
      { class: "scroller" },
      make("table", { class: "settings files" }, make("tbody", {}, DATA.files.map(row))),
    ),
  ];
}
