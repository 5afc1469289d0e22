// Evaluations: values over the steps with the base model's as a level, and curves such as the loss by noise level.

const BASE = "base model";
const MOST_CURVES = 6;

/** Returns what people call the weights of a label. */
function weights(label) {
  return label === "ema" ? "EMA" : label;
}

function showEvaluations(evaluations) {
  const base = evaluations.find(({ label }) => label === BASE);
  const trained = evaluations.filter(({ label }) => label !== BASE);
  const drawn = [...valueCharts(base, trained), ...curveCharts(base, trained)];
  byId("evaluation-charts").replaceChildren(...drawn.map(({ figure }) => figure));
  return drawn.length;
}

function valueCharts(base, trained) {
  const names = new Set([base, ...trained].flatMap((entry) => Object.keys(entry?.metrics ?? {})));
  return [...groups(names)].map(([group, entries]) => {
    const hues = colors(entries.length, isOrdered(entries)), levels = [], series = [];
    entries.forEach(({ name, short }, place) => {
      const start = base?.metrics[name] ?? null;
      const of = entries.length > 1 || short !== group ? `${short}, ` : "";
      if (start !== null) levels.push({ name: `${of}${BASE}`, color: hues[place], y: start });
      for (const label of new Set(trained.map((entry) => entry.label))) {
        const points = trained.filter((entry) => entry.label === label && (entry.metrics[name] ?? null) !== null)
          .map((entry) => [entry.step, entry.metrics[name]]);
        if (!points.length) continue;
        if (start !== null && points[0][0] > 0) points.unshift([0, start]);
        series.push({ name: `${of}${weights(label)}`, color: hues[place], points, dashed: label !== "live" });
      }
    });
    if (!series.length) series.push(...levels.map((level) => ({ ...level, y: undefined, points: [[0, level.y]] })));
    return series.length ? new Chart(words(group), { x: "step" }, series, levels) : null;
  }).filter(Boolean);
}

function curveCharts(base, trained) {
  const names = new Set([base, ...trained].flatMap((entry) => Object.keys(entry?.curves ?? {})));
  return [...names].map((name) => {
    const holders = trained.filter((entry) => entry.curves[name]?.length);
    const live = spread(holders.filter(({ label }) => label === "live"), MOST_CURVES);
    const others = holders.filter(({ label }) => label !== "live").slice(-1);
    const hues = colors(live.length, true);
    const series = live.map((entry, place) => curve(entry, name, hues[place]));
    series.push(...others.map((entry) => curve(entry, name, "var(--series-1)", true)));
    if (base?.curves[name]?.length) series.unshift(curve(base, name, "var(--faint)", true));
    const shown = series.filter(({ points }) => points.length);
    const [group, ...rest] = name.split("/");
    const title = [words(group), ...rest].join(", ");
    return shown.length ? new Chart(title, { x: group.includes("sigma") ? "sigma" : "x" }, shown) : null;
  }).filter(Boolean);
}

function curve({ step, label, curves }, name, color, dashed = false) {
  const points = curves[name].filter(([x, y]) => x !== null && y !== null).sort(([one], [other]) => one - other);
  return { name: label === BASE ? BASE : `step ${grouped(step)}, ${weights(label)}`, color, points, dashed };
}

/** Returns `most` of the entries, evenly spread, the last one among them. */
function spread(entries, most) {
  const stride = Math.max(1, (entries.length - 1) / (most - 1));
  const places = new Set(Array.from({ length: Math.min(most, entries.length) }, (_, place) => Math.round(place * stride)));
  return entries.filter((_, place) => places.has(place));
}
