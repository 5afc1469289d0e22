// The gallery: a card for each prompt, a slider over the steps for all of them and for each, the base model beside.

class Gallery {
  constructor({ rounds, prompts }) {
    this.prompts = prompts;
    this.steps = [...new Set(rounds.map(({ step }) => step))].sort((one, other) => one - other);
    this.rounds = new Map(rounds.map((round) => [`${round.step} ${round.label}`, round]));
    const labels = new Set(rounds.map(({ label }) => label));
    const trained = [...labels].filter((label) => label !== BASE);
    this.labels = labels.has(BASE) ? [BASE, ...trained] : trained;
    this.visible = new Set(this.labels);
    this.size = 0;
    this.cards = Object.keys(prompts).map((nickname) => new Card(this, nickname));
    this.slider = new StepSlider(this, "Step of all pictures", (place) => this.moveTo(place));
    this.closeup = new Closeup(this);
    this.sheet = element("a", { class: "sheet" }, "contact sheet");
    byId("toolbar").replaceChildren(this.slider.node, ...this.toggles(), ...this.sizes(), ...this.search(), this.sheet);
    byId("gallery").replaceChildren(...this.cards.map(({ node }) => node));
    document.addEventListener("keydown", (event) => this.key(event));
    this.moveTo(this.steps.length - 1);
  }

  moveTo(place) {
    this.place = place;
    this.slider.show(place);
    for (const card of this.cards) card.moveTo(place);
    const step = this.steps[place];
    const sheets = ["live", ...this.labels].map((label) => this.rounds.get(`${step} ${label}`)?.sheet);
    const sheet = sheets.find(Boolean);
    this.sheet.hidden = !sheet;
    if (sheet) this.sheet.href = address(sheet);
  }

  redraw() {
    byId("gallery").style.setProperty("--columns", Math.max(1, this.visible.size));
    for (const card of this.cards) card.draw();
  }

  /** Left and right move all pictures, unless something that has the focus needs the keys itself. */
  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
    if (event.target.closest("input, select, .plot, dialog, .scroll")) return;
    event.preventDefault();
    this.moveTo(Math.min(this.steps.length - 1, Math.max(0, this.place + move)));
  }

  /** Returns what is shown of a prompt at a step: [label, step, picture or null] for each column. */
  columns(nickname, step) {
    const found = this.labels.filter((label) => this.visible.has(label)).map((label) => {
      const at = label === BASE ? 0 : step;
      const round = this.rounds.get(`${at} ${label}`) ?? (at === 0 ? this.rounds.get(`0 ${BASE}`) : undefined);
      return [label, at, round?.pictures[nickname]?.[this.size] ?? null];
    });
    // Before the first step all weights are the base model's.
    const several = found.filter(([label]) => label === BASE || step > 0);
    return several.length ? several : found.slice(0, 1);
  }

  toggles() {
    if (this.labels.length < 2) return [];
    const boxes = this.labels.map((label) => {
      const box = element("input", { type: "checkbox", value: label, checked: true, onchange: () => {
        if (box.checked) this.visible.add(label);
        else this.visible.delete(label);
        this.redraw();
      } });
      return element("label", {}, box, weights(label));
    });
    return [element("fieldset", { class: "toggles" }, element("legend", { class: "hidden" }, "Weights"), ...boxes)];
  }

  sizes() {
    const named = [];
    for (const round of this.rounds.values()) {
      for (const pictures of Object.values(round.pictures)) {
        pictures.forEach(([, width, height], place) => { named[place] ??= `${width} × ${height}`; });
      }
    }
    if (named.length < 2) return [];
    const select = element("select", { onchange: () => {
      this.size = Number(select.value);
      this.redraw();
    } }, ...named.map((name, place) => element("option", { value: place }, name)));
    return [element("label", { class: "control" }, "Size", select)];
  }

  search() {
    if (this.cards.length < 8) return [];
    const field = element("input", { type: "search", placeholder: "words of a prompt", oninput: () => {
      const wanted = field.value.toLowerCase();
      for (const card of this.cards) card.node.hidden = !card.text.includes(wanted);
    } });
    return [element("label", { class: "control" }, "Find", field)];
  }
}

