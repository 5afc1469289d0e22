// Puts the page together. A section that has nothing to show is left out.

const record = JSON.parse(byId("record").textContent);
showHeading(record);
const shown = {
  pictures: showPictures(record), training: showTraining(record.metrics), evaluation: showEvaluations(record.evaluations),
  settings: showSettings(record.settings), origin: showOrigin(record.origin),
};
for (const [id, count] of Object.entries(shown)) {
  byId(id).hidden = !count;
  if (count) byId("sections").append(element("a", { href: `#${id}` }, byId(`${id}-title`).textContent));
}
