"""Script and style of the memory microscope; on top of ``front.py``, for both hosts."""
# ruff: noqa: E501

STYLE = r"""
.r2g-microscope { --patch: #1f6fb2; --word: #b3590c; }
.r2g-microscope .r2g-top { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 6fr); gap: 1.2rem; align-items: start; }
.r2g-microscope .r2g-film { cursor: crosshair; touch-action: none; }
.r2g-microscope .r2g-film .r2g-cursor { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.r2g-microscope .r2g-plain .r2g-drawn { display: none; }
.r2g-microscope .r2g-segment { display: inline-flex; flex-wrap: wrap; gap: .2rem; align-items: center; }
.r2g-microscope .r2g-segment button { padding: .1rem .55rem; font-size: .875rem; }
.r2g-microscope .r2g-say { min-height: 3em; margin: .4rem 0; }
.r2g-microscope .r2g-panel { border-top: 1px solid #ccc; margin-top: .8rem; padding-top: .6rem; }
.r2g-microscope .r2g-slots { display: block; width: 100%; cursor: pointer; touch-action: none; }
.r2g-microscope .r2g-three { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) minmax(0, 1.5fr); gap: 1rem; margin-top: .6rem; align-items: start; }
.r2g-microscope h3 { font-size: .95rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.r2g-microscope .r2g-list { list-style: none; margin: 0; padding: 0; font-size: .875rem; font-variant-numeric: tabular-nums; }
.r2g-microscope .r2g-list button { display: grid; grid-template-columns: 4.6rem 1fr 3.2rem 1.2rem; gap: .4rem; align-items: center; width: 100%; padding: .05rem .25rem; border: 1px solid transparent; border-radius: 3px; background: none; color: inherit; font-size: inherit; text-align: left; cursor: pointer; }
.r2g-microscope .r2g-list button:hover { background: #eef2f7; }
.r2g-microscope .r2g-list button[aria-pressed="true"] { border-color: #1f3a5f; background: #e3edf7; }
.r2g-microscope .r2g-list .r2g-both { font-weight: 700; }
.r2g-microscope .r2g-bar { display: block; height: .65rem; background: #e6e6e6; border-radius: 2px; overflow: hidden; }
.r2g-microscope .r2g-bar i { display: block; height: 100%; }
.r2g-microscope .r2g-of-word i { background: var(--word); }
.r2g-microscope .r2g-of-patch i { background: var(--patch); }
.r2g-microscope .r2g-card { border: 1px solid #ccc; border-radius: 6px; padding: .6rem; }
.r2g-microscope .r2g-crops { display: grid; grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); gap: .4rem; margin: .4rem 0; }
.r2g-microscope .r2g-crops figure { margin: 0; font-size: .75rem; line-height: 1.25; color: #4a4a4a; overflow-wrap: anywhere; }
.r2g-microscope .r2g-crops canvas { display: block; width: 100%; height: auto; background: #000; }
.r2g-microscope .r2g-lifts { display: flex; flex-wrap: wrap; gap: .2rem .7rem; font-size: .875rem; margin: .2rem 0; }
.r2g-microscope .r2g-swatch { display: inline-block; width: 1em; height: 1em; vertical-align: -.15em; border: 2px solid; background: #fff; }
.r2g-microscope .r2g-actions { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .4rem 0; }
.r2g-microscope .r2g-actions button { font-size: .875rem; }
.r2g-microscope .r2g-pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; }
.r2g-microscope .r2g-scroll { overflow-x: auto; }
.r2g-microscope .r2g-ramp { width: 7rem; height: .8rem; border: 1px solid #999; }
.r2g-microscope .r2g-findings { margin: 0 0 .4rem; font-size: .875rem; }
@container r2g (max-width: 40rem) {
  .r2g-microscope .r2g-top, .r2g-microscope .r2g-three, .r2g-microscope .r2g-pair { grid-template-columns: minmax(0, 1fr); gap: .5rem; }
  .r2g-microscope .r2g-views { position: sticky; top: 0; z-index: 1; background: #fff; padding: .2rem 0; }
  .r2g-microscope .r2g-left { display: contents; }
}
"""

