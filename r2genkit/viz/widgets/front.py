"""Script and style that all interactive figures share.

They stand in Python modules because every other kind of file in this package is a table that
belongs to the fingerprint of each result row (``environment.code_hash``), and a changed button must
not call finished runs old.
"""
# ruff: noqa: E501

KIT_STYLE = r""".r2g {
  --positive: #b34700; --negative: #0b63a0; --uncertain: #8a6500;
  container: r2g / inline-size; display: flex; flex-direction: column; box-sizing: border-box; max-width: 78rem; padding: 1rem; background: #fff; color: #1b1b1b;
  color-scheme: light; font: 16px/1.5 system-ui, sans-serif; text-align: left;
}
.r2g *, .r2g *::before { box-sizing: border-box; }
.r2g [hidden] { display: none; }
.r2g h1 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
.r2g h2 { font-size: 1.05rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.r2g p { margin: 0 0 .4rem; }
.r2g-synthetic { border-left: 4px solid #b34700; padding: .2rem .6rem; background: #fdf1e8; }
.r2g-note, .r2g-about, .r2g-foot { color: #4a4a4a; font-size: .875rem; }
.r2g-foot { border-top: 1px solid #ddd; margin-top: 1rem; padding-top: .5rem; }
.r2g .r2g-text { line-height: 2.1; margin: 0 0 .6rem; overflow-wrap: anywhere; }
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
.r2g-key { white-space: nowrap; }
.r2g-film { position: relative; background: #000; line-height: 0; }
.r2g-film img { display: block; width: 100%; height: auto; margin: 0; }
.r2g-film .r2g-heat, .r2g-film .r2g-drawn { position: absolute; inset: 0; width: 100%; height: 100%;
  pointer-events: none; }
.r2g-drawn text { font-family: system-ui, sans-serif; font-weight: 600; stroke: #000;
  stroke-width: .22em; paint-order: stroke; }
.r2g .r2g-word[aria-current="true"] { background: #1f3a5f; color: #fff; outline: none; }
.r2g .r2g-word[aria-current="true"] sup { color: #fff; }
.r2g-word[aria-pressed="true"] { box-shadow: 0 0 0 2px #fff, 0 0 0 4px #1f3a5f; }
.r2g-number { font-size: .95rem; font-weight: 600; }

.r2g-controls, .r2g-legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; align-items: center;
  font-size: .875rem; margin: .5rem 0; }
.r2g-controls label { display: inline-flex; align-items: center; gap: .35rem; }
.r2g-scale { display: inline-flex; align-items: center; gap: .4rem; flex-wrap: wrap; }
.r2g-report { border: 1px solid #ccc; border-radius: 6px; padding: .8rem; margin: .8rem 0; }
.r2g-views { display: flex; gap: .4rem; }
.r2g-views figure { flex: 1 1 0; min-width: 0; max-width: 24rem; margin: 0; }
.r2g-views figcaption { font-size: .875rem; color: #4a4a4a; }
.r2g-choice { display: block; margin: 0 0 .4rem; font-size: .875rem; }
.r2g-choice select { font: inherit; max-width: 100%; padding: .15rem .3rem; color: inherit;
  background: #fff; border: 1px solid #888; border-radius: 4px; }
.r2g summary { font-size: .875rem; cursor: pointer; margin-bottom: .3rem; }
.r2g button { font: inherit; }
.r2g-action { padding: .25rem .8rem; color: #1b1b1b; background: #f2f4f7; border: 1px solid #7a8699;
  border-radius: 4px; cursor: pointer; }
.r2g-action:hover:enabled { background: #e3edf7; }
.r2g-action:disabled { color: #767676; border-color: #c8c8c8; cursor: not-allowed; }
.r2g-action[aria-pressed="true"], .r2g-action[aria-pressed="true"]:hover:enabled { background: #1f3a5f; border-color: #1f3a5f; color: #fff; }
.r2g :focus-visible { outline: 3px solid #c75b00; outline-offset: 2px; }
.r2g-error { border-left: 4px solid #a80000; padding: .2rem .6rem; background: #fdeeee; }
.r2g-busy { opacity: .55; }
.r2g ins { background: #d8ecff; text-decoration: underline; text-decoration-thickness: 2px; }
.r2g del { color: #6b3a00; background: #fbe9d7; }
.r2g table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
.r2g th, .r2g td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
.r2g th:first-child, .r2g td:first-child { text-align: left; }
/* By its own width, not the window's: in a notebook it stands in a cell. */
@media (max-width: 50rem) { .r2g { padding: .6rem; } }
"""

