"""Script and style of the word scrubber: one front end for the page and for the widget.

They stand in a Python module because every other kind of file in this package is a table that
belongs to the fingerprint of each result row (``environment.code_hash``), and a changed button must
not call finished runs old.
"""
# ruff: noqa: E501

STYLE = r""".r2g-scrubber {
  --positive: #b34700; --negative: #0b63a0; --uncertain: #8a6500;
  container: r2g / inline-size; display: flex; flex-direction: column; box-sizing: border-box; max-width: 78rem; padding: 1rem; background: #fff; color: #1b1b1b;
  color-scheme: light; font: 16px/1.5 system-ui, sans-serif; text-align: left;
}
.r2g-scrubber *, .r2g-scrubber *::before { box-sizing: border-box; }
.r2g-scrubber [hidden] { display: none; }
.r2g-scrubber h1 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
.r2g-scrubber h2 { font-size: 1.05rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.r2g-scrubber p { margin: 0 0 .4rem; }
.r2g-synthetic { border-left: 4px solid #b34700; padding: .2rem .6rem; background: #fdf1e8; }
.r2g-note, .r2g-about, .r2g-foot { color: #4a4a4a; font-size: .875rem; }
.r2g-foot { border-top: 1px solid #ddd; margin-top: 1rem; padding-top: .5rem; }
.r2g-number { font-size: .95rem; font-weight: 600; }

.r2g-controls, .r2g-legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; align-items: center;
  font-size: .875rem; margin: .5rem 0; }
.r2g-controls label { display: inline-flex; align-items: center; gap: .35rem; }
.r2g-opacity { width: 8rem; }
.r2g-scale { display: inline-flex; align-items: center; gap: .4rem; flex-wrap: wrap; }
.r2g-bar { width: 8rem; height: .8rem; background: #777; border: 1px solid #999; }
.r2g-key { white-space: nowrap; }

.r2g-report { border: 1px solid #ccc; border-radius: 6px; padding: .8rem; margin: .8rem 0; }
.r2g-columns { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 7fr); gap: 1.2rem;
  align-items: start; }
.r2g-left { position: sticky; top: .5rem; }
.r2g-views { display: flex; gap: .4rem; }
.r2g-views figure { flex: 1 1 0; min-width: 0; max-width: 24rem; margin: 0; }
.r2g-views figcaption { font-size: .875rem; color: #4a4a4a; }
.r2g-share { font-weight: 600; color: #1b1b1b; }
.r2g-film { position: relative; background: #000; line-height: 0; }
.r2g-film img { display: block; width: 100%; height: auto; margin: 0; }
.r2g-film .r2g-heat, .r2g-film .r2g-drawn { position: absolute; inset: 0; width: 100%; height: 100%;
  pointer-events: none; }
.r2g-drawn text { font-family: system-ui, sans-serif; font-weight: 600; stroke: #000;
  stroke-width: .22em; paint-order: stroke; }
.r2g-plain .r2g-drawn, .r2g-plain .r2g-names { display: none; }
.r2g-scrubber .r2g-names { font-size: .875rem; color: #4a4a4a; margin: .2rem 0 0; }
.r2g-names span { margin-right: .6em; white-space: nowrap; }
.r2g-names b { display: inline-block; min-width: 1.3em; border-radius: 3px; line-height: 1.3;
  text-align: center; color: #000; }
.r2g-scrubber .r2g-readout { min-height: 3em; margin: .5rem 0 .4rem; }
.r2g-choice { display: block; margin: 0 0 .4rem; font-size: .875rem; }
.r2g-choice select { font: inherit; max-width: 100%; padding: .15rem .3rem; color: inherit;
  background: #fff; border: 1px solid #888; border-radius: 4px; }

.r2g-scrubber .r2g-text { line-height: 2.1; margin: 0 0 .6rem; overflow-wrap: anywhere; }
.r2g-word { border-bottom: 3px solid transparent; border-radius: 3px 3px 0 0; padding: 2px 3px; }
.r2g-text .r2g-word { cursor: pointer; }
.r2g-word sup { font-weight: 700; font-size: .75em; line-height: 1; margin-left: 1px; }
.r2g-positive { border-bottom-color: var(--positive); }
.r2g-negative { border-bottom: 3px dashed var(--negative); }
.r2g-uncertain { border-bottom: 3px dotted var(--uncertain); }
.r2g-positive sup { color: var(--positive); }
.r2g-negative sup { color: var(--negative); }
.r2g-uncertain sup { color: var(--uncertain); }
.r2g-trigger { outline: 1px dashed #777; outline-offset: -2px; border-radius: 3px; }
.r2g-sentence { background: #e3edf7; }
.r2g-word[aria-current="true"] { background: #1f3a5f; color: #fff; outline: none; }
.r2g-word[aria-current="true"] sup { color: #fff; }
.r2g-word[aria-pressed="true"] { box-shadow: 0 0 0 2px #fff, 0 0 0 4px #1f3a5f; }
.r2g-word:focus-visible, .r2g-heads button:focus-visible { outline: 3px solid #c75b00; outline-offset: 2px; }

.r2g-scrubber summary { font-size: .875rem; cursor: pointer; margin-bottom: .3rem; }
.r2g-heads { display: grid; gap: 3px; align-items: center; font-size: .75rem; color: #4a4a4a;
  text-align: center; }
.r2g-heads button { display: block; padding: 2px; margin: 0; border: 1px solid #bbb; border-radius: 3px;
  background: #fff; cursor: pointer; }
.r2g-heads button[aria-pressed="true"] { border-color: #1f3a5f; box-shadow: 0 0 0 2px #1f3a5f; }
.r2g-heads canvas { display: block; width: 100%; height: auto; image-rendering: pixelated; }

/* By its own width, not the window's: in a notebook it stands in a cell. */
@media (max-width: 50rem) { .r2g-scrubber { padding: .6rem; } }
@container r2g (max-width: 46rem) {
  .r2g-columns { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .r2g-report { padding: .5rem; }
  .r2g-views figure { max-width: none; }
  /* One column: the views stay in sight, and what changes with the word stands below the text, so
     that the text does not move under the pointer. */
  .r2g-left, .r2g-right { display: contents; }
  .r2g-views { position: sticky; top: 0; z-index: 1; background: #fff; padding: .2rem 0; }
  .r2g-names, .r2g-readout, .r2g-about, .r2g-number { order: 1; }
  .r2g-choice, .r2g-heads-box { order: 2; }
  .r2g-legend { order: 1; }
  .r2g-foot { order: 2; }
}
"""

