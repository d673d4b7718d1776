"""Script and style of the retrieval wall; see ``front.py`` for why they stand in a module."""
# ruff: noqa: E501

STYLE = r"""
.r2g-wall { --negative: #6d6d6d; --uncertain: #6d6d6d; --shared: #0b63a0; --missing: #5a5a5a; --extra: #b34700; --copied: #ffe9a0; }
.r2g-wall .r2g-columns { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 8fr); gap: 1.2rem; align-items: start; }
.r2g-wall .r2g-pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1.2rem; align-items: start; }
.r2g-wall h3 { font-size: .95rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.r2g-wall .r2g-orders { display: flex; flex-wrap: wrap; gap: .35rem; }
.r2g-wall .r2g-tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr)); gap: .5rem; }
.r2g-tile { display: block; padding: .3rem; margin: 0; text-align: left; background: #fff; color: inherit; border: 1px solid #9aa4b1; border-radius: 6px; cursor: pointer; line-height: 1.35; }
.r2g-tile:hover { background: #eef4fa; }
.r2g-tile[aria-pressed="true"] { border-color: #1f3a5f; box-shadow: 0 0 0 3px #1f3a5f; }
.r2g-tile .r2g-pictures { display: flex; gap: 2px; background: #000; line-height: 0; }
.r2g-tile img { flex: 1 1 0; min-width: 0; width: 50%; height: auto; margin: 0; }
.r2g-tile .r2g-rank { display: flex; justify-content: space-between; gap: .3rem; font-size: .8125rem; font-variant-numeric: tabular-nums; }
.r2g-tile .r2g-seat { font-size: .75rem; color: #1f3a5f; min-height: 1.2em; }
.r2g-counts { display: inline-flex; gap: .55rem; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
.r2g-shared { color: var(--shared); }
.r2g-missing { color: var(--missing); }
.r2g-extra { color: var(--extra); }
.r2g-wall .r2g-word.r2g-shared { border-bottom: 3px solid var(--shared); }
.r2g-wall .r2g-word.r2g-missing { border-bottom: 3px dotted var(--missing); }
.r2g-wall .r2g-word.r2g-extra { border-bottom: 3px double var(--extra); }
.r2g-wall .r2g-word.r2g-shared, .r2g-wall .r2g-word.r2g-extra, .r2g-wall .r2g-word.r2g-missing { font-weight: 600; }
.r2g-wall .r2g-text .r2g-word { cursor: auto; }
.r2g-wall .r2g-negative, .r2g-wall .r2g-uncertain { border-bottom-width: 1px; }
.r2g-wall .r2g-trigger { outline: none; }
.r2g-wall .r2g-text { line-height: 1.9; }
.r2g-wall .r2g-found { margin: .3rem 0; font-size: .9rem; }
.r2g-wall .r2g-found span { margin-right: .8em; }
.r2g-wall .r2g-small { display: flex; gap: 4px; max-width: 17rem; background: #000; line-height: 0; }
.r2g-wall .r2g-small img { flex: 1 1 0; min-width: 0; width: 50%; height: auto; }
.r2g-wall .r2g-scores { font-weight: 600; font-variant-numeric: tabular-nums; }
.r2g-wall .r2g-seats { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .5rem; margin: .4rem 0; padding: 0; list-style: none; }
.r2g-wall .r2g-seats li { border: 1px solid #9aa4b1; border-radius: 6px; padding: .35rem .5rem; margin: 0; font-size: .875rem; }
.r2g-wall .r2g-seats li.r2g-vacant { border-style: dashed; background: #f6f6f6; }
.r2g-wall .r2g-seats .r2g-action { padding: .1rem .5rem; font-size: .8125rem; margin: .2rem .3rem 0 0; }
.r2g-wall .r2g-presets { display: flex; flex-wrap: wrap; gap: .35rem; align-items: center; font-size: .875rem; }
.r2g-sentence-copied { background: var(--copied); border-radius: 3px; padding: 2px 0; }
.r2g-sentence-new { outline: 1.5px dashed #1f3a5f; outline-offset: 1px; border-radius: 3px; }
.r2g-wall .r2g-ranks { font-weight: 700; font-size: .75em; color: #6b4e00; }
.r2g-wall .r2g-sentence-info { min-height: 3em; }
.r2g-wall .r2g-key b { font-weight: 600; }
.r2g-wall select { max-width: 100%; }
.r2g-wall .r2g-controls label { flex-wrap: wrap; }
.r2g-wall .r2g-key { white-space: normal; }
.r2g-wall .r2g-views figure { max-width: 13rem; }
@container r2g (max-width: 38rem) {
  .r2g-wall .r2g-columns, .r2g-wall .r2g-pair { grid-template-columns: minmax(0, 1fr); gap: .6rem; }
  .r2g-wall .r2g-tiles { grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr)); }
  .r2g-wall .r2g-seats { grid-template-columns: minmax(0, 1fr); }
  .r2g-report { padding: .5rem; }
}
"""