KIT = r"""// Shared by all front ends: nodes, bytes, colours, maps over images, reports with findings.

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

const percent = (share) => `${Math.round(100 * share)}\u202f%`;

// --- texts ---------------------------------------------------------------------------------------

// Marks of polarity on the words of a report: an array of spans, one a word.
//   words: strings; findings: [{first, end, title, polarity, trigger}], as Python's marks_payload gives.
function wordSpans(words, findings) {
  return words.map((word, t) => {
    const span = make("span", { class: "r2g-word", "data-word": t }, word);
    const marks = findings.filter((mark) => mark.first <= t && t < mark.end);
    const strongest = Math.max(-1, ...marks.map((mark) => STRENGTH.indexOf(mark.polarity)));
    if (strongest >= 0) {
      span.classList.add(`r2g-${STRENGTH[strongest]}`);
      span.title = marks.map((mark) => `${mark.title}: ${MEANINGS[mark.polarity]}`).join("; ");
    }
    const ending = new Set(marks.filter((mark) => mark.end === t + 1).map((mark) => SIGNS[mark.polarity]));
    if (ending.size) span.append(make("sup", { "aria-hidden": "true" }, [...ending].join("")));
    if (findings.some((mark) => mark.trigger.includes(t))) span.classList.add("r2g-trigger");
    return span;
  });
}

// Words to point at, to step through and to pin.
//   at(): the word at hand; pinned(): whether it is; show(t); toggle(t): pin it, or let it go; free();
//   move(t): what an arrow key does (default: show); jumps: further keys, {ArrowUp: () => t, ...}.
function steppable(text, spans, { at, pinned, show, toggle, free, move = show, jumps = {} }) {
  spans.forEach((span) => {
    span.setAttribute("role", "button");
    span.setAttribute("aria-pressed", "false");
    span.tabIndex = -1;
  });
  const last = spans.length - 1;
  const moves = {
    ArrowRight: () => Math.min(last, at() + 1),
    ArrowLeft: () => Math.max(0, at() - 1),
    ArrowDown: () => Math.min(last, at() + 1),
    ArrowUp: () => Math.max(0, at() - 1),
    Home: () => 0,
    End: () => last,
    ...jumps,
  };
  const wordAt = (event) => spans.findIndex((span) => span.contains(event.target));
  for (const kind of ["mouseover", "focusin"]) {
    text.addEventListener(kind, (event) => {
      const t = wordAt(event);
      if (t >= 0 && t !== at() && !pinned()) show(t);
    });
  }
  text.addEventListener("click", (event) => {
    const t = wordAt(event);
    if (t >= 0) toggle(t);
  });
  text.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in moves) {
      const t = moves[event.key]();
      move(t);
      spans[t].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      toggle(at());
    } else if (event.key === "Escape") {
      free();
    } else {
      return;
    }
    event.preventDefault();
  });
}

// A report to read: words with the marks of their findings.
function reportText(words, findings = []) {
  const text = make("p", { class: "r2g-text" });
  wordSpans(words, findings).forEach((span) => text.append(span, " "));
  if (!words.length) text.append(make("em", {}, "(empty report)"));
  return text;
}

// What the marks mean.
function findingsKey() {
  const signs = ["positive", "negative", "uncertain"].map((polarity) => make("span", { class: "r2g-key" },
    make("span", { class: `r2g-word r2g-${polarity}` }, "word", make("sup", {}, SIGNS[polarity])),
    ` ${MEANINGS[polarity]}`));
  return [...signs, make("span", { class: "r2g-key" },
    make("span", { class: "r2g-word r2g-trigger" }, "word"), " denies or doubts")];
}

// Title, the note that images are synthetic, further notes.
function heading(data) {
  return [make("h1", {}, data.title),
    ...(data.synthetic ? [make("p", { class: "r2g-synthetic" }, data.synthetic)] : []),
    ...(data.notes || []).map((note) => make("p", { class: "r2g-note" }, note))];
}

// Images with a canvas above each: [{node, canvas, share, view}]; views: [{name, image, height, width}].
function filmsOf(views) {
  return views.map((view) => {
    const canvas = make("canvas", { class: "r2g-heat", "aria-hidden": "true" });
    const film = make("div", { class: "r2g-film" },
      make("img", { src: view.image, alt: `${view.name} view`, width: view.width, height: view.height }),
      canvas);
    const share = make("span", { class: "r2g-share" });
    const node = make("figure", {}, film, make("figcaption", {}, view.name, " ", share));
    return { node, film, canvas, share, view };
  });
}

// Outlines of masks over view v; masks: [{name, colour, paths, tops}]. Each bears a number beside its colour.
function drawOutlines({ film, view }, masks, v) {
  const drawn = masks.map((mask, i) => ({ ...mask, i })).filter((mask) => mask.paths[v]);
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
"""
