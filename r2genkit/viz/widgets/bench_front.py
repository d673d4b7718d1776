"""Script and style of the phantom bench: one front end for the page and for the widget."""
# ruff: noqa: E501

STYLE = r"""
.r2g-bench fieldset { border: 1px solid #ccc; border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem .6rem; min-width: 0; }
.r2g-bench legend { font-size: .875rem; font-weight: 600; padding: 0 .3rem; }
.r2g-bench .r2g-variants { display: flex; flex-wrap: wrap; gap: .4rem; }
.r2g-bench .r2g-item { display: grid; grid-template-columns: minmax(12rem, 2fr) repeat(3, minmax(7rem, 1fr)) 6.5rem;
  gap: .3rem .6rem; align-items: center; padding: .25rem .3rem; border-bottom: 1px solid #e4e4e4; font-size: .9rem; }
.r2g-bench .r2g-item[data-focus="true"] { background: #eef4fb; box-shadow: inset 4px 0 #1f3a5f; }
.r2g-bench .r2g-item[data-gone="true"] .r2g-name { text-decoration: line-through; }
.r2g-bench .r2g-name { display: flex; gap: .45rem; align-items: baseline; overflow-wrap: anywhere; cursor: pointer; }
.r2g-bench select { font: inherit; width: 100%; min-width: 0; padding: .15rem .2rem; color: inherit; background: #fff;
  border: 1px solid #888; border-radius: 4px; }
.r2g-bench select.r2g-system { width: auto; max-width: 100%; }
.r2g-bench .r2g-key .r2g-sentence { margin: 0 .3rem; }
.r2g-bench select:disabled { color: #555; background: #f4f4f4; border-color: #ccc; }
.r2g-bench .r2g-one { color: #666; padding: 0 .3rem; }
.r2g-bench .r2g-add { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin-top: .5rem; font-size: .9rem; }
.r2g-bench .r2g-add select { width: auto; max-width: 100%; }
.r2g-bench .r2g-status { color: #4a4a4a; font-size: .875rem; margin: .4rem 0 0; }
.r2g-bench .r2g-live .r2g-status { min-height: 1.4em; }
.r2g-bench .r2g-judged { border-left: 6px solid #767676; background: #f4f4f4; padding: .5rem .8rem; margin: .4rem 0; }
.r2g-bench .r2g-judged[data-verdict="followed"] { border-color: #0b63a0; background: #eaf3fb; }
.r2g-bench .r2g-judged[data-verdict="not followed"], .r2g-bench .r2g-judged[data-verdict="lost"],
.r2g-bench .r2g-judged[data-verdict="unprovoked"] { border-color: #b34700; background: #fdf1e8; }
.r2g-bench .r2g-verdict { font-size: 1.15rem; font-weight: 600; margin: 0 0 .4rem; }
.r2g-bench .r2g-verdict b { display: inline-block; min-width: 1.5em; }
.r2g-bench .r2g-facts { width: 100%; max-width: 60rem; }
.r2g-bench .r2g-facts th, .r2g-bench .r2g-facts td { text-align: left; font-weight: 400; vertical-align: middle; }
.r2g-bench .r2g-facts thead th { font-weight: 600; }
.r2g-bench .r2g-facts td { width: 30%; font-size: .95rem; }
.r2g-bench .r2g-facts .r2g-changed { font-weight: 700; }
.r2g-bench .r2g-bar { position: relative; display: inline-block; width: 5rem; height: .7rem; background: #d5d5d5; margin-right: .4rem; vertical-align: middle; }
.r2g-bench .r2g-bar i { position: absolute; inset: 0 auto 0 0; background: #1f3a5f; }
.r2g-bench .r2g-bar u { position: absolute; top: -3px; bottom: -3px; width: 2px; background: #b34700; }
.r2g-bench .r2g-roads { margin: .5rem 0 0; }
.r2g-bench .r2g-both { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; align-items: start; }
.r2g-bench .r2g-both .r2g-report { margin: .4rem 0; }
.r2g-bench .r2g-here { min-height: 3em; font-size: .9rem; margin: .4rem 0; }
.r2g-bench .r2g-sentence { background: #fff3c4; outline: 2px solid #a87b00; outline-offset: 2px; border-radius: 2px; color: inherit; padding: 3px 0;
  box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.r2g-bench .r2g-gone { text-decoration: line-through; text-decoration-color: #b06a2c; color: #7a4a12; background: #fbeedd; }
.r2g-bench .r2g-sentence .r2g-gone { background: none; }
.r2g-bench .r2g-new { font-weight: 700; background: #d8ecff; }
.r2g-bench .r2g-word[aria-current="true"] { color: #fff; background: #1f3a5f; }
.r2g-bench .r2g-line { display: inline-block; width: 2.2em; border-top: 3px solid; vertical-align: middle; margin-right: .3em; background: none; filter: drop-shadow(0 0 1px #000); }
.r2g-bench .r2g-line.r2g-old { border-top-style: dashed; }
@container r2g (max-width: 46rem) {
  .r2g-bench .r2g-both { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .r2g-bench .r2g-item { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .r2g-bench .r2g-name { grid-column: 1 / -1; }
  .r2g-bench .r2g-report { padding: .5rem; }
  .r2g-bench .r2g-facts th, .r2g-bench .r2g-facts td { padding: .15rem .3rem; }
  .r2g-bench .r2g-bar { display: block; width: 100%; max-width: 6rem; margin: 0 0 .15rem; }
}
"""

