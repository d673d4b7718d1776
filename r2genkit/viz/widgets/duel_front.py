"""Front end of the report duel (see ``r2genkit.viz.widgets.duel``).

It stands in a Python module because every other kind of file in this package belongs to the
fingerprint of each result row. Numbers come from Python; what is done here is adding them up over
the judged studies. The formulas of corpus BLEU, of finding-F1 and of Wilson's interval are those of
``bleu_from_counts``, ``f1_from_counts`` and ``wilson``; a test in the browser holds them together.
"""
# ruff: noqa: E501

STYLE = r"""
.r2g-duel .r2g-text .r2g-word { cursor: auto; }
.r2g-duel .r2g-bar-top { display: flex; flex-wrap: wrap; gap: .4rem .8rem; align-items: center; margin: .4rem 0; }
.r2g-duel .r2g-place { font-weight: 600; margin-right: auto; }
.r2g-duel .r2g-stage { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1.2rem; align-items: start; }
.r2g-duel .r2g-stage:focus { outline: none; }
.r2g-duel .r2g-stage { scroll-margin-top: 4rem; }
.r2g-duel .r2g-left { display: flex; flex-direction: column; position: sticky; top: .5rem; }
.r2g-duel .r2g-cards { display: flex; flex-direction: column; gap: .7rem; }
.r2g-duel .r2g-card { display: flex; flex-direction: column; border: 1px solid #b5b5b5; border-radius: 6px; padding: .6rem .7rem; }
.r2g-duel .r2g-card.r2g-voted { border-color: #1f3a5f; box-shadow: 0 0 0 2px #1f3a5f; }
.r2g-duel .r2g-card h3 { display: flex; flex-wrap: wrap; gap: .3rem .5rem; align-items: center; font-size: 1rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.r2g-duel .r2g-badge { flex: none; min-width: 1.7em; text-align: center; border-radius: 4px; background: #444; color: #fff; line-height: 1.7; }
.r2g-duel .r2g-tag { font-size: .8rem; font-weight: 600; border: 1px solid #1f3a5f; border-radius: 4px; padding: 0 .4em; }
.r2g-duel .r2g-tag-danger { border-style: dashed; border-color: #a80000; color: #a80000; }
.r2g-duel .r2g-card .r2g-text { line-height: 1.75; margin: 0 0 .4rem; }
.r2g-duel .r2g-blind .r2g-word { border: 0; padding: 0; }
.r2g-duel .r2g-buttons { display: flex; flex-wrap: wrap; gap: .4rem; }
.r2g-duel .r2g-small { font-size: .875rem; }
.r2g-duel .r2g-main { background: #1f3a5f; border-color: #1f3a5f; color: #fff; }
.r2g-duel .r2g-main:hover:enabled { background: #32568a; }
.r2g-duel .r2g-facts { font-size: .875rem; margin: 0; }
.r2g-duel .r2g-facts b { font-variant-numeric: tabular-nums; }
.r2g-duel .r2g-facts span { white-space: nowrap; margin-right: .9em; }
.r2g-duel .r2g-readout { min-height: 1.5em; font-weight: 600; margin: .5rem 0; }
.r2g-duel .r2g-section { border-top: 1px solid #ddd; margin-top: .8rem; padding-top: .6rem; }
.r2g-duel .r2g-wide { overflow-x: auto; margin-bottom: .5rem; }
.r2g-duel td, .r2g-duel th { vertical-align: top; }
.r2g-duel th { font-weight: 600; }
.r2g-duel .r2g-best { font-weight: 700; }
.r2g-duel .r2g-aside { display: block; font-size: .75rem; font-weight: 400; color: #4a4a4a; }
.r2g-duel td .r2g-aside { white-space: nowrap; }
.r2g-duel .r2g-best .r2g-aside { font-weight: 400; }
.r2g-duel .r2g-lines { width: 100%; }
.r2g-duel .r2g-short { display: none; }
.r2g-duel .r2g-lines td:not(:first-child), .r2g-duel .r2g-lines th:not(:first-child) { text-align: center; }
.r2g-duel .r2g-sign { display: inline-block; min-width: 1.2em; font-weight: 700; }
.r2g-duel .r2g-sign-positive { color: var(--positive); }
.r2g-duel .r2g-sign-negative { color: var(--negative); }
.r2g-duel .r2g-sign-uncertain { color: var(--uncertain); }
.r2g-duel svg.r2g-share-bar { width: 8.5rem; height: 1rem; display: block; margin-left: auto; }
.r2g-duel .r2g-export { display: grid; gap: .4rem; max-width: 44rem; font-size: .875rem; }
.r2g-duel .r2g-export input, .r2g-duel .r2g-export textarea { font: inherit; color: inherit; background: #fff; border: 1px solid #888; border-radius: 4px; padding: .2rem .4rem; max-width: 100%; }
.r2g-duel .r2g-export textarea { font-family: ui-monospace, monospace; font-size: .8rem; width: 100%; }
.r2g-duel a.r2g-action { text-decoration: none; display: inline-block; }
@container r2g (max-width: 50rem) {
  /* One column: images, reports, then what is known about them. */
  .r2g-duel .r2g-stage { display: flex; flex-direction: column; align-items: stretch; gap: .6rem; }
  .r2g-duel .r2g-left { display: contents; }
  .r2g-duel .r2g-views { max-width: 34rem; }
  .r2g-duel .r2g-bar-top { position: sticky; top: 0; z-index: 1; background: #fff; margin: 0; padding: .4rem 0; }
  .r2g-duel .r2g-cards { order: 1; }
  .r2g-duel .r2g-readout, .r2g-duel .r2g-truth { order: 2; margin-top: 0; }
}
@container r2g (max-width: 30rem) {
  .r2g-duel table { font-size: .75rem; }
  .r2g-duel th, .r2g-duel td { padding: .15rem .2rem; }
  /* A name above its numbers: side by side they need more than the width of a phone. */
  .r2g-duel .r2g-votes, .r2g-duel .r2g-scores { display: block; }
  .r2g-duel .r2g-votes :is(thead, tbody), .r2g-duel .r2g-scores :is(thead, tbody) { display: block; }
  .r2g-duel .r2g-votes tr { display: grid; grid-template-columns: 2.3fr repeat(4, minmax(0, 1fr)); }
  .r2g-duel .r2g-feared tr { grid-template-columns: 2.3fr repeat(5, minmax(0, 1fr)); }
  .r2g-duel .r2g-scores tr { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); }
  .r2g-duel .r2g-votes th:first-child, .r2g-duel .r2g-scores th:first-child { grid-column: 1 / -1; border: 0; }
  .r2g-duel .r2g-votes thead th, .r2g-duel .r2g-scores thead th { font-size: .65rem; letter-spacing: -.01em; }
  .r2g-duel .r2g-votes td .r2g-aside { white-space: normal; }
  .r2g-duel td .r2g-aside { font-size: .65rem; }
  .r2g-duel .r2g-bar-top { gap: .3rem; }
  .r2g-duel .r2g-bar-top .r2g-action { padding: .25rem .45rem; }
  .r2g-duel .r2g-place { font-size: .875rem; }
  .r2g-duel svg.r2g-share-bar { width: 3.6rem; }
  .r2g-duel .r2g-long { display: none; }
  .r2g-duel .r2g-short { display: inline; }
}
"""

