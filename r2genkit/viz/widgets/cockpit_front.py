"""Script and style of the cockpit; see ``front.py`` for why they stand in a module."""
# ruff: noqa: E501

STYLE = r"""
.r2g-cockpit { --up: #0b63a0; --down: #b34700; --still: #5a5a5a; }
.r2g-cockpit .r2g-key { white-space: normal; }
.r2g-cockpit h3 { font-size: .95rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.r2g-cockpit .r2g-panel { border: 1px solid #ccc; border-radius: 6px; padding: .6rem .8rem; margin: .5rem 0; min-width: 0; }
.r2g-cockpit fieldset { border: 1px solid #ccc; border-radius: 6px; padding: .2rem .7rem .45rem; margin: 0; min-width: 0; display: flex; flex-wrap: wrap; gap: .3rem 1rem; align-items: center; font-size: .875rem; }
.r2g-cockpit legend { font-size: .8125rem; color: #4a4a4a; padding: 0 .3rem; }
.r2g-cockpit .r2g-settings { display: flex; flex-wrap: wrap; gap: .5rem; margin: .5rem 0; }
.r2g-cockpit label { display: inline-flex; flex-wrap: wrap; gap: .2rem .4rem; align-items: center; }
.r2g-cockpit input[type="range"] { width: 7rem; }
.r2g-cockpit input[type="number"] { width: 5rem; font: inherit; }
.r2g-cockpit select { font: inherit; max-width: 100%; }
.r2g-cockpit output { font-variant-numeric: tabular-nums; min-width: 2.2em; display: inline-block; }
.r2g-cockpit .r2g-action { padding: .15rem .6rem; font-size: .8125rem; }
.r2g-cockpit .r2g-study { display: grid; grid-template-columns: minmax(0, 18rem) minmax(0, 1fr); gap: 1rem; align-items: start; }
.r2g-cockpit .r2g-text .r2g-word { cursor: auto; }
.r2g-cockpit .r2g-both { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: .8rem; align-items: start; }
.r2g-cockpit .r2g-side { min-width: 0; }
.r2g-cockpit .r2g-side > .r2g-about { min-height: 2.6em; }
.r2g-card { border: 1px solid #ccc; border-left: 5px solid var(--still); border-radius: 5px; padding: .3rem .55rem; margin: 0 0 .4rem; background: #fff; }
.r2g-card.r2g-up { border-left-color: var(--up); }
.r2g-card.r2g-down { border-left-color: var(--down); border-left-style: double; }
.r2g-card header { display: flex; flex-wrap: wrap; gap: .1rem .7rem; align-items: baseline; font-variant-numeric: tabular-nums; }
.r2g-card .r2g-push { font-weight: 700; white-space: nowrap; }
.r2g-up .r2g-push { color: var(--up); }
.r2g-down .r2g-push { color: var(--down); }
.r2g-card .r2g-earned { font-size: .8125rem; color: #4a4a4a; }
.r2g-card .r2g-scale { flex: 1 1 6rem; min-width: 5rem; height: .7rem; display: block; }
.r2g-cockpit .r2g-drawn-text { margin: .2rem 0 0; line-height: 1.65; font-size: .9375rem; overflow-wrap: anywhere; }
.r2g-tinted { border-radius: 3px; padding: 1px 2px; }
.r2g-tinted.r2g-rare { text-decoration: underline dotted 2px #5c3a86; text-underline-offset: 3px; }
.r2g-tinted[data-now="true"] { box-shadow: 0 0 0 2px #1f3a5f; }
.r2g-end { color: #4a4a4a; font-size: .75rem; }
.r2g-cockpit .r2g-word-readout { min-height: 3.3em; position: sticky; top: 0; background: #fff; z-index: 1; font-size: .875rem; padding: .15rem 0; border-bottom: 1px solid #ddd; }
.r2g-cockpit .r2g-tablebox { overflow-x: auto; }
.r2g-cockpit .r2g-tablebox table { min-width: 18rem; }
.r2g-cockpit td .r2g-bar-cell { display: inline-block; height: .7rem; background: #9db8d3; vertical-align: middle; margin-right: .4rem; }
.r2g-charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .6rem; }
.r2g-charts figure { margin: 0; min-width: 0; }
.r2g-charts figcaption { font-size: .8125rem; color: #4a4a4a; font-variant-numeric: tabular-nums; }
.r2g-charts svg { display: block; width: 100%; height: auto; border: 1px solid #ddd; background: #fff; }
.r2g-cockpit input[type="range"].r2g-cursor { width: 100%; }
.r2g-cockpit td:not(:first-child) { white-space: nowrap; }
.r2g-drawn-text sup { font-weight: 700; font-size: .7em; line-height: 1; }
.r2g-scale-key { display: inline-flex; gap: .15rem; align-items: center; }
.r2g-cockpit .r2g-views figure { max-width: 13rem; }
@container r2g (max-width: 38rem) {
  .r2g-cockpit .r2g-both, .r2g-cockpit .r2g-study { grid-template-columns: minmax(0, 1fr); }
  .r2g-cockpit .r2g-side > .r2g-about { min-height: 0; }
  .r2g-cockpit fieldset { width: 100%; }
}
"""