/** A slider over the steps that have pictures, with buttons beside it. */
class StepSlider {
  constructor(gallery, name, moved) {
    this.steps = gallery.steps;
    const last = this.steps.length - 1;
    this.input = element("input", {
      type: "range", min: 0, max: last, step: 1, "aria-label": name, oninput: () => moved(Number(this.input.value)),
    });
    this.output = element("output", {});
    const button = (sign, move, title) => element("button", { type: "button", "aria-label": `${title}, ${name}`, onclick: () =>
      moved(Math.min(last, Math.max(0, Number(this.input.value) + move))) }, sign);
    this.node = element("div", { class: "steps" }, button("‹", -1, "Earlier"), this.input, button("›", 1, "Later"), this.output);
  }

  show(place) {
    const text = this.steps[place] ? `step ${grouped(this.steps[place])}` : "base";
    this.input.value = place;
    this.input.setAttribute("aria-valuetext", text);
    this.output.value = text;
  }
}

/** A prompt and its pictures. */
class Card {
  constructor(gallery, nickname) {
    Object.assign(this, { gallery, nickname, prompt: gallery.prompts[nickname], place: 0 });
    this.text = `${nickname} ${this.prompt}`.toLowerCase();
    this.strip = element("div", { class: "strip" });
    this.slider = new StepSlider(gallery, `Step of ${nickname}`, (place) => this.moveTo(place));
    this.node = element("article", { class: "card" }, element("h3", { dir: "auto" }, nickname),
      element("p", { class: "prompt", dir: "auto", title: this.prompt }, this.prompt || "(the empty prompt)"), this.strip, this.slider.node);
  }

  moveTo(place) {
    this.place = place;
    this.slider.show(place);
    this.draw();
  }

  draw() {
    const step = this.gallery.steps[this.place], columns = this.gallery.columns(this.nickname, step);
    this.strip.classList.toggle("start", step === 0);
    fillStrip(this.strip, columns, this.prompt || this.nickname, () => this.gallery.closeup.open(this));
  }
}

/** A prompt's pictures as large as the window allows. */
class Closeup {
  constructor(gallery) {
    this.gallery = gallery;
    this.dialog = byId("closeup");
    byId("closeup-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || event.target.matches("input")) return;
      event.preventDefault();
      this.moveTo(Math.min(gallery.steps.length - 1, Math.max(0, this.card.place + move)));
    });
    this.slider = new StepSlider(gallery, "Step of this picture", (place) => this.moveTo(place));
    byId("closeup-steps").replaceWith(this.slider.node);
  }

  open(card) {
    this.card = card;
    byId("closeup-title").textContent = card.nickname;
    byId("closeup-prompt").textContent = card.prompt;
    byId("closeup-strip").replaceChildren();
    this.moveTo(card.place);
    this.dialog.showModal();
  }

  moveTo(place) {
    this.card.moveTo(place);
    this.slider.show(place);
    const columns = this.gallery.columns(this.card.nickname, this.gallery.steps[place]);
    fillStrip(byId("closeup-strip"), columns, this.card.prompt || this.card.nickname, null);
  }
}

/** Shows pictures beside each other. What is there is used again, so that nothing flickers while a slider moves. */
function fillStrip(strip, columns, text, opened) {
  while (strip.children.length > columns.length) strip.lastChild.remove();
  while (strip.children.length < columns.length) strip.append(frame(opened));
  columns.forEach(([label, step, picture], place) => {
    const figure = strip.children[place], image = figure.querySelector("img"), missing = figure.querySelector(".missing");
    const name = weights(label), when = step ? `step ${grouped(step)}` : "before step 1";
    image.hidden = !picture;
    missing.hidden = Boolean(picture);
    figure.querySelector("figcaption").replaceChildren(element("b", {}, step ? name : BASE), step ? ` ${when}` : "");
    if (!picture) return image.removeAttribute("src");
    const [file, width, height] = picture;
    if (image.getAttribute("src") !== address(file)) {
      Object.assign(image, { width, height, alt: `${text}, ${name}, ${when}` });
      image.src = address(file);
    }
  });
}

function frame(opened) {
  const image = element("img", { loading: "lazy", decoding: "async" });
  const held = opened ? element("button", { type: "button", class: "open", title: "Larger", onclick: opened }, image) : image;
  return element("figure", {}, held, element("p", { class: "missing" }, "no picture"), element("figcaption", {}));
}

function showPictures(record) {
  if (!record.rounds.length) return 0;
  new Gallery(record).redraw();
  return record.rounds.length;
}
