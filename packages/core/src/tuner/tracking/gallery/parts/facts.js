// What the run is: heading, settings and origin.

const STATES = { running: "running", done: "done", interrupted: "interrupted", failed: "failed" };
const ORIGIN = {
  base_model: "Base model", model_family: "Family", family_package: "Package of the family", seed: "Seed",
  data_fingerprint: "Fingerprint of the data", tuner_version: "Version of tuner", step: "Step that this part began at",
};

function showHeading(record) {
  byId("family").textContent = record.title;
  byId("name").textContent = record.name;
  const state = byId("state");
  state.textContent = STATES[record.state] ?? record.state;
  state.classList.add(record.state);
  const when = new Date(record.written).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  byId("written").textContent = record.state === "running"
    ? `when this page was written, ${when}; load it again to see more` : when;
  for (const part of ["reason", "summary"]) {
    byId(part).textContent = record[part];
    byId(part).hidden = !record[part];
  }
  byId("progress").value = record.last ? record.step / record.last : 0;
  byId("tiles").replaceChildren(...tiles(record).map(([name, value, note]) => element("div", {},
    element("dt", {}, name), element("dd", {}, value, note ? element("small", {}, note) : ""))));
}

function tiles({ step, last, metrics, evaluations, rounds, prompts }) {
  const found = [["Steps", grouped(step), `of ${grouped(last)}`]];
  const losses = metrics.columns.loss ? pointsOf(metrics.steps, metrics.columns.loss) : [];
  if (losses.length) {
    const mean = smoothed(losses, 0.9)[losses.length - 1][1];
    found.push(["Loss", format(mean), `smoothed; ${format(losses[0][1])} at step ${losses[0][0]}`]);
  }
  const evaluated = latestLoss(evaluations);
  if (evaluated) {
    const start = evaluations.find(({ label }) => label === BASE)?.metrics[evaluated.name];
    const change = start ? `${percent(evaluated.value / start - 1)} against the base model` : evaluated.label;
    found.push(["Evaluation loss", format(evaluated.value), change]);
  }
  const count = Object.keys(prompts).length;
  if (count) {
    const times = new Set(rounds.map((round) => round.step)).size;
    found.push(["Pictures", `${count}`, `${count === 1 ? "prompt" : "prompts"}, at ${times} ${times === 1 ? "step" : "steps"}`]);
  }
  return found;
}

/** Returns the last evaluation loss of the trained weights, or of their average where that alone is evaluated. */
function latestLoss(evaluations) {
  for (const wanted of ["live", "ema"]) {
    for (const { label, metrics } of [...evaluations].reverse()) {
      const names = Object.keys(metrics).filter((name) => name.startsWith("eval_loss") && metrics[name] !== null);
      const name = names.find((each) => each.endsWith("/pooled")) ?? names[0];
      if (label === wanted && name) return { name, label, value: metrics[name] };
    }
  }
  return null;
}

function percent(share) {
  return `${share > 0 ? "+" : share < 0 ? "−" : ""}${Math.abs(100 * share).toFixed(1)} %`;
}

function showSettings(settings) {
  const given = settings.filter((row) => row.given), rest = settings.filter((row) => !row.given);
  const unread = given.filter((row) => row.unread).length;
  const note = unread ? element("p", { class: "warning" },
    unread === 1 ? "One of these settings has no effect in this run." : `${unread} of these settings have no effect in this run.`) : "";
  byId("settings-tables").replaceChildren(note, settingsTable("Settings that you gave", given), rest.length
    ? element("details", {}, element("summary", {}, `${rest.length} others, as the product or the family sets them`),
      settingsTable("Defaults", rest)) : "");
  return settings.length;
}

function settingsTable(caption, rows) {
  const head = element("tr", {}, ...["Setting", "Value", "Set by"].map((name) => element("th", { scope: "col" }, name)));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, element("table", {},
    element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...rows.map((row) =>
      element("tr", { class: row.unread && row.given ? "unread" : null },
        element("th", { scope: "row" }, row.key),
        element("td", {}, element("code", {}, row.value),
          row.unread && row.given ? element("span", { class: "reason" }, `Not read: ${row.unread}`) : ""),
        element("td", {}, row.origin))))));
}

function showOrigin(origin) {
  byId("origin-facts").replaceChildren(...Object.entries(origin).map(([name, value]) => element("div", {},
    element("dt", {}, ORIGIN[name] ?? words(name)), element("dd", {}, value))));
  return Object.keys(origin).length;
}