SCRIPT = r"""// The word scrubber: point at a word, and both views show where the model looked.
//
// One front end, two hosts. A page calls mount(root, data) once; anywidget takes the default export
// and calls render({ model, el }). Data come from r2genkit.viz.widgets.scrubber.payload. Texts reach
// the page as text nodes and attributes only, never as markup; nothing is fetched.

const SIGNS = { negative: "\u2212", uncertain: "?", positive: "+" }; // weakest first
const MEANINGS = { positive: "affirmed", negative: "denied or stated normal", uncertain: "doubted" };
const STRENGTH = Object.keys(SIGNS);
const PIXELS = 168; // a map is painted with at least so many pixels a side

// Viridis at ninths.
const ANCHORS = [
  [68, 1, 84], [72, 40, 120], [62, 73, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
];

const PALETTE = Array.from({ length: 256 }, (_, level) => {
  const place = (level / 255) * (ANCHORS.length - 1);
  const low = Math.min(Math.floor(place), ANCHORS.length - 2);
  return ANCHORS[low].map((from, i) => Math.round(from + (ANCHORS[low + 1][i] - from) * (place - low)));
});

// Weak attention lets the image through.
const opacityOf = (level, opacity) => Math.round(255 * opacity * Math.sqrt(level / 255));

// A look that is spread evenly names no place: at a peak of 1 nothing is drawn, from 2 on all of it.
const fading = (peak) => Math.min(1, Math.max(0, peak - 1));

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children);
  return node;
}

function makeSvg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// --- painting ------------------------------------------------------------------------------------

// Where each of size * zoom pixels lies between patches: the patch before it and the share of the next.
function between(size, zoom, smooth) {
  const low = new Int32Array(size * zoom);
  const next = new Int32Array(size * zoom);
  const share = new Float32Array(size * zoom);
  for (let i = 0; i < size * zoom; i += 1) {
    if (smooth) {
      const centre = Math.min(Math.max((i + 0.5) / zoom - 0.5, 0), size - 1);
      low[i] = Math.min(Math.floor(centre), Math.max(size - 2, 0));
      share[i] = centre - low[i];
    } else {
      low[i] = Math.floor(i / zoom);
    }
    next[i] = Math.min(low[i] + 1, size - 1);
  }
  return { low, next, share };
}

function fit(canvas, width, height) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  return canvas.getContext("2d");
}

// Bytes of one word and view, as colours of the palette over the image.
function paint(canvas, map, word, view, factor, settings) {
  const [rows, columns] = map.grid;
  const zoom = Math.max(1, Math.ceil(PIXELS / Math.max(rows, columns)));
  const width = columns * zoom;
  const height = rows * zoom;
  const context = fit(canvas, width, height);
  const image = context.createImageData(width, height);
  const start = (word * map.views + view) * rows * columns;
  const across = between(columns, zoom, settings.smooth);
  const down = between(rows, zoom, settings.smooth);
  const opacity = settings.opacity * fading(map.peaks[word]);
  const alphas = PALETTE.map((_, level) => opacityOf(level, opacity));
  let at = 0;
  for (let y = 0; y < height; y += 1) {
    const above = start + down.low[y] * columns;
    const below = start + down.next[y] * columns;
    const v = down.share[y];
    for (let x = 0; x < width; x += 1) {
      const u = across.share[x];
      const upper = map.bytes[above + across.low[x]] * (1 - u) + map.bytes[above + across.next[x]] * u;
      const lower = map.bytes[below + across.low[x]] * (1 - u) + map.bytes[below + across.next[x]] * u;
      const level = Math.min(255, Math.round((upper * (1 - v) + lower * v) * factor));
      const colour = PALETTE[level];
      image.data[at] = colour[0];
      image.data[at + 1] = colour[1];
      image.data[at + 2] = colour[2];
      image.data[at + 3] = alphas[level];
      at += 4;
    }
  }
  context.putImageData(image, 0, 0);
}

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

const percent = (share) => `${Math.round(100 * share)}\u202f%`;

class Panel {
  constructor(data, report, settings, tell) {
    this.report = report;
    this.settings = settings;
    this.tell = tell; // of pins
    this.words = report.words;
    this.maps = report.maps.map((map) => ({
      ...map,
      views: data.views.length,
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
    this.films = this.data.views.map((view) => {
      const canvas = make("canvas", { class: "r2g-heat", "aria-hidden": "true" });
      const film = make("div", { class: "r2g-film" },
        make("img", { src: view.image, alt: `${view.name} view`, width: view.width, height: view.height }),
        canvas);
      const share = make("span", { class: "r2g-share" });
      return { film, canvas, share, view };
    });
    this.films.forEach((one, v) => this.drawOutlines(one, v));
    const views = make("div", { class: "r2g-views" }, ...this.films.map((one) =>
      make("figure", {}, one.film, make("figcaption", {}, one.view.name, " ", one.share))));

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

  // Each outline bears a number beside its colour; the names stand below the views.
  drawOutlines({ film, view }, v) {
    const drawn = this.data.masks.map((mask, i) => ({ ...mask, i })).filter((mask) => mask.paths[v]);
    if (!drawn.length) return;
    const unit = view.width / 100;
    film.append(makeSvg("svg", { class: "r2g-drawn", viewBox: `0 0 ${view.width} ${view.height}`,
      preserveAspectRatio: "none", "aria-hidden": "true" },
    ...drawn.map((mask) => makeSvg("path", { d: mask.paths[v], fill: "none", stroke: mask.colour,
      "stroke-width": 0.9 * unit })),
    ...drawn.map((mask) => {
      const [x, y] = mask.tops[v];
      return makeSvg("text", { x: Math.min(Math.max(x, 4 * unit), view.width - 4 * unit),
        y: Math.max(y - unit, 7 * unit), fill: mask.colour, "font-size": 7 * unit,
        "text-anchor": "middle" }, String(mask.i + 1));
    })));
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
    this.spans = this.words.map((word, t) => {
      const marks = this.marks[t];
      const span = make("span", { class: "r2g-word", role: "button", tabindex: "-1",
        "data-word": t, "aria-pressed": "false", "aria-label": this.label(t) }, word);
      const strongest = Math.max(-1, ...marks.map((mark) => STRENGTH.indexOf(mark.polarity)));
      if (strongest >= 0) span.classList.add(`r2g-${STRENGTH[strongest]}`);
      const ending = new Set(marks.filter((mark) => mark.end === t + 1).map((mark) => SIGNS[mark.polarity]));
      if (ending.size) span.append(make("sup", { "aria-hidden": "true" }, [...ending].join("")));
      if (this.report.findings.some((mark) => mark.trigger.includes(t))) span.classList.add("r2g-trigger");
      return span;
    });
    const text = make("p", { class: "r2g-text", role: "group", "aria-label": `Report: ${this.report.title}. `
      + "Arrow keys go from word to word, up and down from sentence to sentence; Enter pins a word." });
    this.spans.forEach((span) => text.append(span, " "));
    if (!this.words.length) text.append(make("em", {}, "(empty report)"));
    const wordAt = (event) => {
      const span = event.target.closest("[data-word]");
      return span ? Number(span.dataset.word) : -1;
    };
    text.addEventListener("mouseover", (event) => {
      const t = wordAt(event);
      if (t >= 0 && this.pinned < 0) this.show(t);
    });
    text.addEventListener("focusin", (event) => {
      const t = wordAt(event);
      if (t >= 0 && this.pinned < 0) this.show(t);
    });
    text.addEventListener("click", (event) => {
      const t = wordAt(event);
      if (t >= 0) this.pin(t === this.pinned ? -1 : t);
    });
    text.addEventListener("keydown", (event) => this.key(event));
    return text;
  }

  label(t) {
    const named = this.marks[t].map((mark) => `${mark.title}: ${MEANINGS[mark.polarity]}`);
    return [`${this.words[t]}, word ${t + 1} of ${this.words.length}`, ...named].join("; ");
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.words.length - 1;
    const first = (number) => this.numbers.indexOf(number);
    const own = this.numbers[this.word];
    const moves = {
      ArrowRight: () => Math.min(last, this.word + 1),
      ArrowLeft: () => Math.max(0, this.word - 1),
      ArrowDown: () => (own < this.numbers[last] ? this.numbers.findIndex((n) => n > own) : last),
      ArrowUp: () => (this.word > first(own) ? first(own) : first(this.numbers[Math.max(0, this.word - 1)])),
      Home: () => 0,
      End: () => last,
    };
    if (event.key in moves) {
      const t = moves[event.key]();
      if (this.pinned >= 0) this.pin(t);
      else this.show(t);
      this.spans[t].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      this.pin(this.word === this.pinned ? -1 : this.word);
    } else if (event.key === "Escape") {
      this.pin(-1);
    } else {
      return;
    }
    event.preventDefault();
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
  const signs = ["positive", "negative", "uncertain"].map((polarity) => make("span", { class: "r2g-key" },
    make("span", { class: `r2g-word r2g-${polarity}` }, "word", make("sup", {}, SIGNS[polarity])),
    ` ${MEANINGS[polarity]}`));
  signs.push(make("span", { class: "r2g-key" },
    make("span", { class: "r2g-word r2g-trigger" }, "word"), " denies or doubts"));
  const node = make("div", { class: "r2g-legend" },
    make("span", { class: "r2g-scale" }, "no attention ", bar, " ", end), ...signs);
  return { node, draw };
}

export function mount(root, data, tell = () => {}) {
  const settings = { opacity: data.opacity, smooth: true, shared: false, outlines: true };
  let drawn = 0;
  root.replaceChildren();
  root.classList.add("r2g-scrubber");
  const panels = data.reports.map((report, i) => new Panel(data, report, settings, (t) => tell(i, t)));
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

  root.append(make("h1", {}, data.title));
  if (data.synthetic) root.append(make("p", { class: "r2g-synthetic" }, data.synthetic));
  for (const note of data.notes) root.append(make("p", { class: "r2g-note" }, note));
  root.append(make("p", { class: "r2g-note" },
    "Point at a word, or tab to the text and use the arrow keys; a click or Enter pins a word, Escape lets it go."),
  controls, key.node, ...panels.map((panel) => panel.node),
  make("p", { class: "r2g-foot" },
    "A map shows what the model attended to while it wrote a word, not that the word depends on it. "
    + "The nearer a look is to even, the fainter it is drawn: nothing at 1 \u00d7, all of it from 2 \u00d7 on. "
    + "Maps are stored in 256 steps: values are off by at most 0.2\u202f% of a word's strongest patch. "
    + "Findings are marked by the kit's rules."));
  redraw();

  root.r2genkitScrubber = {
    select: (t, report = 0) => panels[report].show(t),
    pin: (t, report = 0) => panels[report].pin(t),
    map: (index, report = 0) => panels[report].choose(index),
    state: () => ({ ...settings, drawn, reports: panels.map((panel) => panel.state()) }),
  };
  return root.r2genkitScrubber;
}

function render({ model, el }) {
  const root = document.createElement("div");
  el.append(root);
  const build = () => mount(root, model.get("data"), (report, word) => {
    model.set("pinned", [report, word]);
    model.save_changes();
  });
  build();
  model.on("change:data", build);
  return () => model.off("change:data", build);
}

export default { render };
"""