BODY = r"""
// The phantom bench: one finding of a patient is changed; both films, the report and its maps stand
// before and after. Content: r2genkit.viz.widgets.bench.payload. Without a kernel only the states
// that came with the page can be shown.

const VERDICTS = { followed: "\u2713", "not followed": "\u2717", lost: "\u2717", unprovoked: "!",
  found: "\u2713", "nothing to follow": "\u2013", kept: "=" };
const HALVES = ["before", "after"];

const share = (value) => (value === null ? "\u2013" : percent(value));
const named = (value) => (value === null || value === "" ? "not coded" : value);
const whereOf = (one) => [one.severity, one.side === "midline" ? "" : one.side, one.place].filter(Boolean).join(" ");
const asked = ({ key, kind, side, place, severity }) => ({ key, kind, side, place, severity });

function meanOf(rows, column) {
  const values = rows.map((row) => row[column]).filter((value) => value !== null);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

class Half {
  // One of the two columns: films, report, what is pointed at.
  constructor(place, bench) {
    this.place = place;
    this.bench = bench;
    this.word = -1;
    this.head = make("h2");
    this.views = make("div", { class: "r2g-views" });
    this.here = make("p", { class: "r2g-here" });
    this.box = make("div");
    this.node = make("section", { class: "r2g-report", "aria-label": HALVES[place] },
      this.head, this.views, this.here, this.box);
  }

  show(state, pair, follow) {
    this.state = state;
    this.follow = follow;
    this.map = { ...state.map, bytes: bytesOf(state.map.bytes) };
    this.head.replaceChildren(`${HALVES[this.place]}: ${state.title}`);
    this.films = filmsOf(state.views);
    this.views.replaceChildren(...this.films.map((film) => film.node));
    this.films.forEach((film, v) => this.outline(film, v));
    this.word = -1;
    this.text(pair);
  }

  // Where the finding was at first (dashed) and where it is now.
  outline({ film, view }, v) {
    const pairs = this.bench.drawnOf(this.bench.focus).map((one) => (one ? [one.paths[v], one.tops[v]] : ["", [0, 0]]));
    const [old, now] = pairs;
    const unit = view.width / 100;
    const parts = [];
    const add = ([path, top], i, name) => {
      if (!path) return;
      const colour = this.bench.data.colours[i];
      parts.push(makeSvg("path", { d: path, fill: "none", stroke: "#000", "stroke-width": 2 * unit, opacity: 0.45 }),
        makeSvg("path", { d: path, fill: "none", stroke: colour, "stroke-width": unit, class: `r2g-${name}`,
          "stroke-dasharray": i === 0 ? `${3 * unit} ${1.6 * unit}` : "none" }),
        makeSvg("text", { x: Math.min(Math.max(top[0], 9 * unit), view.width - 9 * unit), y: Math.max(top[1] - 1.5 * unit, 6.5 * unit),
          fill: colour, "font-size": 6.5 * unit, "text-anchor": "middle" }, name));
    };
    if (old[0] !== now[0]) {
      add(old, 0, "old");
      add(now, 1, "new");
    } else {
      add(now, 1, "drawn");
    }
    if (parts.length) {
      film.append(makeSvg("svg", { class: "r2g-drawn", viewBox: `0 0 ${view.width} ${view.height}`,
        preserveAspectRatio: "none", "aria-hidden": "true" }, ...parts));
    }
  }

  text(pair) {
    const { words, marks, numbers } = this.state;
    const partners = pair.partners[this.place];
    const own = this.follow ? this.follow.said[this.place].sentence : -1;
    this.spans = wordSpans(words, marks);
    this.spans.forEach((span, t) => {
      span.setAttribute("role", "button");
      span.tabIndex = -1;
      if (partners[t] < 0) span.classList.add(this.place ? "r2g-new" : "r2g-gone");
    });
    const text = make("p", { class: "r2g-text", role: "group", "aria-label":
      `Report ${HALVES[this.place]}. Arrow keys go from word to word; Enter pins a word, Escape lets it go.` });
    let box = text;
    this.spans.forEach((span, t) => {
      if (t === 0 || numbers[t] !== numbers[t - 1]) {
        box = numbers[t] === own ? make("mark", { class: "r2g-sentence" }) : text;
        if (box !== text) text.append(box, " ");
      }
      box.append(span, " ");
    });
    if (!words.length) text.append(make("em", {}, "(empty report)"));
    const wordAt = (event) => {
      const span = event.target.closest("[data-word]");
      return span ? Number(span.dataset.word) : -1;
    };
    for (const kind of ["mouseover", "focusin"]) {
      text.addEventListener(kind, (event) => {
        const t = wordAt(event);
        if (t >= 0 && !this.bench.pinned) this.bench.point(this.place, t);
      });
    }
    text.addEventListener("click", (event) => {
      const t = wordAt(event);
      if (t >= 0) this.bench.pin(this.place, t);
    });
    text.addEventListener("keydown", (event) => this.key(event));
    this.box.replaceChildren(text);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.spans.length - 1;
    const moves = { ArrowRight: Math.min(last, this.word + 1), ArrowLeft: Math.max(0, this.word - 1), Home: 0, End: last };
    if (event.key in moves) {
      const t = moves[event.key];
      this.bench.pinned = false;
      this.bench.point(this.place, t);
      this.spans[t].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      this.bench.pin(this.place, this.word);
    } else if (event.key === "Escape") {
      this.bench.unpin();
    } else {
      return;
    }
    event.preventDefault();
  }

  // Word t, or -1 for none.
  mark(t, pinned) {
    const old = this.spans[this.word];
    if (old) {
      old.removeAttribute("aria-current");
      old.setAttribute("aria-pressed", "false");
    }
    this.word = t;
    this.spans.forEach((span, i) => { span.tabIndex = i === Math.max(t, 0) ? 0 : -1; });
    if (t >= 0) {
      this.spans[t].setAttribute("aria-current", "true");
      this.spans[t].setAttribute("aria-pressed", String(pinned));
    }
    this.draw();
  }

  draw() {
    const t = this.word;
    this.films.forEach(({ canvas, share: label }, v) => {
      if (t < 0) {
        fit(canvas, 1, 1).clearRect(0, 0, 1, 1);
        label.textContent = "";
      } else {
        paint(canvas, this.map, t, v, 1, this.bench.settings);
        label.textContent = percent(this.map.shares[t][v]);
      }
    });
    if (t < 0) {
      this.here.replaceChildren(make("em", {}, this.state.words.length
        ? "This report has no such word." : "This report is empty."));
      return;
    }
    const facts = [`strongest patch ${this.map.peaks[t].toFixed(1)} \u00d7 even`];
    if (this.follow) {
      const inside = this.follow.inside[this.place][t];
      const same = this.bench.unmoved();
      ["old", "new"].forEach((name, i) => {
        if (this.follow.chance[i] === null || (same && i === 0)) return;
        facts.push(`${share(inside[i])} in the finding\u2019s ${same ? "" : `${name} `}place (even: ${share(this.follow.chance[i])})`);
      });
    }
    if (this.state.sentences) facts.push("all words of its sentence share this map");
    this.here.replaceChildren(make("strong", {}, `\u201c${this.state.words[t]}\u201d`), ` \u2014 ${facts.join("; ")}.`);
  }
}

class BenchView {
  constructor(root, data, ask, tell) {
    Object.assign(this, { root, data, ask, tell, focus: data.focus, pinned: false, busy: false, error: "", turn: 0 });
    this.settings = { opacity: data.opacity, smooth: true };
    this.system = 0;
    this.from(data.states[0]);
    this.now = { state: data.states[0], pair: data.pairs[0] };
    this.variant = 0;
    this.drawn = 0;
    this.wanted = this.first.findings.map(asked);
    this.halves = HALVES.map((_, place) => new Half(place, this));
    this.kinds = new Map(data.kinds.map((kind) => [kind.name, kind]));
    this.titles = new Map([...data.kinds.map((kind) => [kind.name, kind.title]),
      ...data.states.flatMap((state) => state.findings.map((one) => [one.kind, one.title]))]);
    this.build();
    this.choose(Math.min(1, data.states.length - 1));
  }

  drawnOf(key) {
    return [this.first, this.now.state].map((state) => state.findings.find((one) => one.key === key));
  }

  unmoved() {
    const [old, now] = this.drawnOf(this.focus);
    return Boolean(old && now && old.paths.join() === now.paths.join());
  }

  build() {
    this.buttons = this.data.states.map((state, i) => {
      const button = make("button", { type: "button", class: "r2g-action", "aria-pressed": "false" }, state.title);
      button.addEventListener("click", () => this.choose(i));
      return button;
    });
    this.list = make("div");
    this.status = make("p", { class: "r2g-status", role: "status", "aria-live": "polite" });
    this.wrong = make("p", { class: "r2g-error", role: "alert", hidden: true });
    this.judged = make("div", { class: "r2g-judged" });
    const kinds = make("select", { "aria-label": "finding to add" }, ...this.data.kinds.map((kind) =>
      make("option", { value: kind.name }, kind.title + (kind.tag ? "" : " (no tag)"))));
    const add = make("button", { type: "button", class: "r2g-action r2g-adds" }, "add");
    add.addEventListener("click", () => this.add(kinds.value));
    const reset = make("button", { type: "button", class: "r2g-action r2g-reset" }, "reset");
    reset.addEventListener("click", () => this.choose(0));
    for (const one of [kinds, add]) one.disabled = !this.ask;
    const slider = make("input", { type: "range", min: 0, max: 100, step: 5, value: Math.round(100 * this.settings.opacity) });
    slider.addEventListener("input", () => {
      this.settings.opacity = Number(slider.value) / 100;
      this.halves.forEach((half) => half.draw());
    });
    const smooth = make("input", { type: "checkbox", class: "r2g-smooth" });
    smooth.checked = true;
    smooth.addEventListener("change", () => {
      this.settings.smooth = smooth.checked;
      this.halves.forEach((half) => half.draw());
    });
    const line = (i, name, text) => {
      const sample = make("span", { class: `r2g-line r2g-${name}` });
      sample.style.borderTopColor = this.data.colours[i];
      return make("span", { class: "r2g-key" }, sample, text);
    };
    this.root.append(...heading(this.data), this.reporters(),
      make("fieldset", {}, make("legend", {}, "Computed beforehand"),
        make("div", { class: "r2g-variants", role: "group", "aria-label": "states computed beforehand" }, ...this.buttons)),
      make("fieldset", { class: this.ask ? "r2g-live" : null }, make("legend", {}, "Findings of this patient"), this.list,
        make("div", { class: "r2g-add" }, kinds, add, reset),
        this.ask ? "" : make("p", { class: "r2g-note r2g-nokernel" },
          "Sides, places and severities can be changed where a kernel draws and reads the films; this page shows the states above."),
        this.status, this.wrong),
      this.judged,
      make("div", { class: "r2g-controls" }, make("label", {}, "opacity ", slider),
        make("label", {}, smooth, " smooth between patches"), line(0, "old", "old place"), line(1, "new-line", "new place"),
        make("span", { class: "r2g-key" }, make("span", { class: "r2g-gone" }, "gone"), " / ", make("span", { class: "r2g-new" }, "new"), " words"),
        make("span", { class: "r2g-key" }, make("mark", { class: "r2g-sentence" }, "the finding\u2019s sentence"))),
      make("div", { class: "r2g-both" }, ...this.halves.map((half) => half.node)),
      make("div", { class: "r2g-legend" }, ...findingsKey()),
      make("p", { class: "r2g-foot" },
        "Body, pose, film, noise and all other findings are drawn from the same random numbers before and after, and so is the finding itself. "
        + "Point at a word: both reports show where the model looked for it; a click or Enter pins it, Escape lets it go. "
        + "The nearer a look is to even, the fainter it is drawn: nothing at 1 \u00d7, all of it from 2 \u00d7 on. "
        + "Attention is what was read, not what a word depends on: for that, see the last lines of the table, where a model reads tags."));
  }

  // Who writes the reports: another system only where a kernel can ask it.
  reporters() {
    if (this.data.systems.length < 2 || !this.ask) return make("p", { class: "r2g-note" }, `Reports: ${this.data.system}.`);
    this.chooser = make("select", { class: "r2g-system", "aria-label": "system that writes the reports" },
      ...this.data.systems.map((name, i) => make("option", { value: i }, name)));
    this.chooser.addEventListener("change", () => this.want(this.wanted, this.focus, Number(this.chooser.value)));
    return make("p", { class: "r2g-choice" }, "reports: ", this.chooser);
  }

  // --- the list of findings

  rows() {
    const gone = this.first.findings.filter((one) => !this.wanted.some((own) => own.key === one.key));
    const rows = [...this.first.findings.map((one) => one.key), ...this.wanted.map((one) => one.key)];
    return [...new Set(rows)].map((key) => ({ key, one: this.wanted.find((own) => own.key === key)
      || gone.find((own) => own.key === key), gone: !this.wanted.some((own) => own.key === key) }));
  }

  list_() {
    const focused = document.activeElement && this.list.contains(document.activeElement)
      ? document.activeElement.getAttribute("aria-label") : null;
    this.list.replaceChildren(...this.rows().map((row) => this.item(row)));
    if (!this.list.childElementCount) this.list.append(make("p", { class: "r2g-note" }, "No finding is drawn."));
    if (focused) {
      const again = [...this.list.querySelectorAll("[aria-label]")].find((node) => node.getAttribute("aria-label") === focused);
      if (again) again.focus();
    }
  }

  item({ key, one, gone }) {
    const title = this.titles.get(one.kind) || one.kind;
    const radio = make("input", { type: "radio", name: `focus${this.number()}`, value: key });
    radio.checked = key === this.focus;
    radio.addEventListener("change", () => this.look(key));
    const kind = this.kinds.get(one.kind);
    const was = this.first.findings.find((own) => own.key === key);
    // What the code said stays on offer; a choice that would change nothing does not.
    const offered = (what, values) => {
      if (values.length < 2) return [one[what]];
      const extra = was && !values.includes(was[what]) && (what !== "place" || was.side === one.side) ? [was[what]] : [];
      const all = [...extra, ...values.filter((value) => !(extra.includes(null) && value === kind.uncoded))];
      return all.includes(one[what]) ? all : [one[what], ...all];
    };
    const cell = (what, values, show = named) => {
      const known = offered(what, values);
      if (known.length < 2 || gone) {
        return make("span", { class: "r2g-one" }, known[0] === null || (what === "place" && known[0] === "") ? "" : show(one[what]));
      }
      const select = make("select", { "aria-label": `${what} of ${title} ${key}`, "data-what": what, "data-key": key },
        ...known.map((value, i) => make("option", { value: i }, show(value))));
      select.value = String(known.indexOf(one[what]));
      select.disabled = !this.ask;
      select.addEventListener("change", () => this.change(key, what, known[Number(select.value)]));
      return select;
    };
    const sides = kind ? kind.sides : [one.side];
    const places = kind ? kind.places[one.side] || [one.place] : [one.place];
    const severities = kind ? kind.severities : [one.severity];
    const button = make("button", { type: "button", class: "r2g-action", "data-key": key,
      "aria-label": `${gone ? "put back" : "remove"} ${title} ${key}` }, gone ? "put back" : "remove");
    button.disabled = !this.ask;
    button.addEventListener("click", () => (gone ? this.putBack(key) : this.remove(key)));
    return make("div", { class: "r2g-item", "data-focus": key === this.focus, "data-gone": gone },
      make("label", { class: "r2g-name" }, radio, `${title}${key.startsWith("+") ? " (added)" : ""}`),
      cell("side", sides), cell("place", places), cell("severity", severities), button);
  }

  number() {
    if (!this.id) this.id = Math.random().toString(36).slice(2);
    return this.id;
  }

  change(key, what, value) {
    const one = this.wanted.find((own) => own.key === key);
    const kind = this.kinds.get(one.kind);
    const next = { ...one, [what]: value };
    // The middle lobe is right and the lingula left: each stands for the other across.
    const places = kind.places[next.side] || [next.place];
    const listed = (kind.places[one.side] || []).includes(one.place); // else it is the code's own
    const across = { "middle lobe": "lingula", lingula: "middle lobe" };
    if (what === "side" && listed && !places.includes(next.place)) {
      next.place = places.includes(across[next.place]) ? across[next.place] : places[0];
    }
    this.want(this.wanted.map((own) => (own.key === key ? next : own)), key);
  }

  remove(key) {
    this.want(this.wanted.filter((own) => own.key !== key), key);
  }

  putBack(key) {
    this.want([...this.wanted, asked(this.first.findings.find((one) => one.key === key))], key);
  }

  add(name) {
    const used = new Set(this.wanted.map((one) => one.key));
    let n = 1;
    while (used.has(`+${n}`)) n += 1;
    const kind = this.kinds.get(name);
    const key = `+${n}`;
    this.want([...this.wanted, { key, kind: name, ...kind.start }], key);
  }

  sorted(findings) {
    return JSON.stringify([...findings.map(asked)].sort((a, b) => (a.key < b.key ? -1 : 1)));
  }

  titleOf(findings) {
    const old = new Map(this.first.findings.map((one) => [one.key, one]));
    const parts = [];
    for (const one of findings) {
      const title = this.titles.get(one.kind);
      const was = old.get(one.key);
      if (!was) parts.push(`${whereOf(one)} ${title} added`);
      else if (whereOf(was) !== whereOf(one)) parts.push(`${whereOf(one)} ${title}`);
    }
    for (const one of this.first.findings) {
      if (!findings.some((own) => own.key === one.key)) parts.push(`without ${one.title}`);
    }
    return parts.join("; ").trim() || this.first.title;
  }

  // A list of findings: from what is there, else from the kernel.
  async want(findings, focus, system = this.system) {
    const before = { wanted: this.wanted, focus: this.focus, system: this.system };
    Object.assign(this, { wanted: findings, focus, system });
    this.fail("");
    const known = system ? -1 : this.data.states.findIndex((state) => this.sorted(state.findings) === this.sorted(findings));
    if (known >= 0) {
      this.choose(known, focus);
      return;
    }
    this.turn += 1;
    const { turn } = this;
    this.wait(true);
    this.list_();
    try {
      const answer = await this.ask({ findings, title: this.titleOf(findings), system: this.data.systems[system] || "" });
      if (!answer || turn !== this.turn) return; // something newer is wanted
      this.variant = -1;
      this.from(answer.first || this.data.states[0], answer.called_at);
      this.wait(false);
      this.show(answer);
      const s = answer.seconds;
      this.status.textContent = `Drawn, read and written in ${s.whole.toFixed(2)} s `
        + `(both films ${s.render.toFixed(2)}, features and tags ${s.encode.toFixed(2)}, report ${s.decode.toFixed(2)}).`;
    } catch (error) {
      if (turn !== this.turn) return;
      this.wait(false);
      Object.assign(this, before);
      if (this.chooser) this.chooser.value = String(this.system);
      this.list_();
      this.fail(error.message);
    }
  }

  wait(busy) {
    this.busy = busy;
    this.halves[1].node.classList.toggle("r2g-busy", busy);
    if (busy) this.status.textContent = "Drawing the films and reading them \u2026";
  }

  fail(text) {
    this.error = text;
    this.wrong.textContent = text;
    this.wrong.hidden = !text;
    if (text) this.status.textContent = "";
  }

  // The unchanged patient, as the system that writes now reads it.
  from(first, calledAt = this.data.called_at) {
    this.first = first;
    this.calledAt = calledAt;
  }

  choose(index, focus = this.data.focus) {
    if (this.system) { // what came with the widget was written by the first system
      this.want(this.data.states[index].findings.map(asked), focus);
      return;
    }
    this.turn += 1;
    this.from(this.data.states[0]);
    this.variant = index;
    this.wanted = this.data.states[index].findings.map(asked);
    this.focus = focus;
    this.fail("");
    this.wait(false);
    this.status.textContent = "";
    this.show({ state: this.data.states[index], pair: this.data.pairs[index] });
  }

  look(key) {
    this.focus = key;
    this.show(this.now);
  }

  // --- what is shown

  show(now) {
    const start = performance.now();
    this.now = now;
    const { follows } = now.pair;
    if (!follows.some((one) => one.key === this.focus)) this.focus = follows.length ? follows[0].key : "";
    this.follow = follows.find((one) => one.key === this.focus) || null;
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === this.variant)));
    this.list_();
    this.pinned = false;
    this.halves[0].show(this.first, now.pair, this.follow);
    this.halves[1].show(now.state, now.pair, this.follow);
    this.judge();
    const said = this.follow ? this.follow.said.map((one) => one.words) : [[], []];
    if (said[1].length) this.point(1, said[1][0]);
    else if (said[0].length) this.point(0, said[0][0]);
    else this.point(now.state.words.length ? 1 : 0, 0);
    this.drawn = performance.now() - start;
    this.tell({ title: now.state.title, focus: this.focus, findings: this.wanted });
  }

  judge() {
    const follow = this.follow;
    if (!follow) {
      this.judged.replaceChildren("No finding is drawn, before or after.");
      this.judged.dataset.verdict = "";
      return;
    }
    this.judged.dataset.verdict = follow.verdict;
    const changed = (a, b) => ({ class: a === b ? null : "r2g-changed" });
    const row = (name, values, cells = values) => make("tr", {}, make("th", { scope: "row" }, name),
      make("td", {}, cells[0]), make("td", changed(values[0], values[1]), cells[1]));
    const bar = (tag) => {
      const fill = make("i");
      fill.style.width = percent(tag[0]).replace("\u202f", "");
      const limit = make("u");
      limit.style.left = `${100 * this.calledAt}%`;
      return make("span", {}, make("span", { class: "r2g-bar", "aria-hidden": "true" }, fill, limit),
        `${tag[0].toFixed(2)} (told ${tag[1].toFixed(2)})`);
    };
    const rows = [
      row("drawn: should it be stated?", follow.should.map((yes, i) => (yes
        ? `yes${follow.where[i] ? `: ${follow.where[i]}` : ""}` : "no"))),
      row("the report", follow.said.map((one) => one.told)),
      row("said of it", follow.said.map((one) => [...one.sides, ...one.said].join(", ") || "\u2013")),
      row("tag: probability", follow.tags ? follow.tags.map((tag) => tag[0].toFixed(2)) : ["no tag", "no tag"],
        follow.tags ? follow.tags.map(bar) : ["the model is not told of it", "\u2013"]),
    ];
    const same = this.unmoved();
    ["old", "new"].forEach((name, i) => {
      if (follow.chance[i] === null || (same && i === 0)) return;
      const inside = HALVES.map((_, half) => meanOf(follow.said[half].words.map((t) => follow.inside[half][t]), i));
      rows.push(row(`attention of its words in ${same ? "its" : `the ${name}`} place (even: ${share(follow.chance[i])})`,
        inside.map((value) => (value === null ? "no word" : share(value)))));
    });
    if (follow.roads) {
      rows.push(row("the report, had only the tags changed", [follow.said[0].told, follow.roads[0]]),
        row("the report, had only the patches changed", [follow.said[0].told, follow.roads[1]]));
    }
    this.judged.replaceChildren(
      make("p", { class: "r2g-verdict" }, make("b", { "aria-hidden": "true" }, VERDICTS[follow.verdict]), follow.sentence),
      make("table", { class: "r2g-facts" },
        make("thead", {}, make("tr", {}, make("th", {}, follow.title), make("th", {}, "before"), make("th", {}, "after"))),
        make("tbody", {}, ...rows)));
  }

  // Word t of one report, and its partner in the other one.
  point(place, t) {
    const other = 1 - place;
    let partner = this.now.pair.partners[place][t];
    if (this.follow) { // words that name the finding stand for each other
      const [own, theirs] = [this.follow.said[place].words, this.follow.said[other].words];
      const at = own.indexOf(t);
      if (at >= 0 && theirs.length) partner = theirs[Math.min(at, theirs.length - 1)];
    }
    if (partner === undefined) partner = -1;
    const count = this.halves[place].spans.length;
    this.halves[place].mark(count ? t : -1, this.pinned);
    this.halves[other].mark(partner, this.pinned);
  }

  pin(place, t) {
    const same = this.pinned && this.halves[place].word === t;
    this.pinned = !same;
    this.point(place, t);
    this.tell({ title: this.now.state.title, focus: this.focus, findings: this.wanted,
      word: this.pinned ? { report: HALVES[place], place: t } : null });
  }

  unpin() {
    this.pinned = false;
    this.halves.forEach((half) => half.mark(half.word, false));
  }

  state() {
    return { title: this.now.state.title, variant: this.variant, focus: this.focus, pinned: this.pinned,
      words: this.halves.map((half) => half.word), busy: this.busy, error: this.error, findings: this.wanted,
      verdict: this.follow ? this.follow.verdict : "", system: this.system, drawn: this.drawn };
  }
}

function draw(root, data, ask, tell) {
  const bench = new BenchView(root, data, ask, tell);
  return {
    state: () => bench.state(),
    choose: (index) => bench.choose(index),
    look: (key) => bench.look(key),
    point: (place, t) => bench.point(place, t),
  };
}
"""
