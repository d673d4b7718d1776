"""Script and style of the memory recorder; on top of ``front.py``, for both hosts."""
# ruff: noqa: E501

STYLE = r"""
.r2g-recorder .r2g-film-strip { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem; margin: .6rem 0; }
.r2g-recorder .r2g-names { font-size: 12px; line-height: 16px; white-space: nowrap; }
.r2g-recorder .r2g-names div { height: 16px; }
.r2g-recorder .r2g-names .r2g-group { height: 24px; padding-top: 8px; font-weight: 700; }
.r2g-recorder .r2g-run { overflow-x: auto; }
.r2g-recorder .r2g-run svg { display: block; cursor: pointer; }
.r2g-recorder .r2g-run text { font: 12px system-ui, sans-serif; fill: #1b1b1b; }
.r2g-recorder .r2g-run text.r2g-at { font-weight: 700; }
.r2g-recorder h3 { font-size: .95rem; margin: .5rem 0 .3rem; overflow-wrap: anywhere; }
.r2g-recorder .r2g-now { border: 1px solid #ccc; border-radius: 6px; padding: .6rem .8rem; }
.r2g-recorder .r2g-slots { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .6rem; }
.r2g-recorder .r2g-vector { display: block; width: 100%; height: 1.4rem; border: 1px solid #999; image-rendering: pixelated; }
.r2g-recorder .r2g-gate { position: relative; display: block; height: .7rem; margin: .15rem 0; background: #e6e6e6; }
.r2g-recorder .r2g-gate i { position: absolute; top: 0; bottom: 0; background: #9db9d6; }
.r2g-recorder .r2g-gate b { position: absolute; top: -2px; bottom: -2px; width: 3px; margin-left: -1px; background: #1b1b1b; }
.r2g-recorder .r2g-small { font-size: .875rem; font-variant-numeric: tabular-nums; margin: 0; }
.r2g-recorder .r2g-scroll { overflow-x: auto; }
.r2g-recorder .r2g-pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; }
.r2g-recorder .r2g-sum { margin: .3rem 0; padding-left: 1.2rem; }
.r2g-recorder .r2g-ramp { width: 7rem; height: .8rem; border: 1px solid #999; }
@container r2g (max-width: 46rem) {
  .r2g-recorder .r2g-pair { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .r2g-recorder .r2g-names { font-size: 10px; white-space: normal; max-width: 6.2rem; overflow: hidden; }
  .r2g-recorder .r2g-names .r2g-group { padding-top: 9px; line-height: 14px; }
  .r2g-recorder .r2g-names div { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
}
"""