BODY = r"""
// --- the retrieval wall --------------------------------------------------------------------------

const KINDS = ["shared", "missing", "extra"];
const EXPLAINED = { shared: "shared with the query", missing: "missing in the neighbour", extra: "extra in the neighbour" };
const score = (value) => (value === null ? "\u2013" : value.toFixed(2));
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

class Wall {
  constructor(root, data, ask, tell) {
    Object.assign(this, { root, data, ask, tell });
    this.query = 0;
    this.order = data.own;
    this.shown = data.queries[0].given.length;
    this.tile = 0;
    this.asked = 0; // number of the newest change of seats: late answers to older ones are dropped
    this.build();
    this.openQuery(0);
  }

  get one() { return this.data.queries[this.query]; }
  get hits() { return this.one.walls[this.order].slice(0, this.shown); }
  get hit() { return this.hits[this.tile]; }
  named(key) { return this.data.orders.find((order) => order.key === key); }

  build() {
    this.select = make("select", { class: "r2g-query" }, ...this.data.queries.map((query, i) =>
      make("option", { value: i }, `${query.id} (${query.stratum})`)));
    this.select.addEventListener("change", () => this.openQuery(Number(this.select.value)));
    this.buttons = this.data.orders.map((order) => {
      const button = make("button", { type: "button", class: "r2g-action", "aria-pressed": "false" }, order.name);
      button.addEventListener("click", () => this.openOrder(order.key));
      return { button, key: order.key };
    });
    const most = Math.max(...this.data.queries.flatMap((query) => Object.values(query.walls).map((hits) => hits.length)));
    this.slider = make("input", { type: "range", class: "r2g-k", min: 1, max: most, step: 1, value: this.shown });
    this.slider.addEventListener("input", () => this.openCount(Number(this.slider.value)));
    this.kText = make("output", {});
    this.left = make("div", { class: "r2g-left" });
    this.about = make("p", { class: "r2g-about" });
    this.mean = make("p", { class: "r2g-mean", role: "status", "aria-live": "polite" });
    this.tiles = make("div", { class: "r2g-tiles", role: "group", "aria-label": "training studies found; arrow keys go from tile to tile" });
    this.tiles.addEventListener("keydown", (event) => this.key(event));
    this.compare = make("section", { class: "r2g-report r2g-compare", "aria-label": "query and neighbour" });
    this.writing = make("section", { class: "r2g-report r2g-writing", "aria-label": "written reports" });
    const key = KINDS.map((kind) => make("span", { class: "r2g-key" },
      make("b", { class: `r2g-${kind}` }, this.data.signs[kind]), ` ${EXPLAINED[kind]}`));
    key.push(...findingsKey().slice(1, 3));
    this.root.append(...heading(this.data),
      make("div", { class: "r2g-controls" }, make("label", {}, "query ", this.select),
        make("label", {}, "K, neighbours shown ", this.slider, " ", this.kText)),
      make("div", { class: "r2g-controls" }, "alike ",
        make("div", { class: "r2g-orders", role: "group", "aria-label": "what is compared" }, ...this.buttons.map(({ button }) => button))),
      make("div", { class: "r2g-legend" }, ...key),
      make("div", { class: "r2g-columns" }, this.left,
        make("div", { class: "r2g-right" }, this.about, this.mean, this.tiles)),
      this.compare, this.writing,
      make("p", { class: "r2g-foot" },
        "Tiles count the true findings of both studies; finding-F1 and BLEU-4 compare the words of a report with the "
        + "reference. A sentence that stands in a neighbour's report need not come from there: see how many training "
        + "reports have it, and whether it is written with empty seats, too."));
  }

  openQuery(number) {
    this.query = number;
    this.select.value = String(number);
    const one = this.one;
    const list = (name, titles) => make("p", { class: "r2g-found" }, make("strong", {}, `${name}: `), titles.join(", ") || "none");
    this.left.replaceChildren(
      make("div", { class: "r2g-views" }, ...filmsOf(one.views).map(({ node }) => node)),
      list("true findings", one.findings), list("predicted findings", one.predicted));
    this.tile = 0;
    this.drawWall();
    this.seat([...one.given]);
  }

  openOrder(key) {
    this.order = key;
    this.tile = 0;
    this.drawWall();
    this.drawSeats();
  }

  openCount(count) {
    this.shown = count;
    this.tile = Math.min(this.tile, this.hits.length - 1);
    this.drawWall();
    this.drawSeats();
  }

  counts(study) {
    const found = this.one.neighbours[study];
    return make("span", { class: "r2g-counts" }, ...KINDS.map((kind) =>
      make("span", { class: `r2g-${kind}`, title: `${EXPLAINED[kind]}: ${found[kind].join(", ") || "none"}` },
        `${this.data.signs[kind]}${found[kind].length}`)));
  }

  drawWall() {
    for (const { button, key } of this.buttons) button.setAttribute("aria-pressed", String(key === this.order));
    this.slider.value = String(this.shown);
    this.kText.textContent = String(this.shown);
    this.about.textContent = this.named(this.order).about;
    const one = this.one;
    const sums = KINDS.map((kind) => this.hits.reduce((sum, hit) => sum + one.neighbours[hit.study][kind].length, 0));
    const covered = one.findings.filter((title) => this.hits.some((hit) => one.neighbours[hit.study].shared.includes(title)));
    this.mean.replaceChildren(`Per neighbour: `, make("span", { class: "r2g-counts" }, ...KINDS.map((kind, i) =>
      make("span", { class: `r2g-${kind}` }, `${this.data.signs[kind]} ${(sums[i] / this.hits.length).toFixed(2)}`))),
      one.findings.length
        ? `; ${covered.length} of ${plural(one.findings.length, "finding")} of the query in at least one of ${this.hits.length}.`
        : "; the query has no finding.");
    this.cells = this.hits.map((hit, i) => {
      const study = this.data.studies[hit.study];
      const found = one.neighbours[hit.study];
      const seat = make("div", { class: "r2g-seat" });
      const button = make("button", { type: "button", class: "r2g-tile", "data-study": hit.study, "aria-pressed": "false",
        tabindex: "-1", "aria-label": [`rank ${i + 1}, training study ${hit.study}, likeness ${hit.likeness.toFixed(2)}`,
          ...KINDS.map((kind) => `${kind}: ${found[kind].join(", ") || "none"}`)].join("; ") },
      make("div", { class: "r2g-pictures" }, ...study.views.map((image) => make("img", { src: image, alt: "" }))),
      make("div", { class: "r2g-rank" }, make("strong", {}, `${i + 1}.`), make("span", {}, `cos ${hit.likeness.toFixed(2)}`)),
      this.counts(hit.study), seat);
      button.addEventListener("click", () => this.openTile(i));
      return { button, seat, study: hit.study };
    });
    this.tiles.replaceChildren(...this.cells.map(({ button }) => button));
    this.drawTile();
  }

  openTile(i) {
    this.tile = i;
    this.drawTile();
    this.drawSeats();
    this.tell({ query: this.one.id, order: this.order, study: this.hit.study });
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.cells.length - 1;
    const top = this.cells[0].button.offsetTop;
    const wide = Math.max(1, this.cells.filter(({ button }) => button.offsetTop === top).length);
    const moves = { ArrowRight: this.tile + 1, ArrowLeft: this.tile - 1, ArrowDown: this.tile + wide,
      ArrowUp: this.tile - wide, Home: 0, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.openTile(Math.min(last, Math.max(0, moves[event.key])));
    this.cells[this.tile].button.focus();
  }

  // Words with the signs of what they affirm; of other findings, the marks of the kit.
  marked(words, marks, kindOf) {
    const affirmed = marks.filter((mark) => mark.polarity === "positive" && kindOf(mark.title));
    const spans = wordSpans(words, marks.filter((mark) => !affirmed.includes(mark)));
    for (const mark of affirmed) {
      const kind = kindOf(mark.title);
      for (let t = mark.first; t < mark.end; t += 1) {
        spans[t].classList.add(`r2g-${kind}`);
        spans[t].title = `${mark.title}: ${EXPLAINED[kind]}`;
      }
      spans[mark.end - 1].append(make("sup", { class: `r2g-${kind}` }, this.data.signs[kind]));
    }
    return spans;
  }

  text(spans) {
    const node = make("p", { class: "r2g-text" });
    spans.forEach((span) => node.append(span, " "));
    if (!spans.length) node.append(make("em", {}, "(empty report)"));
    return node;
  }

  drawTile() {
    this.cells.forEach(({ button }, i) => {
      button.setAttribute("aria-pressed", String(i === this.tile));
      button.tabIndex = i === this.tile ? 0 : -1;
    });
    const one = this.one;
    const hit = this.hit;
    const study = this.data.studies[hit.study];
    const found = one.neighbours[hit.study];
    const kindOf = (title) => KINDS.find((kind) => found[kind].includes(title));
    const inQuery = (title) => (one.findings.includes(title) ? kindOf(title) : undefined);
    const inStudy = (title) => (study.findings.includes(title) ? kindOf(title) : undefined);
    this.compare.replaceChildren(make("h2", {}, "A neighbour beside the query"),
      make("div", { class: "r2g-pair" },
        make("div", {}, make("h3", {}, `Reference of ${one.id}`), this.text(this.marked(one.words, one.marks, inQuery))),
        make("div", {}, make("h3", {}, `${hit.study}, rank ${this.tile + 1} ${this.named(this.order).name}, cosine ${hit.likeness.toFixed(2)}`),
          make("div", { class: "r2g-small" }, ...study.views.map((image, v) => make("img", { src: image, alt: `view ${v + 1} of ${hit.study}` }))),
          make("p", { class: "r2g-found" }, ...KINDS.map((kind) => make("span", { class: `r2g-${kind}` },
            `${this.data.signs[kind]} ${kind}: ${found[kind].join(", ") || "none"}`))),
          this.text(this.marked(study.words, study.marks, inStudy)),
          make("p", { class: "r2g-scores r2g-copy" }, `Copied as the report: finding-F1 ${score(found.f1)}, BLEU-4 ${score(found.bleu4)}`))));
  }

  // --- seats and reports -------------------------------------------------------------------------

  known(seats) { return this.one.written[seats.join(",")]; }
  reachable(seats) { return this.ask !== null || this.known(seats) !== undefined; }

  async seat(seats) {
    this.asked += 1;
    const own = this.asked;
    const one = this.one;
    this.seats = seats;
    this.error = "";
    const number = this.known(seats);
    this.report = number === undefined ? null : one.reports[number];
    this.drawSeats();
    if (this.report) return;
    try {
      const answer = await this.ask({ query: one.id, pool: one.pool,
        given: seats.map((place) => (place < 0 ? null : one.pool[place])) });
      if (answer === null || own !== this.asked) return;
      one.reports.push(answer.report);
      one.written[seats.join(",")] = one.reports.length - 1;
      this.report = answer.report;
    } catch (error) {
      if (own !== this.asked) return;
      this.error = error.message;
    }
    this.drawSeats();
  }

  changed(place, study) {
    const seats = [...this.seats];
    seats[place] = study;
    return seats;
  }

  action(label, seats, attributes = {}) {
    const button = make("button", { type: "button", class: "r2g-action", ...attributes }, label);
    button.disabled = !this.reachable(seats);
    button.addEventListener("click", () => {
      const focus = button.dataset.name;
      this.seat(seats);
      const again = [...this.writing.querySelectorAll("[data-name]")].find((node) => node.dataset.name === focus);
      if (again && !again.disabled) again.focus();
    });
    return button;
  }

  drawSeats() {
    const one = this.one;
    if (!this.seats) return;
    const chosen = this.hit.study;
    const items = this.seats.map((place, s) => {
      const study = place < 0 ? null : one.pool[place];
      const back = one.given[s];
      const item = make("li", { class: study ? "" : "r2g-vacant" }, make("strong", {}, `seat ${s + 1}: `),
        study ? make("span", {}, study, " ", this.counts(study)) : make("em", {}, "nobody"), make("br"));
      item.append(study
        ? this.action("take away", this.changed(s, -1), { "data-name": `out ${s}`, "aria-label": `take ${study} away from seat ${s + 1}` })
        : this.action(`back: ${one.pool[back] ?? "nobody"}`, this.changed(s, back), { "data-name": `out ${s}` }));
      if (study !== chosen) {
        item.append(this.action(`put ${chosen}`, this.changed(s, one.pool.indexOf(chosen)),
          { "data-name": `put ${s}`, "aria-label": `put ${chosen} on seat ${s + 1}` }));
      }
      return item;
    });
    const first = (key) => {
      const places = one.walls[key].slice(0, this.seats.length).map((hit) => one.pool.indexOf(hit.study));
      return [...places, ...Array(this.seats.length - places.length).fill(-1)];
    };
    const presets = [["its own neighbours", one.given], ["empty seats", one.given.map(() => -1)],
      ...this.data.orders.filter(({ key }) => key !== this.data.own).map(({ key, name }) => [`the first ${name}`, first(key)])];
    const row = make("div", { class: "r2g-presets", role: "group", "aria-label": "who sits on the seats" }, "seat ",
      ...presets.map(([name, seats]) => this.action(name, seats,
        { "data-name": name, "aria-pressed": String(seats.join() === this.seats.join()) })));
    const bare = one.reports[this.known(one.given.map(() => -1))];
    const reports = this.report
      ? make("div", { class: "r2g-pair" }, this.written("with the neighbours on the seats", this.report, this.seats, bare),
        this.written("with empty seats", bare, this.seats, this.report))
      : make("p", { class: this.error ? "r2g-error" : "r2g-busy", role: "status" }, this.error || "the model is writing \u2026");
    this.info = make("p", { class: "r2g-about r2g-sentence-info", role: "status", "aria-live": "polite" },
      "Point at a sentence, or tab to it, to see where else it stands.");
    this.writing.classList.toggle("r2g-waits", !this.report && !this.error);
    this.writing.replaceChildren(make("h2", {}, `What ${this.data.system} writes`), row,
      make("ol", { class: "r2g-seats" }, ...items),
      ...(this.ask ? [] : [make("p", { class: "r2g-note r2g-nokernel" },
        "Buttons in grey need the model: this page has no kernel and holds the reports that were written in advance, with "
        + "any of the model's own neighbours taken away, and with the first ones of every order.")]),
      reports,
      ...(this.report ? [this.sums(bare), this.info, make("div", { class: "r2g-legend" },
        make("span", { class: "r2g-key" }, make("span", { class: "r2g-sentence-copied" }, "sentence", make("sup", { class: "r2g-ranks" }, "1,3")),
          " stands word for word in the reports on seats 1 and 3 (on the right, where the model has not read them)"),
        make("span", { class: "r2g-key" }, make("span", { class: "r2g-sentence-new" }, "sentence"), " the other report does not have"))] : []));
    for (const { seat, study } of this.cells) {
      const places = this.seats.flatMap((place, s) => (place >= 0 && one.pool[place] === study ? [s + 1] : []));
      seat.textContent = places.length ? `on seat ${places.join(", ")}` : "";
    }
  }

  // Seats (from 1) whose report holds a sentence.
  held(sentence) {
    return this.seats.flatMap((place, s) => (place >= 0 && sentence.holders.includes(this.one.pool[place]) ? [s + 1] : []));
  }

  wordsOf(report, { first, end }) { return report.words.slice(first, end).join(" "); }

  written(title, report, seats, other) {
    const one = this.one;
    const kindOf = (name) => (one.findings.includes(name) ? "shared" : "extra");
    const spans = this.marked(report.words, report.marks, kindOf);
    for (const span of spans) span.removeAttribute("title");
    const others = other.sentences.map((sentence) => this.wordsOf(other, sentence));
    const node = make("p", { class: "r2g-text" });
    for (const sentence of report.sentences) {
      const held = this.held(sentence);
      const box = make("span", { class: "r2g-sentence-box", tabindex: "0" });
      for (let t = sentence.first; t < sentence.end; t += 1) box.append(...(t > sentence.first ? [" "] : []), spans[t]);
      if (held.length) {
        box.classList.add("r2g-sentence-copied");
        box.append(make("sup", { class: "r2g-ranks" }, held.join(",")));
      }
      if (!others.includes(this.wordsOf(report, sentence))) box.classList.add("r2g-sentence-new");
      const tellIt = () => {
        this.info.replaceChildren(make("strong", {}, this.wordsOf(report, sentence)), " \u2014 ",
          held.length ? `word for word in the report${held.length > 1 ? "s" : ""} on seat${held.length > 1 ? "s" : ""} ${held.join(", ")}; ` : "in no report on a seat; ",
          `in ${plural(sentence.reports, "training report")}`,
          others.includes(this.wordsOf(report, sentence)) ? "; in both reports." : "; in this report only.");
      };
      box.addEventListener("mouseenter", tellIt);
      box.addEventListener("focus", tellIt);
      node.append(box, " ");
    }
    if (!report.words.length) node.append(make("em", {}, "(empty report)"));
    const stated = [...new Set(report.marks.filter((mark) => mark.polarity === "positive").map((mark) => mark.title))];
    const missing = one.findings.filter((name) => !stated.includes(name));
    const right = stated.filter((name) => one.findings.includes(name));
    const wrong = stated.filter((name) => !one.findings.includes(name));
    const parts = [["shared", "true", right], ["missing", "not stated", missing], ["extra", "not true", wrong]];
    return make("div", { class: "r2g-written" }, make("h3", {}, title), node,
      make("p", { class: "r2g-found" }, ...parts.map(([kind, name, titles]) =>
        make("span", { class: `r2g-${kind}` }, `${this.data.signs[kind]} ${name}: ${titles.join(", ") || "none"}`))),
      make("p", { class: "r2g-scores" }, `finding-F1 ${score(report.f1)}, BLEU-4 ${score(report.bleu4)}`));
  }

  counted(bare) {
    const alone = bare.sentences.map((sentence) => this.wordsOf(bare, sentence));
    const copied = this.report.sentences.filter((sentence) => this.held(sentence).length);
    const anyway = copied.filter((sentence) => alone.includes(this.wordsOf(this.report, sentence)));
    return { sentences: this.report.sentences.length, copied: copied.length, anyway: anyway.length };
  }

  sums(bare) {
    const { sentences, copied, anyway } = this.counted(bare);
    return make("p", { class: "r2g-number r2g-sums", role: "status" },
      `${copied} of ${plural(sentences, "sentence")} stand${copied === 1 ? "s" : ""} word for word in a report on a seat`
      + (copied ? `; the model writes ${anyway} of these with empty seats, too. ` : ". ")
      + `With ${plural(this.one.choices, "choice")} of neighbours tried in advance it wrote ${plural(this.one.different, "different report")}.`);
  }

  state() {
    const one = this.one;
    const bare = one.reports[this.known(one.given.map(() => -1))];
    return { query: one.id, order: this.order, shown: this.shown, tile: this.tile, study: this.hit.study,
      seats: this.seats.map((place) => (place < 0 ? null : one.pool[place])), error: this.error,
      report: this.report ? this.report.words.join(" ") : null, counts: this.report ? this.counted(bare) : null };
  }
}

function draw(root, data, ask, tell) {
  const wall = new Wall(root, data, ask, tell);
  return { state: () => wall.state(), query: (i) => wall.openQuery(i), order: (key) => wall.openOrder(key), seat: (seats) => wall.seat(seats) };
}
"""
