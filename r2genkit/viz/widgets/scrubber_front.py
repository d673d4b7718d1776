"""Script and style of the word scrubber (see ``front.py``)."""
# ruff: noqa: E501

STYLE = r""".r2g-scrubber .r2g-opacity { width: 8rem; }
.r2g-scrubber .r2g-bar { width: 8rem; height: .8rem; background: #777; border: 1px solid #999; }
.r2g-scrubber .r2g-columns { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 7fr); gap: 1.2rem;
  align-items: start; }
.r2g-scrubber .r2g-left { position: sticky; top: .5rem; }
.r2g-scrubber .r2g-share { font-weight: 600; color: #1b1b1b; }
.r2g-scrubber.r2g-plain .r2g-drawn, .r2g-scrubber.r2g-plain .r2g-names { display: none; }
.r2g-scrubber .r2g-names { font-size: .875rem; color: #4a4a4a; margin: .2rem 0 0; }
.r2g-scrubber .r2g-names span { margin-right: .6em; white-space: nowrap; }
.r2g-scrubber .r2g-names b { display: inline-block; min-width: 1.3em; border-radius: 3px; line-height: 1.3;
  text-align: center; color: #000; }
.r2g-scrubber .r2g-readout { min-height: 3em; margin: .5rem 0 .4rem; }
.r2g-scrubber .r2g-sentence { background: #e3edf7; }
.r2g-scrubber .r2g-heads { display: grid; gap: 3px; align-items: center; font-size: .75rem; color: #4a4a4a;
  text-align: center; }
.r2g-scrubber .r2g-heads button { display: block; padding: 2px; margin: 0; border: 1px solid #bbb; border-radius: 3px;
  background: #fff; cursor: pointer; }
.r2g-scrubber .r2g-heads button[aria-pressed="true"] { border-color: #1f3a5f; box-shadow: 0 0 0 2px #1f3a5f; }
.r2g-scrubber .r2g-heads canvas { display: block; width: 100%; height: auto; image-rendering: pixelated; }
@container r2g (max-width: 46rem) {
  .r2g-scrubber .r2g-columns { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .r2g-scrubber .r2g-report { padding: .5rem; }
  .r2g-scrubber .r2g-views figure { max-width: none; }
  /* One column: the views stay in sight, and what changes with the word stands below the text, so
     that the text does not move under the pointer. */
  .r2g-scrubber .r2g-left, .r2g-scrubber .r2g-right { display: contents; }
  .r2g-scrubber .r2g-views { position: sticky; top: 0; z-index: 1; background: #fff; padding: .2rem 0; }
  .r2g-scrubber .r2g-names, .r2g-scrubber .r2g-readout, .r2g-scrubber .r2g-about, .r2g-scrubber .r2g-number { order: 1; }
  .r2g-scrubber .r2g-choice, .r2g-scrubber .r2g-heads-box { order: 2; }
  .r2g-scrubber .r2g-legend { order: 1; }
  .r2g-scrubber .r2g-foot { order: 2; }
}
"""

