// What training measures: a chart for each metric, and one for each group of metrics.

const NAMES = { learning_rate: "learning rate", grad_max_abs: "largest gradient value", grad_norm: "gradient norm" };

function showTraining({ steps, columns }) {
  const names = Object.keys(columns).sort((one, other) => rank(one) - rank(other));
  const drawn = [];
  for (const [group, entries] of groups(names)) {
    const ordered = isOrdered(entries), hues = colors(entries.length, ordered);
    if (ordered) entries.sort((one, other) => parseFloat(one.short) - parseFloat(other.short));
    const series = entries.map(({ name, short }, place) => ({
      name: NAMES[short] ?? words(short), color: hues[place], points: pointsOf(steps, columns[name]),
    })).filter(({ points }) => points.length);
    if (!series.length) continue;
    const title = NAMES[group] ?? words(group);
    drawn.push(new Chart(title, { x: "step", xs: extent(steps), smooth: group !== "learning_rate" }, series));
  }
  byId("training-charts").replaceChildren(...drawn.map(({ figure }) => figure));
  connectSmoothing(steps.length);
  return drawn.length;
}

function rank(name) {
  return name === "loss" ? 0 : name.includes("loss") ? 1 : name === "learning_rate" ? 2 : 3;
}

function words(name) {
  return name.replaceAll("_", " ");
}

function pointsOf(steps, values) {
  const points = [];
  values.forEach((value, place) => {
    if (value !== null) points.push([steps[place], value]);
  });
  return points;
}

function connectSmoothing(count) {
  const slider = byId("smoothing");
  slider.value = count > 2000 ? 0.97 : count > 100 ? 0.9 : 0.6;
  const apply = () => {
    byId("smoothing-value").value = slider.value;
    smoothCharts(Number(slider.value));
  };
  slider.addEventListener("input", apply);
  apply();
}