BODY = r"""
// --- sums, as r2genkit.viz.widgets.cockpit does them ---------------------------------------------

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const mixed = (rewards, weights) => rewards.reduce((sum, value, i) => sum + value * weights[i], 0);

function baselineOf(reward, kind, greedy) {
  if (kind === "none") return reward.map(() => 0);
  if (kind === "greedy") return reward.map(() => greedy);
  const sum = reward.reduce((total, value) => total + value, 0);
  return reward.map((value) => (sum - value) / (reward.length - 1));
}

// Deviation of the gradient that `group` samples estimate, from inner products of the samples' gradients.
function spread(reward, gram, group, kind, greedy) {
  const count = reward.length;
  const product = (a, b) => a.reduce((sum, x, i) => sum + x * mean(b.map((y, j) => y * gram[i][j])) * count, 0);
  if (kind !== "leave_one_out") {
    const base = baselineOf(reward, kind, greedy);
    const weight = reward.map((value, i) => value - base[i]);
    const square = mean(weight.map((value, i) => value * value * gram[i][i]));
    return Math.sqrt(Math.max(0, square - product(weight, weight) / count ** 2) / group);
  }
  const middle = mean(reward);
  const off = reward.map((value) => value - middle);
  const covariance = product(off, off) / count ** 2;
  const rows = gram.map((row) => mean(row));
  const whole = mean(rows);
  const centred = gram.map((row, i) => row[i] - 2 * rows[i] + whole); // squared length of s_i minus its mean
  const first = 0.25 * (mean(off.map((value, i) => value * value * centred[i])) - covariance);
  const both = 0.25 * mean(reward.map((r, i) => mean(reward.map((q, j) =>
    (r - q) ** 2 * (gram[i][i] + gram[j][j] - 2 * gram[i][j]))))) - covariance;
  return Math.sqrt(Math.max(0, (2 * (group - 2) * first + both) / ((group * (group - 1)) / 2)));
}

const deviation = (values) => {
  const middle = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
};
const signed = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(2)}`;

// --- one model's draws ---------------------------------------------------------------------------

class Side {
  constructor(cockpit, nth) {
    this.cockpit = cockpit;
    this.nth = nth;
    this.system = Math.min(nth, cockpit.data.systems.length - 1);
    this.select = make("select", { class: "r2g-system", "aria-label": `model ${nth + 1}` },
      ...cockpit.data.systems.map((system, i) => make("option", { value: i }, system.name)));
    this.select.value = String(this.system);
    this.select.addEventListener("change", () => {
      this.system = Number(this.select.value);
      this.open();
      cockpit.update();
      cockpit.tellAll();
    });
    this.about = make("p", { class: "r2g-about" });
    this.readout = make("p", { class: "r2g-word-readout", role: "status", "aria-live": "polite" });
    this.list = make("div", { class: "r2g-cards" });
    this.node = make("section", { class: "r2g-side r2g-panel", "aria-label": `draws of model ${nth + 1}` },
      make("h2", {}, this.select), this.about, this.readout, this.list);
  }

  get draw() {
    const { data, study, redrawn } = this.cockpit;
    const key = data.systems[this.system].key;
    return redrawn[`${study}/${key}`] || data.studies[study].draws[key];
  }

  open() {
    const { draw } = this;
    const system = this.cockpit.data.systems[this.system];
    this.about.textContent = `${system.about} Drawn at temperature ${draw.temperature}, seed ${draw.seed}.`
      + (draw.temperature === 1 ? "" : " Training draws at temperature 1: the gradient of these draws is not the one it follows.");
    this.readout.textContent = "Point at a word, or tab to a text and use the arrow keys.";
    this.greedy = this.card("greedy report", draw.greedy);
    this.cards = draw.samples.map((report, i) => this.card(`sample ${i + 1}`, report));
  }

  card(name, report) {
    const push = make("span", { class: "r2g-push" });
    const earned = make("div", { class: "r2g-earned" });
    const bar = makeSvg("rect", { y: 1, height: 8 });
    const scale = makeSvg("svg", { class: "r2g-scale", viewBox: "-50 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      makeSvg("line", { x1: 0, x2: 0, y1: 0, y2: 10, stroke: "#777", "stroke-width": 0.6 }), bar);
    const text = this.text(report);
    const node = make("article", { class: "r2g-card" },
      make("header", {}, make("strong", {}, name), push, scale), earned, text);
    return { node, push, earned, bar, scale, report };
  }

  text(report) {
    const { rare, faint } = this.cockpit.data;
    const tinted = (span, t) => {
      span.style.background = `rgba(130, 80, 180, ${(0.55 * Math.min(1, -report.logs[t] / faint)).toFixed(3)})`;
      if (Math.exp(report.logs[t]) < rare) span.classList.add("r2g-rare");
      return span;
    };
    const spans = report.words.map((word, t) => tinted(make("span", { class: "r2g-tinted", "data-t": t }, word), t));
    const stated = new Set(this.cockpit.stated());
    for (const mark of report.marks) {
      if (mark.polarity !== "positive") continue;
      const right = stated.has(mark.title);
      spans[mark.end - 1].append(make("sup", { title: `${mark.title}: ${right ? "stated by the reference" : "not stated by the reference"}` }, right ? "\u2713" : "\u2715"));
    }
    const ended = report.logs.length > report.words.length;
    const end = make("span", { class: "r2g-end r2g-tinted", "data-t": report.words.length }, ended ? "(end)" : "(cut)");
    if (ended) spans.push(tinted(end, report.words.length));
    const node = make("p", { class: "r2g-drawn-text", tabindex: "0", role: "group",
      "aria-label": `${report.words.join(" ") || "empty report"}. Arrow keys read the probability of each word.` });
    spans.forEach((span) => node.append(span, " "));
    if (!ended) node.append(end);
    let now = -1;
    const show = (t) => {
      if (!(t >= 0 && t < report.logs.length)) return;
      if (now >= 0) spans[now].removeAttribute("data-now");
      now = t;
      spans[t].setAttribute("data-now", "true");
      const log = report.logs[t];
      const chance = 100 * Math.exp(log);
      this.readout.replaceChildren(make("strong", {}, t < report.words.length ? `${t + 1}. ${report.words[t]}` : "end mark"),
        ` \u2014 probability ${chance >= 1 ? chance.toFixed(0) : chance.toPrecision(1)}\u202f%, log ${log.toFixed(2)}; `
        + `whole report ${report.logs.reduce((sum, value) => sum + value, 0).toFixed(1)}`);
    };
    node.addEventListener("mouseover", (event) => {
      const span = event.target.closest("[data-t]");
      if (span) show(Number(span.dataset.t));
    });
    node.addEventListener("keydown", (event) => {
      const last = report.logs.length - 1;
      const moves = { ArrowRight: Math.min(last, now + 1), ArrowLeft: Math.max(0, now - 1), Home: 0, End: last };
      if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      show(moves[event.key]);
    });
    return node;
  }

  numbers() {
    const { weights, baseline, group, data } = this.cockpit;
    const { draw } = this;
    const reward = draw.samples.map((report) => mixed(report.rewards, weights));
    const greedy = mixed(draw.greedy.rewards, weights);
    const base = baselineOf(reward, baseline, greedy);
    const advantage = reward.map((value, i) => value - base[i]);
    const spreads = Object.fromEntries(data.baselines.map(({ key }) => [key, spread(reward, draw.gram, group, key, greedy)]));
    return { reward, greedy, baseline: base, advantage, spreads };
  }

  update(limit) {
    const { data, sorted } = this.cockpit;
    const found = this.found;
    const parts = (report) => report.rewards.map((value, i) => `${data.parts[i].name} ${value.toFixed(2)}`).join(", ")
      + ` (findings \u2713${report.counts[0]} \u2715${report.counts[1]} \u25cb${report.counts[2]})`;
    this.greedy.push.textContent = this.cockpit.baseline === "greedy" ? "is the baseline" : "";
    this.greedy.scale.style.visibility = "hidden";
    this.greedy.earned.textContent = `reward ${found.greedy.toFixed(2)}: ${parts(this.greedy.report)}`;
    this.cards.forEach((card, i) => {
      const value = found.advantage[i];
      const way = Math.abs(value) < 5e-4 ? "still" : value > 0 ? "up" : "down";
      card.node.classList.toggle("r2g-up", way === "up");
      card.node.classList.toggle("r2g-down", way === "down");
      card.push.textContent = `${data.signs[way]} ${signed(value)} ${{ up: "pushed up", down: "pushed down", still: "left alone" }[way]}`;
      card.earned.textContent = `reward ${found.reward[i].toFixed(2)} \u2212 baseline ${found.baseline[i].toFixed(2)}: ${parts(card.report)}`;
      const size = limit > 0 ? (46 * Math.abs(value)) / limit : 0;
      card.bar.setAttribute("x", value < 0 ? -size : 0);
      card.bar.setAttribute("width", size);
      card.bar.setAttribute("fill", way === "up" ? "#0b63a0" : "#b34700");
    });
    const order = this.cards.map((_, i) => i);
    if (sorted) order.sort((a, b) => found.advantage[b] - found.advantage[a] || a - b);
    const nodes = [this.greedy.node, ...order.map((i) => this.cards[i].node)];
    if (nodes.length !== this.list.children.length || nodes.some((node, i) => node !== this.list.children[i])) {
      this.list.replaceChildren(...nodes);
    }
  }
}

// --- the training --------------------------------------------------------------------------------

const CHARTS = [["reward", ["reward", "baseline"]], ["spread of advantages", ["advantage SD"]],
  ["different reports of a minibatch", ["distinct"]], ["entropy of the next word, nats", ["entropy"]],
  ["finding-F1 of the samples", ["finding-F1"]], ["words of a sample", ["length"]]];
const WIDE = 300;
const TALL = 120;

class Timeline {
  constructor(data) {
    this.logged = data.systems.filter((system) => system.timeline.step);
    this.node = make("section", { class: "r2g-panel r2g-timeline", "aria-label": "training by reward" },
      make("h2", {}, "What training looked like"));
    this.index = 0;
    if (!this.logged.length) {
      this.node.append(make("p", {}, "None of these models has a log of training by reward."));
      return;
    }
    this.select = make("select", {}, ...this.logged.map((system, i) => make("option", { value: i }, system.name)));
    this.select.addEventListener("change", () => this.open(Number(this.select.value)));
    this.cursor = make("input", { type: "range", class: "r2g-cursor", min: 0, step: 1, "aria-label": "cursor over the training" });
    this.cursor.addEventListener("input", () => this.move(Number(this.cursor.value)));
    this.told = make("p", { class: "r2g-told", role: "status", "aria-live": "polite" });
    this.charts = make("div", { class: "r2g-charts" });
    this.node.append(make("p", { class: "r2g-controls" }, make("label", {}, "training of ", this.select)), this.told,
      this.cursor, this.charts, make("p", { class: "r2g-about" },
        "Faint: as logged, one minibatch of a few studies each; strong: running mean over a tenth of the log; dashed: "
        + "the baseline, which with \u201cleave one out\u201d has the same mean as the reward by construction."));
    this.open(0);
  }

  open(number) {
    this.system = this.logged[number];
    const { timeline } = this.system;
    const steps = timeline.step.raw;
    this.cursor.max = steps.length - 1;
    const x = (i) => 6 + ((WIDE - 12) * i) / Math.max(1, steps.length - 1);
    this.lines = [];
    const charts = CHARTS.map(([title, names]) => [title, names.filter((name) => timeline[name])]).filter(([, names]) => names.length);
    this.charts.replaceChildren(...charts.map(([title, names]) => {
      const every = names.flatMap((name) => timeline[name].raw);
      const low = Math.min(...every);
      const high = Math.max(...every);
      const y = (value) => TALL - 8 - ((TALL - 16) * (value - low)) / (high - low || 1);
      const path = (values) => values.map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`).join("");
      const line = makeSvg("line", { y1: 0, y2: TALL, stroke: "#b34700", "stroke-width": 1.5 });
      const svg = makeSvg("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, role: "img", "aria-label": `${title}, from ${low.toFixed(2)} to ${high.toFixed(2)}` },
        makeSvg("path", { d: path(timeline[names[0]].raw), fill: "none", stroke: "#a9bfd6", "stroke-width": 1 }),
        ...names.map((name, i) => makeSvg("path", { d: path(timeline[name].smooth), fill: "none", stroke: i ? "#1b1b1b" : "#0b63a0",
          "stroke-width": i ? 1.2 : 2.2, ...(i ? { "stroke-dasharray": "5 4" } : {}) })), line);
      svg.addEventListener("mousemove", (event) => {
        const box = svg.getBoundingClientRect();
        const share = ((event.clientX - box.left) / box.width) * WIDE;
        this.move(Math.max(0, Math.min(steps.length - 1, Math.round(((share - 6) / (WIDE - 12)) * (steps.length - 1)))));
      });
      const caption = make("figcaption", {});
      this.lines.push({ line, caption, title, names, x, low, high });
      return make("figure", {}, svg, caption);
    }));
    this.move(steps.length - 1);
  }

  move(index) {
    this.index = index;
    this.cursor.value = String(index);
    const { timeline } = this.system;
    this.told.textContent = `After ${timeline.step.raw[index]} minibatches:`;
    for (const { line, caption, title, names, x, low, high } of this.lines) {
      line.setAttribute("x1", x(index));
      line.setAttribute("x2", x(index));
      caption.textContent = `${title} (${low.toFixed(2)} to ${high.toFixed(2)}): `
        + names.map((name) => `${names.length > 1 ? `${name} ` : ""}${timeline[name].smooth[index].toFixed(3)}`).join(", ");
    }
  }

  state() {
    return this.logged.length ? { system: this.system.name, index: this.index, step: this.system.timeline.step.raw[this.index],
      captions: this.lines.map(({ caption }) => caption.textContent) } : null;
  }
}

// --- the whole -----------------------------------------------------------------------------------

class Cockpit {
  constructor(root, data, ask, tell) {
    Object.assign(this, { root, data, ask, tell });
    this.study = 0;
    this.weights = [1, 0, 0];
    this.baseline = "leave_one_out";
    this.group = data.group;
    this.sorted = false;
    this.redrawn = {};
    this.error = "";
    this.sides = data.systems.length > 1 ? [new Side(this, 0), new Side(this, 1)] : [new Side(this, 0)];
    this.timeline = new Timeline(data);
    this.build();
    // The first study whose samples do not all earn the same: elsewhere there is nothing to push.
    const differs = (draw) => new Set(draw.samples.map((report) => mixed(report.rewards, this.weights).toFixed(3))).size > 1;
    this.openStudy(Math.max(0, data.studies.findIndex((study) => Object.values(study.draws).some(differs))));
  }

  build() {
    const { data } = this;
    this.select = make("select", { class: "r2g-studies" }, ...data.studies.map((study, i) =>
      make("option", { value: i }, `${study.id} (${study.stratum})`)));
    this.select.addEventListener("change", () => this.openStudy(Number(this.select.value)));
    this.sliders = data.parts.map((part, i) => {
      const told = make("output", {});
      const slider = make("input", { type: "range", class: "r2g-weight", min: 0, max: 2, step: 0.1, "aria-label": `weight of ${part.name}` });
      slider.addEventListener("input", () => this.mix(this.weights.map((value, j) => (j === i ? Number(slider.value) : value))));
      return { slider, told, node: make("label", {}, part.name, slider, told) };
    });
    const paid = [...new Map(data.systems.filter((system) => system.weights.some((value) => value > 0))
      .map((system) => [system.weights.join(), system])).values()];
    this.presets = paid.map((system) => {
      const button = make("button", { type: "button", class: "r2g-action", "aria-pressed": "false" }, `as ${system.name} was paid`);
      button.addEventListener("click", () => this.mix([...system.weights]));
      return { button, weights: system.weights };
    });
    this.baselines = data.baselines.map(({ key, name }) => {
      const button = make("button", { type: "button", class: "r2g-action", "aria-pressed": "false", "data-baseline": key }, name);
      button.addEventListener("click", () => {
        this.baseline = key;
        this.update();
        this.tellAll();
      });
      return { button, key };
    });
    this.groupText = make("output", {});
    this.groupSlider = make("input", { type: "range", class: "r2g-group", min: 2, max: 16, step: 1, value: this.group });
    this.groupSlider.addEventListener("input", () => {
      this.group = Number(this.groupSlider.value);
      this.update();
    });
    const sort = make("input", { type: "checkbox", class: "r2g-sort" });
    sort.addEventListener("change", () => {
      this.sorted = sort.checked;
      this.update();
    });

    const first = data.studies[0].draws[data.systems[0].key];
    this.temperature = make("input", { type: "range", class: "r2g-temperature", min: 0.3, max: 2, step: 0.1, value: first.temperature });
    const temperatureText = make("output", {}, String(first.temperature));
    this.temperature.addEventListener("input", () => { temperatureText.textContent = this.temperature.value; });
    this.seed = make("input", { type: "number", class: "r2g-seed", min: 0, step: 1, value: first.seed });
    this.samples = make("input", { type: "number", class: "r2g-samples", min: 2, max: 24, step: 1, value: first.samples.length });
    this.again = make("button", { type: "button", class: "r2g-action r2g-again" }, "draw again");
    this.again.addEventListener("click", () => this.redraw());
    const inputs = [this.temperature, this.seed, this.samples, this.again];
    for (const input of inputs) input.disabled = this.ask === null;
    this.drawing = make("fieldset", {}, make("legend", {}, "draw again, both models"),
      make("label", {}, "temperature", this.temperature, temperatureText), make("label", {}, "seed", this.seed),
      make("label", {}, "samples", this.samples), this.again,
      ...(this.ask ? [] : [make("span", { class: "r2g-note r2g-nokernel" }, "needs the models: this page has no kernel and holds the draws made in advance.")]));
    this.told = make("p", { class: "r2g-error", role: "alert", hidden: true });
    this.left = make("div", { class: "r2g-views" });
    this.reference = make("div", {});
    this.table = make("div", { class: "r2g-tablebox" });
    this.nothing = make("p", { class: "r2g-number r2g-nothing", role: "status" });
    const steps = [0, 0.25, 0.5, 0.75, 1].map((share) => {
      const block = make("span", { class: "r2g-tinted" }, "\u00a0\u00a0");
      block.style.background = `rgba(130, 80, 180, ${0.55 * share})`;
      return block;
    });
    const { signs } = data;
    this.root.append(...heading(data),
      make("div", { class: "r2g-controls" }, make("label", {}, "study ", this.select)),
      make("div", { class: "r2g-study" }, this.left, this.reference),
      make("div", { class: "r2g-settings" },
        make("fieldset", {}, make("legend", {}, "reward, a mix of"), ...this.sliders.map(({ node }) => node), ...this.presets.map(({ button }) => button)),
        make("fieldset", {}, make("legend", {}, "baseline"), ...this.baselines.map(({ button }) => button)),
        make("fieldset", {}, make("legend", {}, "gradient"), make("label", {}, "samples per study", this.groupSlider, this.groupText)),
        make("fieldset", {}, make("legend", {}, "order"), make("label", {}, sort, "by advantage")), this.drawing),
      this.told,
      make("div", { class: "r2g-legend" },
        make("span", { class: "r2g-key" }, `${signs.up} pushed up: reward above the baseline, the report becomes more probable`),
        make("span", { class: "r2g-key" }, `${signs.down} pushed down`),
        make("span", { class: "r2g-key" }, make("span", { class: "r2g-scale-key" }, "word certain ", ...steps, ` log-probability \u2212${data.faint} or less`)),
        make("span", { class: "r2g-key" }, make("span", { class: "r2g-tinted r2g-rare" }, "word"), ` less than ${Math.round(100 * data.rare)}\u202f%`),
        make("span", { class: "r2g-key" }, "findings: \u2713 as in the reference, \u2715 not there, \u25cb left out")),
      this.nothing, make("div", { class: "r2g-both" }, ...this.sides.map((side) => side.node)),
      make("section", { class: "r2g-panel", "aria-label": "numbers of both models" }, make("h2", {}, "Reward, spread and diversity"), this.table),
      this.timeline.node,
      make("p", { class: "r2g-foot" },
        "Advantage = reward minus baseline; training follows advantage \u00d7 gradient of the report's log-probability, for every word of "
        + "the report alike. Spread: standard deviation of that gradient over all weights, if the samples shown were all that the "
        + "model can write and groups of them were drawn; it is in units of the gradient, so compare baselines, not models. A draw "
        + "says what this model would be pushed to; it trains nothing."));
  }

  // Findings that the reference of the study states.
  stated() {
    return this.data.studies[this.study].marks.filter((mark) => mark.polarity === "positive").map((mark) => mark.title);
  }

  openStudy(number) {
    this.study = number;
    this.select.value = String(number);
    const study = this.data.studies[number];
    this.left.replaceChildren(...filmsOf(study.views).map(({ node }) => node));
    this.reference.replaceChildren(make("h3", {}, `Reference of ${study.id}`), reportText(study.words, study.marks));
    this.sides.forEach((side) => side.open());
    this.update();
    this.tellAll();
  }

  mix(weights) {
    this.weights = weights;
    this.update();
    this.tellAll();
  }

  tellAll() {
    const { data } = this;
    this.tell({ study: data.studies[this.study].id, systems: this.sides.map((side) => data.systems[side.system].key),
      weights: Object.fromEntries(data.parts.map(({ key }, i) => [key, this.weights[i]])), baseline: this.baseline });
  }

  update() {
    this.sliders.forEach(({ slider, told }, i) => {
      slider.value = String(this.weights[i]);
      told.textContent = this.weights[i].toFixed(1);
    });
    for (const { button, weights } of this.presets) button.setAttribute("aria-pressed", String(weights.join() === this.weights.join()));
    for (const { button, key } of this.baselines) button.setAttribute("aria-pressed", String(key === this.baseline));
    this.groupSlider.value = String(this.group);
    this.groupText.textContent = String(this.group);
    for (const side of this.sides) side.found = side.numbers();
    const limit = Math.max(...this.sides.flatMap((side) => side.found.advantage.map(Math.abs)));
    this.sides.forEach((side) => side.update(limit));
    this.nothing.hidden = limit >= 5e-4;
    this.nothing.textContent = `All samples earn what the baseline earns: this mix pushes nothing here (the reference has ${
      this.data.studies[this.study].words.length} words; CIDEr-D is 0 where a report's length is far from that).`;
    this.drawTable();
  }

  drawTable() {
    const { data, sides } = this;
    const rows = [["mean reward of the samples", (side) => mean(side.found.reward)], ["reward of the greedy report", (side) => side.found.greedy],
      ["standard deviation of advantages", (side) => deviation(side.found.advantage)],
      ...data.baselines.map(({ key, name }) => [`spread of the gradient, baseline ${name}`, (side) => side.found.spreads[key], key])];
    const names = Object.keys(sides[0].draw.diversity).filter((name) => sides.every((side) => name in side.draw.diversity));
    rows.push(...names.map((name) => [name, (side) => side.draw.diversity[name]]));
    const cell = (value, top) => {
      const bar = make("span", { class: "r2g-bar-cell", "aria-hidden": "true" });
      bar.style.width = `${top > 0 ? (5 * Math.max(0, value)) / top : 0}rem`;
      return make("td", {}, bar, Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2));
    };
    const largest = Math.max(...sides.flatMap((side) => Object.values(side.found.spreads)));
    this.table.replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, make("th", {}, `${sides[0].draw.samples.length} samples`), ...sides.map((side) => make("th", {}, data.systems[side.system].name)))),
      make("tbody", {}, ...rows.map(([name, value, key]) => {
        const values = sides.map(value);
        const top = key ? largest : Math.max(...values.map(Math.abs));
        const row = make("tr", {}, make("td", {}, key === this.baseline ? make("strong", {}, name) : name), ...values.map((one) => cell(one, top)));
        if (key) row.dataset.spread = key;
        return row;
      }))));
  }

  async redraw() {
    const question = { study: this.data.studies[this.study].id, samples: Number(this.samples.value),
      temperature: Number(this.temperature.value), seed: Number(this.seed.value) };
    const { study } = this;
    this.again.disabled = true;
    this.again.textContent = "drawing \u2026";
    this.told.hidden = true;
    try {
      for (const key of new Set(this.sides.map((side) => this.data.systems[side.system].key))) {
        const answer = await this.ask({ ...question, system: key });
        if (answer !== null) this.redrawn[`${study}/${key}`] = answer.draw;
      }
    } catch (error) {
      this.told.textContent = error.message;
      this.told.hidden = false;
    }
    this.again.disabled = false;
    this.again.textContent = "draw again";
    this.sides.forEach((side) => side.open());
    this.update();
  }

  state() {
    const { data } = this;
    return { study: data.studies[this.study].id, weights: this.weights, baseline: this.baseline, group: this.group,
      error: this.told.hidden ? "" : this.told.textContent,
      sides: this.sides.map((side) => ({ system: data.systems[side.system].key, samples: side.draw.samples.length,
        temperature: side.draw.temperature, seed: side.draw.seed, first: side.draw.samples[0].words.join(" "), ...side.found })),
      timeline: this.timeline.state() };
  }
}

function draw(root, data, ask, tell) {
  const cockpit = new Cockpit(root, data, ask, tell);
  return { state: () => cockpit.state(), study: (i) => cockpit.openStudy(i), mix: (weights) => cockpit.mix(weights) };
}
"""