BODY = r"""// The word scrubber: point at a word, and both views show where the model looked.

// All views of one word in a cell of the grid of heads: one pixel a patch, a gap between views.
function paintSmall(canvas, map, word, factor) {
  const [rows, columns] = map.grid;
  const width = map.views * (columns + 1) - 1;
  const context = fit(canvas, width, rows);
  const image = context.createImageData(width, rows);
  for (let view = 0; view < map.views; view += 1) {
    for (let i = 0; i < rows * columns; i += 1) {
      const byte = map.bytes[(word * map.views + view) * rows * columns + i];
      const colour = PALETTE[Math.min(255, Math.round(byte * factor))];
      const at = 4 * (Math.floor(i / columns) * width + view * (columns + 1) + (i % columns));
      image.data.set([...colour, 255], at);
    }
  }
  context.putImageData(image, 0, 0);
}

// --- one report ----------------------------------------------------------------------------------

class Panel {
  constructor(data, report, settings, tell) {
    this.report = report;
    this.settings = settings;
    this.tell = tell; // of pins
    this.words = report.words;
    this.maps = report.maps.map((map) => ({
      ...map,
      bytes: bytesOf(map.bytes),
      top: Math.max(0, ...map.peaks),
    }));
    this.data = data;
    this.map = 0;
    this.word = -1;
    this.pinned = -1;
    this.marks = this.words.map((_, t) =>
      report.findings.filter((mark) => mark.first <= t && t < mark.end));
    this.numbers = this.sentenceNumbers();
    this.node = this.build();
    const start = this.marks.findIndex((marks) => marks.length > 0);
    this.show(Math.max(0, start));
  }

  // Of the model's own sentences, else of those that full stops end.
  sentenceNumbers() {
    if (this.report.sentences) return this.report.sentences;
    let number = 0;
    return this.words.map((word) => {
      const own = number;
      if (word === ".") number += 1;
      return own;
    });
  }

  build() {
    this.films = filmsOf(this.data.views);
    this.films.forEach((one, v) => drawOutlines(one, this.data.masks, v));
    const views = make("div", { class: "r2g-views" }, ...this.films.map((one) => one.node));

    this.readout = make("p", { class: "r2g-readout", role: "status", "aria-live": "polite" });
    this.about = make("p", { class: "r2g-about" });
    this.number = make("p", { class: "r2g-number" });
    this.text = this.buildText();
    return make("section", { class: "r2g-report", "aria-label": this.report.title },
      make("h2", {}, this.report.title),
      make("div", { class: "r2g-columns" },
        make("div", { class: "r2g-left" }, views, this.buildNames(), this.readout, this.about, this.number),
        make("div", { class: "r2g-right" }, this.text, this.buildChoice(), this.buildHeads())));
  }

  buildNames() {
    if (!this.data.masks.length) return make("span", { hidden: true });
    return make("p", { class: "r2g-names" }, "drawn: ", ...this.data.masks.flatMap((mask, i) => {
      const number = make("b", {}, String(i + 1));
      number.style.background = mask.colour;
      return [make("span", {}, number, ` ${mask.name.replaceAll("_", " ")}`), " "];
    }));
  }

  buildText() {
    this.spans = wordSpans(this.words, this.report.findings);
    this.spans.forEach((span, t) => {
      span.removeAttribute("title"); // said by the label and by the line below the views
      span.setAttribute("aria-label", this.label(t));
    });
    const text = make("p", { class: "r2g-text", role: "group", "aria-label": `Report: ${this.report.title}. `
      + "Arrow keys go from word to word, up and down from sentence to sentence; Enter pins a word." });
    this.spans.forEach((span) => text.append(span, " "));
    if (!this.words.length) text.append(make("em", {}, "(empty report)"));
    const first = (number) => this.numbers.indexOf(number);
    const own = () => this.numbers[this.word];
    const last = this.words.length - 1;
    steppable(text, this.spans, {
      at: () => this.word,
      pinned: () => this.pinned >= 0,
      show: (t) => this.show(t),
      toggle: (t) => this.pin(t === this.pinned ? -1 : t),
      free: () => this.pin(-1),
      move: (t) => (this.pinned >= 0 ? this.pin(t) : this.show(t)),
      jumps: { // from sentence to sentence
        ArrowDown: () => (own() < this.numbers[last] ? this.numbers.findIndex((n) => n > own()) : last),
        ArrowUp: () => first(this.word > first(own()) ? own() : this.numbers[Math.max(0, this.word - 1)]),
      },
    });
    return text;
  }

  label(t) {
    const named = this.marks[t].map((mark) => `${mark.title}: ${MEANINGS[mark.polarity]}`);
    return [`${this.words[t]}, word ${t + 1} of ${this.words.length}`, ...named].join("; ");
  }

  buildChoice() {
    this.select = make("select", {}, ...this.maps.map((map, i) => make("option", { value: i }, map.name)));
    this.select.addEventListener("change", () => this.choose(Number(this.select.value)));
    return this.maps.length > 1
      ? make("label", { class: "r2g-choice" }, "map ", this.select)
      : make("span", { hidden: true });
  }

  // A cell per layer and head, each with the word's map in small.
  buildHeads() {
    this.cells = [];
    const heads = this.maps.map((map, i) => ({ map, i })).filter(({ map }) => map.head);
    if (heads.length < 2) return make("span", { hidden: true });
    const layers = Math.max(...heads.map(({ map }) => map.head[0]));
    const columns = Math.max(...heads.map(({ map }) => map.head[1]));
    const grid = make("div", { class: "r2g-heads", role: "group", "aria-label": "layers and heads" });
    grid.style.gridTemplateColumns = `1.2rem repeat(${columns}, minmax(0, 4.2rem))`;
    grid.append(make("span"), ...Array.from({ length: columns }, (_, h) => make("span", {}, String(h + 1))));
    for (let layer = 1; layer <= layers; layer += 1) {
      grid.append(make("span", {}, String(layer)));
      for (let head = 1; head <= columns; head += 1) {
        const found = heads.find(({ map }) => map.head[0] === layer && map.head[1] === head);
        if (!found) {
          grid.append(make("span"));
          continue;
        }
        const canvas = make("canvas", { "aria-hidden": "true" });
        const cell = make("button", { type: "button", title: found.map.name,
          "aria-label": found.map.name, "aria-pressed": "false" }, canvas);
        cell.addEventListener("click", () => this.choose(this.map === found.i ? 0 : found.i));
        this.cells.push({ cell, canvas, index: found.i });
        grid.append(cell);
      }
    }
    this.heads = make("details", { class: "r2g-heads-box", open: true },
      make("summary", {}, "every layer (rows) and head (columns) at this word"), grid);
    this.heads.addEventListener("toggle", () => this.draw());
    return this.heads;
  }

  choose(index) {
    this.map = index;
    this.select.value = String(index);
    this.draw();
  }

  pin(t) {
    if (this.pinned >= 0) this.spans[this.pinned].setAttribute("aria-pressed", "false");
    this.pinned = t;
    if (t >= 0) this.spans[t].setAttribute("aria-pressed", "true");
    this.tell(t);
    this.show(t >= 0 ? t : this.word);
  }

  show(t) {
    if (!(t >= 0 && t < this.words.length)) return;
    const old = this.spans[this.word];
    if (old) {
      old.tabIndex = -1;
      old.removeAttribute("aria-current");
    }
    this.word = t;
    this.spans[t].tabIndex = 0;
    this.spans[t].setAttribute("aria-current", "true");
    if (this.report.sentences) {
      this.spans.forEach((span, i) =>
        span.classList.toggle("r2g-sentence", this.numbers[i] === this.numbers[t]));
    }
    this.draw();
  }

  draw() {
    const map = this.maps[this.map];
    this.about.textContent = map.about;
    this.number.textContent = map.number;
    this.number.hidden = !map.number;
    const t = this.word;
    if (t < 0) return;
    const factor = (one) => (this.settings.shared && one.top > 0 ? one.peaks[t] / one.top : 1);
    this.films.forEach(({ canvas, share }, v) => {
      paint(canvas, map, t, v, factor(map), this.settings);
      share.textContent = percent(map.shares[t][v]);
    });
    for (const { cell, canvas, index } of this.cells) {
      cell.setAttribute("aria-pressed", String(index === this.map));
      if (this.heads.open) paintSmall(canvas, this.maps[index], t, factor(this.maps[index]));
    }
    this.tellWord(map, t);
  }

  tellWord(map, t) {
    const facts = [];
    facts.push(map.peaks[t] > 0
      ? `strongest patch ${map.peaks[t].toFixed(1)} \u00d7 an even look`
        + (map.peaks[t] < 1.2 ? " (nearly everywhere alike)" : "")
      : "this map has nothing for this word");
    if (this.report.sentences) facts.push(`sentence ${this.numbers[t] + 1}: all its words share this map`);
    for (const mark of this.marks[t]) {
      const trigger = mark.trigger.map((i) => this.words[i]).join(" ");
      facts.push(`${SIGNS[mark.polarity]} ${mark.title}: ${MEANINGS[mark.polarity]}`
        + (trigger ? ` (\u201c${trigger}\u201d)` : ""));
    }
    this.readout.replaceChildren(make("strong", {}, `${t + 1}. ${this.words[t]}`),
      this.pinned === t ? make("em", {}, " pinned") : "", ` \u2014 ${facts.join("; ")}.`);
  }

  state() {
    return { title: this.report.title, word: this.word, pinned: this.pinned,
      map: this.maps[this.map].name, words: this.words.length };
  }
}

// --- the whole -----------------------------------------------------------------------------------

function legend(settings) {
  const bar = make("canvas", { class: "r2g-bar", "aria-hidden": "true" });
  const end = make("span");
  const draw = () => {
    const context = fit(bar, 256, 1);
    const image = context.createImageData(256, 1);
    PALETTE.forEach((colour, level) => image.data.set([...colour, opacityOf(level, settings.opacity)], 4 * level));
    context.putImageData(image, 0, 0);
    end.textContent = settings.shared ? "strongest patch of the report" : "strongest patch of the word";
  };
  const node = make("div", { class: "r2g-legend" },
    make("span", { class: "r2g-scale" }, "no attention ", bar, " ", end), ...findingsKey());
  return { node, draw };
}

function draw(root, data, ask, tell) {
  const settings = { opacity: data.opacity, smooth: true, shared: false, outlines: true };
  let drawn = 0;
  const panels = data.reports.map((report, i) => new Panel(data, report, settings, (t) => tell({ pinned: [i, t] })));
  const key = legend(settings);
  const redraw = () => {
    const start = performance.now();
    root.classList.toggle("r2g-plain", !settings.outlines);
    key.draw();
    panels.forEach((panel) => panel.draw());
    drawn = performance.now() - start;
  };

  const slider = make("input", { type: "range", min: 0, max: 100, step: 5,
    value: Math.round(100 * settings.opacity), class: "r2g-opacity" });
  slider.addEventListener("input", () => {
    settings.opacity = Number(slider.value) / 100;
    redraw();
  });
  const box = (name, text) => {
    const input = make("input", { type: "checkbox", class: `r2g-${name}` });
    input.checked = settings[name];
    input.addEventListener("change", () => {
      settings[name] = input.checked;
      redraw();
    });
    return make("label", {}, input, ` ${text}`);
  };
  const controls = make("div", { class: "r2g-controls" },
    make("label", {}, "opacity ", slider),
    box("smooth", "smooth between patches"),
    box("shared", "one scale for the whole report"));
  if (data.masks.length) controls.append(box("outlines", "outlines of what was drawn"));

  root.append(...heading(data), make("p", { class: "r2g-note" },
    "Point at a word, or tab to the text and use the arrow keys; a click or Enter pins a word, Escape lets it go."),
  controls, key.node, ...panels.map((panel) => panel.node),
  make("p", { class: "r2g-foot" },
    "A map shows what the model attended to while it wrote a word, not that the word depends on it. "
    + "The nearer a look is to even, the fainter it is drawn: nothing at 1 \u00d7, all of it from 2 \u00d7 on. "
    + "Maps are stored in 256 steps: values are off by at most 0.2\u202f% of a word's strongest patch. "
    + "Findings are marked by the kit's rules."));
  redraw();

  return {
    select: (t, report = 0) => panels[report].show(t),
    pin: (t, report = 0) => panels[report].pin(t),
    map: (index, report = 0) => panels[report].choose(index),
    state: () => ({ ...settings, drawn, reports: panels.map((panel) => panel.state()) }),
  };
}
"""