BODY = r"""
// --- the memory microscope -----------------------------------------------------------------------
//
// Data come from r2genkit.viz.widgets.microscope.payload. Rows: the begin mark, then the words.
// Layers: 0 is the mean of the heads, then each head. Patches are numbered through all views.

const CELL = 24; // pixels a side of a slot that is read
const DEAD = 9; // and of one that nothing reads
const SOME = 16; // slots that a word reads most, to take away
const LISTED = 8; // slots of a reader that are listed over all heads; of one head, all are
const KINDS = {
  own: "this study",
  elsewhere: "other studies, same places",
  difference: "difference",
  slot: "the slot at hand",
};
const LESS = [31, 111, 178];
const MORE = [200, 90, 0];

function shorts(base64) {
  const bytes = bytesOf(base64);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => bytes[2 * i] | (bytes[2 * i + 1] << 8));
}

const tenth = (share) => `${(100 * share).toFixed(1)}\u202f%`;

function draw(root, data, ask, tell) {
  const { heads, k, views } = data;
  const [rows, columns] = data.grid;
  const size = rows * columns; // patches of a view
  const patches = size * views.length;
  const layers = heads + 1;
  const reads = Object.fromEntries(["words", "patches"].map((side) => [side, {
    slots: shorts(data.reads[side].slots), weights: shorts(data.reads[side].weights) }]));
  const maps = Object.fromEntries(Object.entries(data.maps).map(([name, text]) => [name, {
    views: views.length, grid: data.grid, bytes: bytesOf(text) }]));
  const levels = bytesOf(data.use.levels); // [2, layers, slots]
  const dead = new Set(data.use.dead);
  const state = { word: 0, patch: 0, word_pinned: false, patch_pinned: false, layer: 0, map: "own",
    outlines: true, slot: null, without: [], trial: null, busy: false, drawn: 0 };

  const rowNow = () => state.word * layers + state.layer;
  const at = (name, word, patch, layer = state.layer) =>
    maps[name].bytes[(word * layers + layer) * patches + patch] / 255;

  // Weight that a reader gives to the slot at hand, in its head.
  function onSlot(side, row) {
    if (!state.slot) return 0;
    const first = (row * heads + state.slot.head) * k;
    for (let place = first; place < first + k; place += 1) {
      if (reads[side].slots[place] === state.slot.slot) return reads[side].weights[place] / 65535;
    }
    return 0;
  }
  const mostOnSlot = (side, readers) => {
    let most = 0;
    for (let row = 0; row < readers; row += 1) most = Math.max(most, onSlot(side, row));
    return most;
  };
  // What the views show of a patch, as a share.
  const shownAt = (patch) => {
    if (state.map === "slot") return onSlot("patches", patch);
    return at(state.map === "elsewhere" ? "elsewhere" : "own", state.word, patch);
  };

  // What a reader takes, strongest first: [{head, slot, weight}]; over all heads they sum to 1.
  function taken(side, row, layer = state.layer) {
    const found = [];
    for (let head = 0; head < heads; head += 1) {
      if (layer && layer !== head + 1) continue;
      for (let j = 0; j < k; j += 1) {
        const place = (row * heads + head) * k + j;
        found.push({ head, slot: reads[side].slots[place],
          weight: reads[side].weights[place] / 65535 / (layer ? 1 : heads) });
      }
    }
    return found.sort((a, b) => b.weight - a.weight);
  }

  const keyOf = ({ head, slot }) => `${head}/${slot}`;
  const nameOf = ({ head, slot }) => `${head + 1}\u00b7${slot}`;
  const placeOf = (patch) => {
    const [view, inside] = [Math.floor(patch / size), patch % size];
    return `${views[view].name}, row ${Math.floor(inside / columns) + 1}, column ${(inside % columns) + 1}`;
  };

  // --- views
  const films = filmsOf(views);
  films.forEach((one, v) => {
    drawOutlines(one, data.masks, v);
    one.cursor = makeSvg("svg", { class: "r2g-cursor", viewBox: `0 0 ${columns} ${rows}`,
      preserveAspectRatio: "none", "aria-hidden": "true" });
    one.film.append(one.cursor);
    one.film.tabIndex = 0;
    one.film.setAttribute("role", "group");
    one.film.setAttribute("aria-label", `${views[v].name} view. Arrow keys go from patch to patch; Enter pins a patch.`);
    const patchAt = (event) => {
      const box = one.film.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.x) / box.width) * columns);
      const row = Math.floor(((event.clientY - box.y) / box.height) * rows);
      const clamp = (value, most) => Math.min(Math.max(value, 0), most - 1);
      return v * size + clamp(row, rows) * columns + clamp(column, columns);
    };
    const point = (event) => {
      const patch = patchAt(event);
      if (!state.patch_pinned && patch !== state.patch) showPatch(patch);
    };
    one.film.addEventListener("pointermove", point);
    one.film.addEventListener("mouseover", point);
    one.film.addEventListener("click", (event) => {
      const patch = patchAt(event);
      state.patch_pinned = !(state.patch_pinned && patch === state.patch);
      showPatch(patch);
      say();
    });
    one.film.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const inside = Math.floor(state.patch / size) === v ? state.patch % size : 0;
      const [row, column] = [Math.floor(inside / columns), inside % columns];
      const moves = {
        ArrowLeft: [row, Math.max(column - 1, 0)], ArrowRight: [row, Math.min(column + 1, columns - 1)],
        ArrowUp: [Math.max(row - 1, 0), column], ArrowDown: [Math.min(row + 1, rows - 1), column],
      };
      if (event.key in moves) {
        const [r, c] = moves[event.key];
        showPatch(v * size + r * columns + c);
      } else if (event.key === "Enter" || event.key === " ") {
        state.patch_pinned = !state.patch_pinned;
        showPatch(state.patch);
        say();
      } else if (event.key === "Escape") {
        state.patch_pinned = false;
        showPatch(state.patch);
      } else {
        return;
      }
      event.preventDefault();
    });
  });

  // One flat colour a patch: what reads slots is the patch, nothing lies between two of them.
  function paintPatches(canvas, view) {
    const zoom = Math.max(1, Math.ceil(PIXELS / Math.max(rows, columns)));
    const context = fit(canvas, columns * zoom, rows * zoom);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const top = state.map === "slot" ? mostOnSlot("patches", patches) || 1 : data.top[rowNow()];
    for (let i = 0; i < size; i += 1) {
      const patch = view * size + i;
      if (state.map === "difference") {
        const gap = (at("own", state.word, patch) - at("elsewhere", state.word, patch)) / data.top_difference[rowNow()];
        context.fillStyle = differing(gap);
      } else {
        context.fillStyle = shared(Math.min(255, Math.round(255 * shownAt(patch) / top)));
      }
      context.fillRect((i % columns) * zoom, Math.floor(i / columns) * zoom, zoom, zoom);
    }
  }
  const differing = (gap) => `rgba(${(gap > 0 ? MORE : LESS).join(",")},${Math.min(1, Math.abs(gap)) * 0.8})`;
  const shared = (level) => `rgba(${PALETTE[level].join(",")},${opacityOf(level, 0.7) / 255})`;

  function drawFilms() {
    films.forEach(({ canvas, cursor, share }, v) => {
      paintPatches(canvas, v);
      let total = 0;
      const marks = [];
      for (let i = 0; i < size; i += 1) {
        const patch = v * size + i;
        total += shownAt(patch);
        if ((state.map === "own" || state.map === "difference") && standsOut(patch)) {
          marks.push(makeSvg("circle", { cx: (i % columns) + 0.5, cy: Math.floor(i / columns) + 0.5, r: 0.12,
            fill: "#fff", stroke: "#000", "stroke-width": 0.05 }));
        }
      }
      share.textContent = `mean ${percent(total / size)}`;
      if (Math.floor(state.patch / size) === v) {
        const [x, y] = [(state.patch % size) % columns, Math.floor((state.patch % size) / columns)];
        for (const [stroke, width] of [["#000", 0.14], ["#fff", 0.07]]) {
          marks.push(makeSvg("rect", { x, y, width: 1, height: 1, fill: "none", stroke, "stroke-width": width,
            ...(state.patch_pinned ? {} : { "stroke-dasharray": "0.2 0.1" }) }));
        }
      }
      cursor.replaceChildren(...marks);
    });
  }

  const standsOut = (patch) => data.rare_patches[rowNow()].includes(patch);

  // --- report
  const spans = wordSpans(data.words, data.findings);
  const begin = make("span", { class: "r2g-word" }, data.readers[0]);
  const tokens = [begin, ...spans];
  const text = make("p", { class: "r2g-text", role: "group", "aria-label": `Report: ${data.system}. `
    + "Arrow keys go from word to word; Enter pins a word." });
  tokens.forEach((span, row) => {
    span.dataset.row = row;
    text.append(span, " ");
  });
  steppable(text, tokens, {
    at: () => state.word,
    pinned: () => state.word_pinned,
    show: (row) => showWord(row),
    toggle: (row) => {
      state.word_pinned = !(state.word_pinned && row === state.word);
      showWord(row);
      say();
    },
    free: () => {
      state.word_pinned = false;
      showWord(state.word);
    },
  });

  const pairLine = make("p", { class: "r2g-say r2g-pairline", role: "status", "aria-live": "polite" });
  const wordLine = make("p", { class: "r2g-say r2g-wordline" });
  const findingLine = make("p", { class: "r2g-findings" });

  function drawText() {
    const mostOfWords = mostOnSlot("words", tokens.length) || 1;
    tokens.forEach((span, row) => {
      const current = row === state.word;
      span.tabIndex = current ? 0 : -1;
      span.setAttribute("aria-pressed", String(current && state.word_pinned));
      if (current) span.setAttribute("aria-current", "true");
      else span.removeAttribute("aria-current");
      const strength = state.map === "slot" ? onSlot("words", row) / mostOfWords
        : at("own", row, state.patch) / data.top_layer[state.layer];
      span.style.background = current ? "" : `rgba(31,111,178,${(0.55 * strength).toFixed(3)})`;
    });
  }

  function drawLines() {
    const { word, patch, layer } = state;
    const row = word * layers + layer;
    const reached = at("reached", word, patch);
    pairLine.replaceChildren(
      make("strong", {}, `\u201c${data.readers[word]}\u201d and ${placeOf(patch)}: ${percent(at("own", word, patch))} of their reading in common`),
      ` \u2014 shuffled slots: ${percent(at("chance", word, patch))}; the same place in ${data.other_studies} other studies: `
      + `${percent(at("elsewhere", word, patch))} on average, and ${percent(reached)} of them share at least as much.`);
    const [own, chance, elsewhere] = data.means[row];
    wordLine.replaceChildren(
      make("strong", {}, `\u201c${data.readers[word]}\u201d over all patches: ${tenth(own)}`),
      `; shuffled slots ${tenth(chance)}; the same places in other studies ${tenth(elsewhere)}. Patches that share more than `
      + `${percent(1 - data.rare)} of other studies do there (dots): ${data.rare_patches[row].length} of ${patches}; `
      + `in other studies ${data.usual[row][0]} to ${data.usual[row][1]} (19 of 20).`);
    findingLine.replaceChildren(...data.of_findings.map((one, i) => {
      const [inside, there, outside] = one.values[row];
      return make("span", {}, i ? " " : "", make("b", {}, one.name),
        ` (drawn): ${percent(inside)} on its patches, ${percent(there)} there in other studies, ${percent(outside)} on all other patches.`);
    }));
  }

  // --- all slots
  const canvas = make("canvas", { class: "r2g-slots", tabindex: "0", role: "group",
    "aria-label": "All slots of the memory, most read first. Arrow keys go from slot to slot; Enter puts one among those to take away." });
  // Slots that are read stand in large cells, dead ones behind them in small ones.
  const order = data.use.order;
  const alive = order.filter((slot) => !dead.has(slot)).length;
  const field = { across: 1, dead_across: 1, dead_top: 0, height: 0 };
  function layOut() {
    const width = Math.max(CELL, canvas.clientWidth || 600);
    field.across = Math.max(1, Math.floor(width / CELL));
    field.dead_across = Math.max(1, Math.floor(width / DEAD));
    field.dead_top = Math.ceil(alive / field.across) * CELL + 4;
    field.height = field.dead_top + Math.ceil((order.length - alive) / field.dead_across) * DEAD;
    return width;
  }
  const cellOf = (place) => (place < alive
    ? [(place % field.across) * CELL, Math.floor(place / field.across) * CELL, CELL]
    : [((place - alive) % field.dead_across) * DEAD,
      field.dead_top + Math.floor((place - alive) / field.dead_across) * DEAD, DEAD]);
  const slotAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.x, event.clientY - box.y];
    const large = y < field.dead_top;
    const [side, many, top] = large ? [CELL, field.across, 0] : [DEAD, field.dead_across, field.dead_top];
    const column = Math.floor(x / side);
    const place = Math.floor((y - top) / side) * many + column;
    if (column >= many || (large && place >= alive)) return undefined;
    return order[large ? place : alive + place];
  };
  // A slot of no head in particular: the head in which the reader at hand, or training, reads it most.
  function bestHead(slot) {
    if (state.layer) return state.layer - 1;
    const here = [...taken("words", state.word), ...taken("patches", state.patch)].filter((one) => one.slot === slot);
    if (here.length) return here.reduce((a, b) => (b.weight > a.weight ? b : a)).head;
    let best = 0;
    for (let head = 1; head < heads; head += 1) {
      if (data.use.patches[head + 1][slot] + data.use.words[head + 1][slot]
        > data.use.patches[best + 1][slot] + data.use.words[best + 1][slot]) best = head;
    }
    return best;
  }
  canvas.addEventListener("click", (event) => {
    const slot = slotAt(event);
    if (slot === undefined) return;
    if (event.shiftKey) toggle([slot]);
    showSlot({ head: bestHead(slot), slot });
    say();
  });
  canvas.addEventListener("keydown", (event) => {
    const place = state.slot ? order.indexOf(state.slot.slot) : 0;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -field.across, ArrowDown: field.across };
    if (event.key in steps) {
      const slot = order[Math.min(Math.max(place + steps[event.key], 0), order.length - 1)];
      showSlot({ head: bestHead(slot), slot });
    } else if (event.key === "Enter" || event.key === " ") {
      if (state.slot) toggle([state.slot.slot]);
    } else {
      return;
    }
    event.preventDefault();
  });

  // What does not follow the pointer is drawn once: bars of training usage, dead slots, slots to take away.
  const ground = document.createElement("canvas");
  let grounded = "";
  function drawGround(width, scale) {
    const wanted = [width, scale, state.layer, ...state.without].join();
    if (wanted === grounded) return;
    grounded = wanted;
    const context = fit(ground, Math.round(width * scale), Math.round(field.height * scale));
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, field.height);
    order.forEach((slot, place) => {
      const [x, y, side] = cellOf(place);
      context.fillStyle = "#f1f1f1";
      context.fillRect(x + 1, y + 1, side - 2, side - 2);
      const line = (colour, thick, ...ends) => {
        context.strokeStyle = colour;
        context.lineWidth = thick;
        context.beginPath();
        for (const [x1, y1, x2, y2] of ends) {
          context.moveTo(x + x1, y + y1);
          context.lineTo(x + x2, y + y2);
        }
        context.stroke();
      };
      if (dead.has(slot)) line("#a8a8a8", 1, [2.5, 2.5, side - 2.5, side - 2.5], [side - 2.5, 2.5, 2.5, side - 2.5]);
      for (const [which, colour, left] of [[0, "#1f6fb2", 5], [1, "#d1690e", 12]]) {
        const level = levels[(which * layers + state.layer) * data.slots + slot] / 255;
        const high = level ? Math.max(1, level * (CELL - 8)) : 0;
        context.fillStyle = colour;
        context.fillRect(x + left, y + CELL - 4 - high, 6, high);
      }
      if (state.without.includes(slot)) line("#000", 2, [2, side - 2, side - 2, 2]);
    });
  }

  const placeOfSlot = new Map(order.map((slot, place) => [slot, place]));
  function drawSlots() {
    const width = layOut();
    const scale = Math.max(1, window.devicePixelRatio || 1);
    drawGround(width, scale);
    const context = fit(canvas, ground.width, ground.height);
    canvas.style.height = `${field.height}px`;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(ground, 0, 0);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const [words, seen] = [["words", state.word], ["patches", state.patch]]
      .map(([side, row]) => new Set(taken(side, row).map((one) => one.slot)));
    for (const slot of new Set([...words, ...seen])) {
      const [x, y, side] = cellOf(placeOfSlot.get(slot));
      const both = words.has(slot) && seen.has(slot);
      context.strokeStyle = both ? "#1b1b1b" : words.has(slot) ? "#b3590c" : "#1f6fb2";
      context.lineWidth = both ? 3 : 2;
      context.setLineDash(words.has(slot) ? [] : [3, 2]);
      context.strokeRect(x + 2, y + 2, side - 4, side - 4);
      context.setLineDash([]);
    }
    if (state.slot) {
      const [x, y, side] = cellOf(placeOfSlot.get(state.slot.slot));
      context.strokeStyle = "#8b2fc9";
      context.lineWidth = 2;
      context.strokeRect(x, y, side, side);
    }
  }

  // --- lists and card
  const lists = { words: make("div", { class: "r2g-of-word" }), patches: make("div", { class: "r2g-of-patch" }) };
  function drawLists() {
    const both = { words: taken("words", state.word), patches: taken("patches", state.patch) };
    const keys = { words: new Map(both.words.map((one) => [keyOf(one), one.weight])),
      patches: new Map(both.patches.map((one) => [keyOf(one), one.weight])) };
    const many = state.layer ? k : LISTED;
    const common = both.words.filter((one) => keys.patches.has(keyOf(one)));
    for (const [side, other] of [["words", "patches"], ["patches", "words"]]) {
      const title = side === "words" ? `\u201c${data.readers[state.word]}\u201d reads` : `patch ${placeOf(state.patch)} reads`;
      const list = make("ul", { class: "r2g-list" }, ...both[side].slice(0, many).map((one) => {
        const again = keys[other].has(keyOf(one));
        const fill = make("i");
        fill.style.width = `${Math.min(100, 100 * one.weight / both[side][0].weight)}%`;
        const chosen = state.slot && keyOf(state.slot) === keyOf(one);
        const button = make("button", { type: "button", class: again ? "r2g-both" : null, "aria-pressed": String(Boolean(chosen)),
          "data-slot": keyOf(one), title: again ? "read by the word and by the patch" : "" },
        make("span", {}, nameOf(one)), make("span", { class: "r2g-bar" }, fill),
        make("span", {}, tenth(one.weight)), make("span", {}, again ? "\u2229" : ""));
        button.addEventListener("click", () => {
          showSlot(one);
          say();
        });
        return make("li", {}, button);
      }));
      const rest = both[side].slice(many);
      lists[side].replaceChildren(make("h3", {}, title), list, make("p", { class: "r2g-note" },
        rest.length ? `and ${rest.length} more with ${percent(rest.reduce((sum, one) => sum + one.weight, 0))}; ` : "",
        `${common.length} of ${both[side].length} also read by the ${side === "words" ? "patch" : "word"} (\u2229); head\u00b7slot`));
    }
  }

  const sheet = new Image();
  const framed = data.sheet.covered.some((one) => one);
  const card = make("section", { class: "r2g-card", "aria-label": "the slot at hand" });
  let carded = "";
  function drawCard() {
    const { slot } = state;
    const wanted = slot ? `${keyOf(slot)} ${state.without.includes(slot.slot)}` : "none";
    if (wanted === carded) return;
    carded = wanted;
    if (!slot) {
      card.replaceChildren(make("p", { class: "r2g-note" }, "Choose a slot in a list or in the field above to see who reads it in the training set."));
      return;
    }
    const found = data.cards[keyOf(slot)];
    const [ofPatches, ofWords] = [data.use.patches, data.use.words].map((side) => side[slot.head + 1][slot.slot]);
    const choose = make("span", { class: "r2g-segment" }, "head ", ...Array.from({ length: heads }, (_, head) => {
      const button = make("button", { type: "button", class: "r2g-action", "aria-pressed": String(head === slot.head) }, String(head + 1));
      button.addEventListener("click", () => showSlot({ head, slot: slot.slot }));
      return button;
    }));
    const gone = state.without.includes(slot.slot);
    const away = make("button", { type: "button", class: "r2g-action r2g-away", "aria-pressed": String(gone) },
      gone ? "taken away" : "take away");
    away.addEventListener("click", () => toggle([slot.slot]));
    const parts = [make("h3", {}, `slot ${slot.slot} in head ${slot.head + 1}`), make("div", { class: "r2g-actions" }, choose, away),
      make("p", { class: "r2g-note" }, `Holds ${tenth(ofPatches)} of the patches' and ${tenth(ofWords)} of the words' reading in this head, over ${data.use.studies.toLocaleString("en")} training studies.`)];
    if (!found) parts.push(make("p", {}, "Nothing reads it in this head: a dead slot."));
    else {
      parts.push(make("p", { class: "r2g-note" }, "Words that give it more than words do on average:"),
        found.words.length
          ? make("p", { class: "r2g-lifts" }, ...found.words.map(([word, lift]) => make("span", {}, make("b", {}, word), ` \u00d7\u202f${lift.toFixed(1)}`)))
          : make("p", {}, "none"),
        make("p", { class: "r2g-note" }, found.crops.length
          ? `Patches that give it most, one of a study (the patch is inside the frame${framed ? "; a thick frame: a finding covers it" : ""}):`
          : "No patch reads it."),
        make("div", { class: "r2g-crops" }, ...found.crops.map(([number, weight]) => {
          const side = data.sheet.size;
          const picture = make("canvas", { width: side, height: side, role: "img", "aria-label": data.sheet.captions[number] });
          const context = picture.getContext("2d");
          const paintCrop = () => {
            context.drawImage(sheet, (number % data.sheet.columns) * side, Math.floor(number / data.sheet.columns) * side, side, side, 0, 0, side, side);
            context.strokeStyle = data.sheet.covered[number] ? "#ffd166" : "#fff";
            context.lineWidth = data.sheet.covered[number] ? 3 : 1;
            context.strokeRect(side / 3, side / 3, side / 3, side / 3);
          };
          if (sheet.complete) paintCrop();
          else sheet.addEventListener("load", paintCrop, { once: true });
          return make("figure", {}, picture, make("figcaption", {}, `${percent(weight)} of its reading; ${data.sheet.captions[number]}`));
        })));
    }
    card.replaceChildren(...parts);
  }

  // --- taking slots away
  const count = make("strong", { class: "r2g-count" });
  const again = make("button", { type: "button", class: "r2g-action r2g-again" }, "Write again without them");
  const action = (name, title, slots) => {
    const button = make("button", { type: "button", class: `r2g-action r2g-${name}` }, title);
    button.addEventListener("click", () => {
      state.without = [...new Set([...state.without, ...slots()])].sort((a, b) => a - b);
      redraw();
      say();
    });
    return button;
  };
  const clear = make("button", { type: "button", class: "r2g-action r2g-clear" }, "none");
  clear.addEventListener("click", () => {
    state.without = [];
    redraw();
    say();
  });
  const outcome = make("div", { class: "r2g-outcome", "aria-live": "polite" });
  const problem = make("p", { class: "r2g-error", role: "alert", hidden: true });
  again.addEventListener("click", async () => {
    if (!ask || !state.without.length) return;
    state.busy = true;
    problem.hidden = true;
    outcome.classList.add("r2g-busy");
    drawAway();
    try {
      const trial = await ask({ without: state.without });
      if (trial) showTrial(trial);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    state.busy = false;
    outcome.classList.remove("r2g-busy");
    drawAway();
  });

  function toggle(slots) {
    for (const slot of slots) {
      state.without = state.without.includes(slot) ? state.without.filter((one) => one !== slot) : [...state.without, slot];
    }
    state.without.sort((a, b) => a - b);
    redraw();
    say();
  }

  function drawAway() {
    count.textContent = state.without.length === 1 ? "1 slot" : `${state.without.length} slots`;
    again.disabled = !ask || !state.without.length || state.busy;
    again.textContent = state.busy ? "writing \u2026" : "Write again without them";
  }

  const findingNames = (found) => (found.length
    ? found.map(([title, polarity]) => `${SIGNS[polarity]} ${title}`).join(", ") : "none");

  function marked(words, findings, changed, tag) {
    const node = make("p", { class: "r2g-text" });
    wordSpans(words, findings).forEach((span, t) => {
      node.append(changed[t] ? make(tag, {}, span) : span, " ");
    });
    if (!words.length) node.append(make("em", {}, "(empty report)"));
    return node;
  }

  function showTrial(trial) {
    state.trial = trial;
    state.without = trial.rewriting.slots.slice();
    const one = trial.rewriting;
    const line = (each, name) => make("tr", {}, make("td", {}, name), ...[
      each.slots.length, percent(each.held[0]), percent(each.held[1]), percent(each.changed),
      each.lost.length + each.gained.length, each.probability.toFixed(3)].map((value) => make("td", {}, String(value))));
    const whole = { slots: [], held: [0, 0], changed: 0, lost: [], gained: [], probability: data.probability };
    outcome.replaceChildren(
      make("p", { class: "r2g-number" }, trial.sentence),
      make("div", { class: "r2g-pair" },
        make("div", {}, make("h3", {}, "with the whole memory"), marked(data.words, data.findings, one.old_changed, "del")),
        make("div", {}, make("h3", {}, `without ${one.about}`), marked(one.words, one.findings, one.new_changed, "ins"))),
      make("p", { class: "r2g-findings" }, make("b", {}, "findings no longer written: "), findingNames(one.lost),
        "; ", make("b", {}, "newly written: "), findingNames(one.gained), "."),
      make("div", { class: "r2g-scroll" }, make("table", {},
        make("thead", {}, make("tr", {}, ...["taken away", "slots", "of the patches' reading", "of the words' reading", "words changed",
          "findings changed", "mean probability of the old words"].map((name) => make("th", { scope: "col" }, name)))),
        make("tbody", {}, line(whole, "nothing"), line(one, one.about), ...trial.others.map((each) => line(each, each.about))))));
    redraw();
    say();
  }

  // --- all together
  function redraw() {
    const start = performance.now();
    drawFilms();
    ramp();
    drawText();
    drawLines();
    drawSlots();
    drawLists();
    drawCard();
    drawAway();
    state.drawn = performance.now() - start;
  }
  function showWord(row) {
    state.word = row;
    redraw();
  }
  function showPatch(patch) {
    state.patch = patch;
    redraw();
  }
  function showSlot(slot) {
    state.slot = { head: slot.head, slot: slot.slot };
    redraw();
  }
  function say() {
    tell({ word: state.word_pinned ? state.word : null, patch: state.patch_pinned ? state.patch : null,
      slot: state.slot ? [state.slot.head, state.slot.slot] : null, without: state.without });
  }

  const segment = (title, entries, chosen, choose) => {
    const buttons = entries.map(([value, name]) => {
      const button = make("button", { type: "button", class: "r2g-action", "data-value": value,
        "aria-pressed": String(value === chosen) }, name);
      button.addEventListener("click", () => {
        buttons.forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
        choose(value);
        redraw();
      });
      return button;
    });
    return make("span", { class: "r2g-segment", role: "group", "aria-label": title }, `${title} `, ...buttons);
  };
  const bar = make("canvas", { class: "r2g-ramp", "aria-hidden": "true" });
  const [low, high] = [make("span"), make("span")];
  let ramped = "";
  function ramp() {
    const [far, most] = [percent(data.top_difference[rowNow()]), percent(data.top[rowNow()])];
    const ends = {
      difference: [`\u2212${far} (blue: less)`, `+${far} (orange: more than elsewhere)`],
      slot: ["0\u202f%", `${percent(mostOnSlot("patches", patches))} of a patch's reading in this head`],
    };
    [low.textContent, high.textContent] = ends[state.map] || ["0\u202f% in common", `${most} in common`];
    if (ramped === state.map) return;
    ramped = state.map;
    const context = fit(bar, 256, 1);
    for (let level = 0; level < 256; level += 1) {
      context.fillStyle = "#777";
      context.fillRect(level, 0, 1, 1);
      context.fillStyle = state.map === "difference" ? differing((level - 127.5) / 127.5) : shared(level);
      context.fillRect(level, 0, 1, 1);
    }
  }

  const outlines = make("input", { type: "checkbox", checked: true });
  const top = make("div", { class: "r2g-top" });
  outlines.addEventListener("change", () => top.classList.toggle("r2g-plain", !outlines.checked));
  const controls = make("div", { class: "r2g-controls" },
    segment("heads", [["0", "mean"], ...Array.from({ length: heads }, (_, head) => [String(head + 1), String(head + 1)])], "0",
      (value) => { state.layer = Number(value); }),
    segment("shown on the views", Object.entries(KINDS), "own", (value) => { state.map = value; }));
  if (data.masks.length) controls.append(make("label", {}, outlines, " outlines of what was drawn"));

  const swatch = (colour, dashed) => {
    const node = make("span", { class: "r2g-swatch", "aria-hidden": "true" });
    node.style.borderColor = colour;
    if (dashed) node.style.borderStyle = "dashed";
    return node;
  };
  top.append(
    make("div", { class: "r2g-left" }, make("div", { class: "r2g-views" }, ...films.map((one) => one.node)),
      make("div", { class: "r2g-legend" }, make("span", { class: "r2g-scale" }, low, " ", bar, " ", high),
        ...data.masks.map((mask, i) => make("span", { class: "r2g-key" }, `${i + 1}: ${mask.name}`)))),
    make("div", { class: "r2g-right" }, make("h2", {}, data.system), text, pairLine, wordLine, findingLine));

  const awayPanel = make("section", { class: "r2g-panel", "aria-label": "take slots away" },
    make("h2", {}, "Take slots away and write again"),
    make("div", { class: "r2g-actions" }, count, " to take away: add ",
      action("add-word", `the ${SOME} that the word reads most`, () => [...new Set(taken("words", state.word).map((one) => one.slot))].slice(0, SOME)),
      action("add-shared", "what word and patch share", () => {
        const other = new Set(taken("patches", state.patch).map(keyOf));
        return taken("words", state.word).filter((one) => other.has(keyOf(one))).map((one) => one.slot);
      }),
      action("add-most", "the ten most read", () => order.slice(0, 10)), clear),
    make("div", { class: "r2g-actions" }, again,
      ask ? "" : make("span", { class: "r2g-note" }, "Writing again needs the model: it works where this figure is live in a notebook.")));
  if (data.trials.length) {
    awayPanel.append(make("div", { class: "r2g-actions r2g-prepared" }, "written beforehand, without: ", ...data.trials.map((trial) => {
      const button = make("button", { type: "button", class: "r2g-action" }, trial.rewriting.about);
      button.addEventListener("click", () => showTrial(trial));
      return button;
    })));
  }
  awayPanel.append(problem, outcome);

  root.append(...heading(data), make("p", { class: "r2g-note" },
    "Point at a word or at a patch of a view; a click or Enter pins it, Escape lets it go. The views show which patches read the slots that the word reads; "
    + "the words are shaded by what they share with the patch (or, with \u201cthe slot at hand\u201d, both by how much of it they read). A word reads once it stands there: what was read before it was chosen is the reading of the word before it."),
  controls, top,
  make("section", { class: "r2g-panel", "aria-label": "all slots" },
    make("h2", {}, `${data.slots} slots: ${data.slots - dead.size} are read by something, ${dead.size} by nothing in ${data.use.studies.toLocaleString("en")} training studies`),
    make("div", { class: "r2g-legend" },
      make("span", {}, "Most read first. Bars: training reading of patches (left, blue) and of words (right, orange), root scale. Small crosses: dead."),
      make("span", { class: "r2g-key" }, swatch("#b3590c"), " the word reads"), make("span", { class: "r2g-key" }, swatch("#1f6fb2", true), " the patch reads"),
      make("span", { class: "r2g-key" }, swatch("#1b1b1b"), " both read"), make("span", { class: "r2g-key" }, "\u2571 taken away (Shift-click)")),
    canvas, make("div", { class: "r2g-three" }, lists.words, lists.patches, card)),
  awayPanel,
  make("p", { class: "r2g-foot" },
    "In common: the smaller weight of the two readers, summed over slots, mean of the heads. Shuffled: each slot of the word put anywhere among the slots that are read at all. "
    + "Other studies: training studies, patches in the same place. Slots that are popular with all readers are shared by any word and any patch: only what exceeds other studies speaks of this one. "
    + "Shares on the views are stored in 256 steps."));

  // Start at a finding that the report affirms, and at the patch that shares most with it.
  const first = data.findings.find((mark) => mark.polarity === "positive") || data.findings[0];
  state.word = first ? first.first + 1 : Math.min(1, tokens.length - 1);
  for (let patch = 1; patch < patches; patch += 1) {
    if (at("own", state.word, patch) > at("own", state.word, state.patch)) state.patch = patch;
  }
  state.slot = taken("words", state.word)[0];
  if (data.sheet.image) sheet.src = data.sheet.image;
  if (data.trials.length) showTrial(data.trials[0]);
  state.without = [];
  redraw();
  // The field of slots is as wide as its cell of the notebook.
  let seen = canvas.clientWidth;
  new ResizeObserver(() => {
    if (canvas.clientWidth !== seen) {
      seen = canvas.clientWidth;
      drawSlots();
    }
  }).observe(canvas);

  return { state: () => ({ ...state, readers: tokens.length, patches, field,
    trial: state.trial && state.trial.rewriting.slots, slot: state.slot && [state.slot.head, state.slot.slot] }) };
}
"""