BODY = r"""
// --- the memory recorder -------------------------------------------------------------------------
//
// Data come from r2genkit.viz.widgets.recorder.payload. A column for each word that the memory read,
// the begin mark first; rows in groups that share a scale.

const NARROWEST = 17; // pixels of a column
const WIDEST = 34;
const ALL = 900; // columns of a short report are wider, up to so many pixels in all
const HIGH = 16; // and of a row
const TITLE = 24; // of the line above a group
const WORDS_HIGH = 110;
const LESS = [31, 111, 178];
const MORE = [200, 90, 0];

function draw(root, data, ask, tell) {
  const columns = data.readers.length;
  const WIDE = Math.min(WIDEST, Math.max(NARROWEST, Math.floor(ALL / columns)));
  const state = { word: 0, pinned: false, drawn: 0 };
  const memory = bytesOf(data.memory); // [columns, slots, size], 128 is zero

  // --- the strip
  const names = make("div", { class: "r2g-names", "aria-hidden": "true" });
  const cells = [];
  let y = 0;
  for (const group of data.groups) {
    names.append(make("div", { class: "r2g-group", title: group.about }, group.name));
    y += TITLE;
    for (const row of group.rows) {
      names.append(make("div", { title: row.name }, row.name));
      row.values.forEach((value, column) => {
        if (value === null) return;
        const share = (value - group.low) / Math.max(group.high - group.low, 1e-9);
        const level = Math.min(255, Math.max(0, Math.round(255 * share)));
        cells.push(makeSvg("rect", { x: column * WIDE, y, width: WIDE - 1, height: HIGH - 1,
          fill: `rgb(${PALETTE[level].join(",")})` }));
      });
      y += HIGH;
    }
  }
  const labels = data.readers.map((word, column) => makeSvg("text", { "text-anchor": "end",
    transform: `translate(${(column + 0.5) * WIDE + 4} ${y + 6}) rotate(-90)` }, word));
  const frame = makeSvg("rect", { y: 2, width: WIDE + 1, height: y, fill: "none", stroke: "#c75b00", "stroke-width": 2.5 });
  const strip = makeSvg("svg", { width: columns * WIDE + 2, height: y + WORDS_HIGH, "aria-hidden": "true" },
    ...cells, ...labels, frame);
  const run = make("div", { class: "r2g-run" }, strip);
  const columnAt = (event) => {
    const box = strip.getBoundingClientRect();
    return Math.min(columns - 1, Math.max(0, Math.floor((event.clientX - box.x) / WIDE)));
  };
  for (const kind of ["mouseover", "pointermove"]) {
    strip.addEventListener(kind, (event) => {
      const column = columnAt(event);
      if (!state.pinned && column !== state.word) show(column);
    });
  }
  strip.addEventListener("click", (event) => pin(columnAt(event)));

  // --- the report
  const tokens = [make("span", { class: "r2g-word" }, data.readers[0]), ...wordSpans(data.words, data.findings)];
  const text = make("p", { class: "r2g-text", role: "group", "aria-label": `Report: ${data.system}. Arrow keys go from word to word; Enter pins a word.` });
  tokens.forEach((span, row) => {
    span.dataset.row = row;
    text.append(span, " ");
  });
  steppable(text, tokens, {
    at: () => state.word,
    pinned: () => state.pinned,
    show: (row) => show(row),
    toggle: (row) => pin(row),
    free: () => {
      state.pinned = false;
      show(state.word);
    },
  });

  function pin(row) {
    state.pinned = !(state.pinned && row === state.word);
    show(row);
    tell({ word: state.pinned ? row : null });
  }

  // --- one word
  const now = make("section", { class: "r2g-now", "aria-label": "the word at hand" });
  const headline = make("h3", { role: "status", "aria-live": "polite" });
  const slots = Array.from({ length: data.slots }, (_, slot) => {
    const parts = { vector: make("canvas", { class: "r2g-vector", role: "img", "aria-label": `numbers of slot ${slot + 1}` }),
      line: make("p", { class: "r2g-small" }), gates: {} };
    const nodes = ["input", "forget"].map((name) => {
      const gate = { range: make("i"), mark: make("b"), said: make("span") };
      parts.gates[name] = gate;
      return make("div", { class: "r2g-small" }, gate.said, make("span", { class: "r2g-gate", "aria-hidden": "true" }, gate.range, gate.mark));
    });
    parts.node = make("div", {}, make("h3", {}, `slot ${slot + 1}`), parts.vector, parts.line, ...nodes);
    return parts;
  });
  const norms = make("tbody");
  now.append(headline, make("div", { class: "r2g-slots" }, ...slots.map((slot) => slot.node)));
  if (data.sublayers.length) {
    now.append(make("div", { class: "r2g-scroll" }, make("table", {}, make("thead", {}, make("tr", {},
      ...["layer norm before", ...Object.keys(data.constant).flatMap((name) => [`${name}: same for all words`, `${name}: this word adds`])]
        .map((name) => make("th", { scope: "col" }, name)))), norms)));
  }

  const groupOf = (name) => data.groups.find((group) => group.name === name);
  function drawNow() {
    const row = state.word;
    const next = data.words[row];
    const said = groupOf("probability of the next word").rows;
    headline.textContent = `reads \u201c${data.readers[row]}\u201d` + (next === undefined
      ? ", the last word"
      : `, then writes \u201c${next}\u201d (${said.map((one) => `${one.name} ${one.values[row].toFixed(2)}`).join(", ")})`);
    slots.forEach((parts, slot) => {
      const context = fit(parts.vector, data.size, 1);
      const image = context.createImageData(data.size, 1);
      for (let i = 0; i < data.size; i += 1) {
        const value = (memory[(row * data.slots + slot) * data.size + i] - 128) / 127;
        const end = value > 0 ? MORE : LESS;
        image.data.set([...end.map((colour) => Math.round(255 + (colour - 255) * Math.min(1, Math.abs(value)))), 255], 4 * i);
      }
      context.putImageData(image, 0, 0);
      parts.line.textContent = `length ${groupOf("length").rows[slot].values[row].toFixed(2)}; it has moved by ${groupOf("change").rows[slot].values[row].toFixed(2)} of that`;
      for (const [name, gate] of Object.entries(parts.gates)) {
        const [mean, low, high] = data.spreads[name][row][slot];
        gate.said.textContent = `${name} gate ${mean.toFixed(2)} (${low.toFixed(2)} to ${high.toFixed(2)})`;
        gate.range.style.left = `${100 * low}%`;
        gate.range.style.width = `${100 * (high - low)}%`;
        gate.mark.style.left = `${100 * mean}%`;
      }
    });
    norms.replaceChildren(...data.sublayers.map((name, i) => make("tr", {}, make("td", {}, name),
      ...Object.keys(data.constant).flatMap((kind) => [data.constant[kind][i], data.moving[kind][row][i]])
        .map((value) => make("td", {}, value.toFixed(3))))));
  }

  function show(row) {
    const start = performance.now();
    labels[state.word].classList.remove("r2g-at");
    tokens[state.word].removeAttribute("aria-current");
    tokens[state.word].setAttribute("aria-pressed", "false");
    tokens[state.word].tabIndex = -1;
    state.word = row;
    labels[row].classList.add("r2g-at");
    tokens[row].setAttribute("aria-current", "true");
    tokens[row].setAttribute("aria-pressed", String(state.pinned));
    tokens[row].tabIndex = 0;
    frame.setAttribute("x", row * WIDE - 1);
    drawNow();
    state.drawn = performance.now() - start;
  }

  const bar = make("canvas", { class: "r2g-ramp", "aria-hidden": "true" });
  const context = fit(bar, 256, 1);
  PALETTE.forEach((colour, level) => {
    context.fillStyle = `rgb(${colour.join(",")})`;
    context.fillRect(level, 0, 1, 1);
  });
  const scales = data.groups.map((group) => `${group.name} ${group.low} to ${Number(group.high.toFixed(group.high < 0.1 ? 3 : 2))}`).join("; ");

  root.append(...heading(data),
    make("p", { class: "r2g-note" }, "Point at a word or at a column; a click or Enter pins it, Escape lets it go. A column shows what the memory did when it read the word; that serves the word written next."),
    make("h2", {}, data.system), text, now,
    make("div", { class: "r2g-film-strip" }, names, run),
    make("div", { class: "r2g-legend" }, make("span", { class: "r2g-scale" }, "least ", bar, " most"), make("span", {}, `scales: ${scales}`)),
    make("ul", { class: "r2g-sum" }, ...data.sentences.map((sentence) => make("li", {}, sentence))));
  if (data.held) {
    const marked = (words, findings, changed, tag) => {
      const node = make("p", { class: "r2g-text" });
      wordSpans(words, findings).forEach((span, t) => node.append(changed[t] ? make(tag, {}, span) : span, " "));
      if (!words.length) node.append(make("em", {}, "(empty report)"));
      return node;
    };
    root.append(make("div", { class: "r2g-pair" },
      make("div", {}, make("h3", {}, "with the memory"), marked(data.words, data.findings, data.held.old_changed, "del")),
      make("div", {}, make("h3", {}, "with constants: this report's mean gain and bias at every word"),
        marked(data.held.words, data.held.findings, data.held.new_changed, "ins"))));
  }
  root.append(make("p", { class: "r2g-foot" },
    "Slot vectors: orange above zero, blue below, each number a stripe. Gates: mean over a slot's numbers, in brackets and as the bar 80\u202f% of them. "
    + "Layer norms: root mean square over the numbers of a layer norm of what the memory adds to its gain and bias."));
  const first = data.findings.find((mark) => mark.polarity === "positive") || data.findings[0];
  show(first ? first.first + 1 : Math.min(1, columns - 1));
  return { state: () => ({ ...state, columns }) };
}
"""