BODY = r"""
// --- the report duel -----------------------------------------------------------------------------

const SMALL = 1e-9; // pycocoevalcap's guards against division by zero; part of BLEU's numbers
const TINY = 1e-15;

// Corpus BLEU-4 from summed statistics: lengths of report and reference, n-grams, matched n-grams.
function bleu4(sums) {
  let logs = 0;
  for (let n = 0; n < 4; n += 1) logs += Math.log((sums[6 + n] + TINY) / (sums[2 + n] + SMALL));
  const ratio = (sums[0] + TINY) / (sums[1] + SMALL);
  return Math.exp(logs / 4) * (ratio < 1 ? Math.exp(1 - 1 / ratio) : 1);
}

const f1 = ([tp, fp, fn]) => (tp + fp + fn > 0 ? (2 * tp) / (2 * tp + fp + fn) : null);

// Wilson's interval of a share.
function wilson(part, whole, z) {
  const share = part / whole;
  const scale = 1 + (z * z) / whole;
  const middle = (share + (z * z) / (2 * whole)) / scale;
  const half = (z * Math.sqrt((share * (1 - share)) / whole + (z * z) / (4 * whole * whole))) / scale;
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

const plus = (one, other) => one.map((value, i) => value + other[i]);
const total = (values) => values.reduce((sum, value) => sum + value, 0);
const same = (one, other) => Math.abs(one - other) < 1e-9; // thirds do not add up to the last digit
const votes = (value) => (same(value, Math.round(value)) ? value.toFixed(0) : value.toFixed(2));
const number = (value) => (value === null ? "\u2013" : value.toFixed(3));
const listed = (names) => (names.length ? names.join("; ") : "nothing");

class Duel {
  constructor(root, data, tell) {
    this.root = root;
    this.data = data;
    this.tell = tell;
    this.at = 0;
    this.marked = new Set(); // cards of the present study that are called dangerous
    this.judged = new Map(); // study -> { best: card or -1, dangerous: [cards] }, in order of judging
    this.titles = Object.fromEntries(data.sources.map((source) => [source.key, source.title]));
    this.build();
    this.show(0);
  }

  get study() { return this.data.studies[this.at]; }

  get vote() { return this.judged.get(this.at) || null; }

  names(card) { return card.sources.map((key) => this.titles[key]).join(" = "); }

  // --- one study ---

  build() {
    const { root, data } = this;
    this.place = make("span", { class: "r2g-place" });
    const step = (by, text, name) => {
      const button = make("button", { type: "button", class: `r2g-action r2g-small r2g-${name}` }, ...text);
      button.addEventListener("click", () => this.go(this.at + by));
      return button;
    };
    this.before = step(-1, ["\u2190 back"], "back");
    this.after = step(1, ["next", make("span", { class: "r2g-long" }, " study"), " \u2192"], "next");
    this.unsure = make("button", { type: "button", class: "r2g-action r2g-small r2g-unsure" }, "cannot tell (0)");
    this.unsure.addEventListener("click", () => this.choose(-1));
    this.readout = make("p", { class: "r2g-readout", role: "status", "aria-live": "polite" });
    this.truth = make("div", { class: "r2g-truth" });
    this.left = make("div", { class: "r2g-left" });
    this.cards = make("div", { class: "r2g-cards" });
    this.stage = make("div", { class: "r2g-stage", tabindex: "-1" }, this.left, this.cards);
    this.tally = make("div", { class: "r2g-section r2g-tally" });
    root.append(...heading(data),
      make("p", { class: "r2g-note" }, "Which report is the best one for these images? Who wrote it is shown "
        + `after the vote. Keys: 1 to ${data.sources.length} vote, 0 says \u201ccannot tell\u201d, Shift and a number calls a report `
        + "dangerous (it misses or invents something), arrows go from study to study."),
      make("div", { class: "r2g-bar-top" }, this.place, this.unsure, this.before, this.after),
      this.stage, this.tally, this.buildExport(),
      make("p", { class: "r2g-foot" }, "Reports stand in the cleaned form that the metrics see: lower case, full "
        + "stops apart; \u201cxxxx\u201d is a word that the publisher of the reports took out. Words that several "
        + "sources wrote alike stand there once and share the vote. Findings are marked by the kit\u2019s rules."));
    const keys = (event) => {
      if (!this.stage.isConnected) document.removeEventListener("keydown", keys); // drawn anew
      else this.key(event);
    };
    document.addEventListener("keydown", keys);
  }

  key(event) {
    const { target } = event;
    // In a page of its own keys need no click before; in a notebook they belong to what has the focus.
    const own = target === document.body && this.root.parentElement === document.body;
    if (!own && !this.root.contains(target)) return;
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|TEXTAREA)$/.test(target.tagName)) return;
    const digit = /^(?:Digit|Numpad)?(\d)$/.exec(event.code) || /^(\d)$/.exec(event.key);
    if (digit) {
      const card = Number(digit[1]) - 1;
      if (card >= this.study.cards.length) return;
      if (event.shiftKey) this.mark(card);
      else this.choose(card);
    } else if (event.key === "ArrowRight" && !this.after.disabled) this.go(this.at + 1);
    else if (event.key === "ArrowLeft" && !this.before.disabled) this.go(this.at - 1);
    else return;
    event.preventDefault();
  }

  go(index) {
    this.show(index);
    this.stage.focus({ preventScroll: true });
    if (this.stage.getBoundingClientRect().top < 0) this.stage.scrollIntoView({ block: "start" });
  }

  show(index) {
    this.at = index;
    this.marked = new Set();
    const { study } = this;
    this.left.replaceChildren(make("div", { class: "r2g-views" }, ...filmsOf(study.views).map((film) => film.node)),
      this.readout, this.truth);
    this.drawStudy();
  }

  choose(card) {
    if (this.vote) return;
    this.judged.set(this.at, { best: card, dangerous: [...this.marked].sort() });
    this.tell(this.ballot());
    this.drawStudy();
    (this.after.disabled ? this.stage : this.after).focus({ preventScroll: true });
  }

  mark(card) {
    if (this.vote || card < 0) return;
    if (!this.marked.delete(card)) this.marked.add(card);
    this.dangers[card].setAttribute("aria-pressed", String(this.marked.has(card)));
  }

  drawStudy() {
    const { data, study, vote } = this;
    this.place.textContent = `Study ${this.at + 1} of ${data.studies.length}` + (vote ? ` (${study.id})` : "")
      + (data.synthetic ? " \u00b7 synthetic images" : "");
    this.before.disabled = this.at === 0;
    this.after.disabled = !vote || this.at === data.studies.length - 1;
    this.after.classList.toggle("r2g-main", !this.after.disabled);
    this.unsure.disabled = Boolean(vote);
    this.dangers = [];
    this.cards.replaceChildren(...study.cards.map((card, i) => (vote ? this.openCard(card, i) : this.blindCard(card, i))));
    this.readout.textContent = vote ? this.told() : "";
    this.drawTruth();
    this.drawTally();
    this.drawExport();
  }

  blindCard(card, i) {
    const best = make("button", { type: "button", class: "r2g-action r2g-vote" }, `best (${i + 1})`);
    best.addEventListener("click", () => this.choose(i));
    const danger = make("button", { type: "button", class: "r2g-action r2g-small r2g-danger",
      "aria-pressed": String(this.marked.has(i)) }, "dangerous",
      make("span", { class: "r2g-long" }, ": misses or invents something"));
    danger.addEventListener("click", () => this.mark(i));
    this.dangers.push(danger);
    const text = reportText(card.words);
    text.classList.add("r2g-blind");
    return make("article", { class: "r2g-card", "aria-label": `Report ${i + 1}` },
      make("h3", {}, make("span", { class: "r2g-badge" }, String(i + 1)), ` Report ${i + 1}`),
      text, make("div", { class: "r2g-buttons" }, best, danger));
  }

  openCard(card, i) {
    const { vote, data } = this;
    const head = make("h3", {}, make("span", { class: "r2g-badge" }, String(i + 1)), ` ${this.names(card)}`);
    if (vote.best === i) head.append(make("span", { class: "r2g-tag" }, "your vote"));
    if (vote.dangerous.includes(i)) head.append(make("span", { class: "r2g-tag r2g-tag-danger" }, "you: dangerous"));
    const [tp, fp, fn] = card.hits;
    const facts = make("p", { class: "r2g-facts" });
    if (card.sources.includes(data.reference)) {
      facts.append(`Metrics compare with this text. Findings that it states: ${tp + fn}.`);
    } else {
      facts.append(...data.metrics.flatMap((name) => [make("span", {}, `${name} `, make("b", {}, number(card.scores[name]))), " "]),
        make("br"), tp + fn ? `Findings of the reference: states ${tp} of ${tp + fn}` : "The reference states no finding", `; invented: ${fp}.`);
    }
    return make("article", { class: `r2g-card${vote.best === i ? " r2g-voted" : ""}`, "aria-label": `Report ${i + 1}: ${this.names(card)}` },
      head, reportText(card.words, card.findings), facts);
  }

  told() {
    const { study, vote, data } = this;
    const chosen = vote.best < 0 ? "You could not tell." : `Your vote: ${this.names(study.cards[vote.best])}.`;
    const groups = new Map(); // favourites -> metrics
    for (const name of data.metrics) {
      const best = Object.entries(study.favourites[name]).filter(([, share]) => share > 0).map(([key]) => this.titles[key]);
      const all = best.length === data.sources.length - 1 ? "cannot tell the others apart" : `would take ${best.join(" or ")}`;
      groups.set(all, [...(groups.get(all) || []), name]);
    }
    return `${chosen} ${[...groups].map(([what, names]) => `${names.join(", ")}: ${what}`).join("; ")}.`;
  }

  drawTruth() {
    const { study, vote, data } = this;
    this.truth.hidden = !vote;
    if (!vote) {
      this.truth.replaceChildren();
      return;
    }
    const parts = [];
    if (study.shows) parts.push(make("p", {}, make("b", {}, `${data.toldBy}: `), `${listed(study.shows)}.`));
    if (study.lines.length) {
      const known = study.lines.some((line) => line.shown !== null);
      const sign = (polarity) => make("td", {}, polarity
        ? make("span", { class: `r2g-sign r2g-sign-${polarity}`, title: MEANINGS[polarity] }, SIGNS[polarity]) : "");
      parts.push(make("div", { class: "r2g-wide" }, make("table", { class: "r2g-lines" },
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "finding"),
          ...(known ? [make("th", { scope: "col" }, "shown")] : []),
          ...study.cards.map((card, i) => make("th", { scope: "col" }, String(i + 1),
            make("span", { class: "r2g-aside r2g-long" }, this.names(card)))))),
        make("tbody", {}, ...study.lines.map((line) => make("tr", {}, make("th", { scope: "row" }, line.title),
          ...(known ? [make("td", {}, line.shown ? "\u25cf" : "")] : []), ...line.said.map(sign)))))));
    }
    parts.push(make("div", { class: "r2g-legend" }, ...findingsKey()));
    this.truth.replaceChildren(...parts);
  }

  // --- all judged studies ---

  counts() {
    const { data } = this;
    const zero = (length) => Array.from({ length }, () => 0);
    const sums = Object.fromEntries(data.sources.map(({ key }) => [key,
      { votes: 0, dangerous: 0, bleu: zero(10), hits: zero(3), rouge: 0, cider: 0 }]));
    const metrics = Object.fromEntries(data.metrics.map((name) => [name, Object.fromEntries(data.sources.map(({ key }) => [key, 0]))]));
    let unsure = 0;
    for (const [index, vote] of this.judged) {
      const study = data.studies[index];
      if (vote.best < 0) unsure += 1;
      study.cards.forEach((card, i) => card.sources.forEach((key) => {
        const sum = sums[key];
        if (vote.best === i) sum.votes += 1 / card.sources.length;
        if (vote.dangerous.includes(i)) sum.dangerous += 1;
        sum.bleu = plus(sum.bleu, card.bleu);
        sum.hits = plus(sum.hits, card.hits);
        sum.rouge += card.scores["ROUGE-L"];
        sum.cider += card.scores.CIDEr;
      }));
      for (const name of data.metrics) {
        for (const [key, share] of Object.entries(study.favourites[name])) metrics[name][key] += share;
      }
    }
    const n = this.judged.size;
    const scores = n ? Object.fromEntries(Object.entries(sums).map(([key, sum]) => [key, {
      "BLEU-4": bleu4(sum.bleu), "ROUGE-L": sum.rouge / n, CIDEr: sum.cider / n, "finding-F1": f1(sum.hits) }])) : {};
    const intervals = n ? Object.fromEntries([...Object.entries(sums).map(([key, sum]) => [key, sum.votes]), ["", unsure]]
      .map(([key, part]) => [key, wilson(part, n, data.z)])) : {};
    return { n, unsure, sums, metrics, scores, intervals };
  }

  shareBar(part, n, [low, high]) {
    const at = (share) => (2 + 96 * share).toFixed(2);
    return makeSvg("svg", { class: "r2g-share-bar", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
      makeSvg("rect", { x: 2, y: 1, width: 96, height: 10, fill: "#eceff3" }),
      makeSvg("rect", { x: 2, y: 1, width: (96 * part / n).toFixed(2), height: 10, fill: "#7d9cc4" }),
      makeSvg("path", { d: `M${at(low)} 6H${at(high)}M${at(low)} 3V9M${at(high)} 3V9`, stroke: "#1b1b1b", "stroke-width": 1.2, fill: "none" }));
  }

  drawTally() {
    const { data } = this;
    const { n, unsure, sums, metrics, scores, intervals } = this.counts();
    this.tally.hidden = !n;
    if (!n) {
      this.tally.replaceChildren();
      return;
    }
    const others = data.sources.filter(({ key }) => key !== data.reference).map(({ key }) => key);
    const top = (values) => Math.max(...others.map((key) => (values[key] === null ? -1 : values[key])));
    const feared = total(Object.values(sums).map((sum) => sum.dangerous)) > 0;
    const title = ({ key, title: text }) => make("th", { scope: "row" }, text,
      ...(key === data.reference && !/reference/i.test(text) ? [make("span", { class: "r2g-aside" }, "reference")] : []));
    const own = (part, interval) => make("td", {}, make("b", {}, votes(part)),
      make("span", { class: "r2g-aside" }, `${percent(part / n)} [${percent(interval[0])}, ${percent(interval[1])}]`), this.shareBar(part, n, interval));
    const reference = sums[data.reference].votes;
    const range = intervals[data.reference].map(percent).join(" to ");
    const head = (...names) => make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, ...[name].flat()))));
    const judge = (name) => [name, make("span", { class: "r2g-long" }, "\u2019s votes")];
    const first = make("table", { class: `r2g-votes${feared ? " r2g-feared" : ""}` },
      head("report of", "your votes", ...data.metrics.map(judge), ...(feared ? [[make("span", { class: "r2g-long" }, "called dangerous"), make("span", { class: "r2g-short" }, "danger")]] : [])),
      make("tbody", {}, ...data.sources.map((source) => make("tr", { "data-source": source.key }, title(source),
        own(sums[source.key].votes, intervals[source.key]),
        ...data.metrics.map((name) => (source.key === data.reference ? make("td", {}, "\u2013")
          : make("td", same(metrics[name][source.key], top(metrics[name])) ? { class: "r2g-best" } : {},
            votes(metrics[name][source.key])))),
        ...(feared ? [make("td", {}, String(sums[source.key].dangerous))] : []))),
      make("tr", {}, make("th", { scope: "row" }, "cannot tell"), own(unsure, intervals[""]),
        ...data.metrics.map(() => make("td", {}, "\u2013")), ...(feared ? [make("td", {}, "\u2013")] : []))));
    const column = (name) => Object.fromEntries(Object.entries(scores).map(([key, values]) => [key, values[name]]));
    const second = make("table", { class: "r2g-scores" },
      head("report of", ...data.metrics, [make("span", { class: "r2g-long" }, "findings "), "stated"], "invented"),
      make("tbody", {}, ...data.sources.map((source) => {
        const [tp, fp, fn] = sums[source.key].hits;
        return make("tr", { "data-source": source.key }, title(source), ...data.metrics.map((name) => {
          const value = scores[source.key][name];
          const best = source.key !== data.reference && value !== null && same(value, top(column(name)));
          return make("td", best ? { class: "r2g-best" } : {}, number(value),
            ...(data.whole ? [make("span", { class: "r2g-aside" }, number(source.whole[name]))] : []));
        }), make("td", {}, `${tp} of ${tp + fn}`), make("td", {}, String(fp)));
      })));
    this.tally.replaceChildren(
      make("h2", {}, `Preferred, over ${n === data.studies.length ? "all " : ""}${n} judged ${n === 1 ? "study" : "studies"}`),
      make("p", {}, `You called the reference best in ${votes(reference)} of ${n} (95\u202f% interval ${range}). `
        + "A metric votes for the report that it scores highest, ties (of three decimals) shared; the reference, with which it compares, it cannot judge."),
      make("div", { class: "r2g-wide" }, first),
      make("h2", {}, "Corpus scores over the same studies"),
      make("p", { class: "r2g-note" }, "BLEU-4 and finding-F1 from summed counts, ROUGE-L and CIDEr as means (CIDEr with the word rarities of the whole test set)."
        + (data.whole ? ` Below each in small: the whole test set, ${data.whole} studies.` : "") + " Bold: the highest besides the reference."),
      make("div", { class: "r2g-wide" }, second));
  }

  // --- ballots ---

  ballot() {
    const { data } = this;
    const sources = (card, study) => study.cards[card].sources;
    return {
      format: data.format, deck: data.deck, title: data.title.slice(0, 1000), reader: this.reader.value.trim().slice(0, 100),
      sources: data.sources.map(({ key, title }) => ({ key, title: title.slice(0, 300) })), reference: data.reference,
      votes: [...this.judged].map(([index, vote]) => {
        const study = data.studies[index];
        return { study: study.id, best: vote.best < 0 ? [] : sources(vote.best, study),
          dangerous: vote.dangerous.flatMap((card) => sources(card, study)) };
      }),
    };
  }

  buildExport() {
    this.reader = make("input", { type: "text", maxlength: 100, size: 16, class: "r2g-reader", autocomplete: "off" });
    this.reader.addEventListener("input", () => {
      this.drawExport();
      if (this.judged.size) this.tell(this.ballot());
    });
    this.text = make("textarea", { readonly: true, rows: 3, class: "r2g-ballot", "aria-label": "your votes as text", spellcheck: "false" });
    this.text.addEventListener("focus", () => this.text.select());
    const copy = make("button", { type: "button", class: "r2g-action r2g-copy" }, "copy");
    copy.addEventListener("click", () => {
      this.text.select();
      copy.textContent = document.execCommand("copy") ? "copied" : "press Ctrl+C";
    });
    this.copy = copy;
    this.save = make("a", { class: "r2g-action r2g-save" }, "download votes");
    this.export = make("details", { class: "r2g-section" }, make("summary", {}, "Hand in your votes"),
      make("div", { class: "r2g-export" },
        make("label", {}, "your code (not your name): ", this.reader),
        this.text,
        make("div", { class: "r2g-buttons" }, this.save, copy),
        make("span", {}, "Votes stay in this page until you hand them in; closing it forgets them. "
          + "Several files make one table: r2genkit duel-votes FILE ...")));
    return this.export;
  }

  drawExport() {
    this.export.hidden = !this.judged.size;
    const text = JSON.stringify(this.ballot());
    this.text.value = text;
    this.copy.textContent = "copy";
    const name = this.reader.value.replace(/[^\w-]+/g, "_").slice(0, 40) || "votes";
    this.save.setAttribute("href", `data:application/json;charset=utf-8,${encodeURIComponent(text)}`);
    this.save.setAttribute("download", `duel-${this.data.deck.slice(0, 6)}-${name}.json`);
  }

  state() {
    const { n, unsure, sums, metrics, scores, intervals } = this.counts();
    return { at: this.at, cards: this.study.cards.length, revealed: Boolean(this.vote), n, unsure, sums, metrics,
      scores, intervals, ballot: this.ballot() };
  }
}

function draw(root, data, ask, tell) {
  const duel = new Duel(root, data, tell);
  return { state: () => duel.state() };
}
"""
