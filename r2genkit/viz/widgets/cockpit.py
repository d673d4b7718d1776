"""The cockpit of self-critical training: draws of a study, what each earns, and where it is pushed.

One :class:`CockpitData` feeds a self-contained page (:func:`cockpit_html`), a live widget
(:func:`cockpit_widget`) and a matplotlib figure (:func:`cockpit_figure`). What needs a model is in
``r2genkit.experiments.cockpit``. The front end does the sums of this module again, in JavaScript,
while sliders move; a test holds one against the other.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from r2genkit.errors import KitError
from r2genkit.viz.widgets.cockpit_front import BODY, STYLE
from r2genkit.viz.widgets.host import FrontEnd, live, page_html
from r2genkit.viz.widgets.parts import (
    SYNTHETIC_NOTE,
    FindingMark,
    marks_payload,
    views_payload,
)

FRONT = FrontEnd("cockpit", BODY, STYLE)
PARTS = {"cider_d": "CIDEr-D", "bleu4": "BLEU-4", "finding_f1": "finding-F1"}
"""Rewards that can be mixed, and their names."""
BASELINES = {"none": "none", "greedy": "greedy report", "leave_one_out": "leave one out"}
UP, DOWN, STILL = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}", "="
_COLOURS = {UP: "#0b63a0", DOWN: "#b34700", STILL: "#5a5a5a"}
RARE = 0.05
"""Words less probable than this are underlined."""
FAINT = 5.0
"""A word is tinted fully where its log-probability is minus this many nats, or lower."""


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CockpitReport:
    """A report that a model drew, or its greedy one.

    Attributes:
        words: T words.
        log_probs: ``[T]`` or, with the end mark, ``[T + 1]``: of each word, given those before it,
            under the model itself, natural log.
        marks: what the words name.
        rewards: by key of ``PARTS``.
        counts: findings stated rightly, wrongly, and not stated, against the reference.
    """

    words: tuple[str, ...]
    log_probs: tuple[float, ...]
    marks: tuple[FindingMark, ...]
    rewards: Mapping[str, float]
    counts: tuple[int, int, int]


@dataclass(frozen=True)
class CockpitDraw:
    """What one model drew for one study.

    Attributes:
        temperature, seed: of the draws.
        samples: n reports.
        greedy: the report of always the most probable word.
        gram: ``[n, n]``, inner products of the gradients of the samples' log-probabilities with
            respect to all weights.
        diversity: numbers about the samples by name.
    """

    temperature: float
    seed: int
    samples: tuple[CockpitReport, ...]
    greedy: CockpitReport
    gram: np.ndarray
    diversity: Mapping[str, float]

    def __post_init__(self) -> None:
        count = len(self.samples)
        if count < 2:
            raise KitError(f"{count} samples have no baseline among themselves: draw at least two.")
        if np.shape(self.gram) != (count, count):
            raise KitError(
                f"the Gram matrix is {list(np.shape(self.gram))} and there are {count} samples: "
                "expected one row and column each."
            )
        for report in (*self.samples, self.greedy):
            if set(report.rewards) != set(PARTS):
                raise KitError(
                    f"a report has the rewards {', '.join(report.rewards) or 'none'}: give "
                    f"{', '.join(PARTS)}."
                )
            if len(report.log_probs) - len(report.words) not in (0, 1):
                raise KitError(
                    f"{len(report.log_probs)} log-probabilities for {len(report.words)} words: "
                    "give one per word, and one of the end mark where it was drawn."
                )
            if not all(value <= 1e-4 for value in report.log_probs):  # false for NaN, too
                raise KitError("a log-probability is above 0 or missing: take them of the model.")

    def parts(self) -> np.ndarray:
        """Rewards of the samples ``[n, 3]``, in the order of ``PARTS``."""
        return np.array([[one.rewards[name] for name in PARTS] for one in self.samples])


@dataclass(frozen=True)
class CockpitSystem:
    """A model of the comparison.

    Attributes:
        key: of its draws.
        name: plain name.
        about: how it was trained, one sentence.
        weights: what its training paid, by key of ``PARTS``; empty where it was not paid.
        timeline: by name, a number per logged minibatch ``[M]``; empty without logs. "step" counts
            minibatches.
        width: minibatches logged over which the front end's smooth line takes the mean.
    """

    key: str
    name: str
    about: str
    weights: Mapping[str, float]
    timeline: Mapping[str, Sequence[float]]
    width: int = 1


@dataclass(frozen=True)
class CockpitStudy:
    """A study that reports are drawn for.

    Attributes:
        id, stratum: of the study, and the part of the draw it stands for.
        views: grey images uint8 ``[H, W]``.
        view_names: their names.
        words, marks: its reference and what it names.
    """

    id: str
    stratum: str
    views: tuple[np.ndarray, ...]
    view_names: tuple[str, ...]
    words: tuple[str, ...]
    marks: tuple[FindingMark, ...]


@dataclass(frozen=True)
class CockpitData:
    """Draws of several models for the same studies.

    Attributes:
        title: heading of the page.
        systems: the models; the first two are shown beside each other at first.
        studies: at least one.
        draws: by id of a study and key of a system.
        group: samples per study that training takes; the spread of its gradient is of so many.
        synthetic: whether the images are rendered; the page then says so.
        notes: further sentences below the title.

    Raises:
        KitError: parts that do not belong together.
    """

    title: str
    systems: tuple[CockpitSystem, ...]
    studies: tuple[CockpitStudy, ...]
    draws: Mapping[tuple[str, str], CockpitDraw]
    group: int = 4
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [system.key for system in self.systems]
        if not keys or len(set(keys)) < len(keys) or not self.studies:
            raise KitError("the cockpit needs at least one study, and models with different keys.")
        if self.group < 2:
            raise KitError(f"a group of {self.group} leaves no other sample out: give at least 2.")
        wanted = {(study.id, key) for study in self.studies for key in keys}
        if wanted != set(self.draws):
            one = min(wanted ^ set(self.draws))
            raise KitError(f"study {one[0]} and model {one[1]} do not have one draw: give it.")
        for study in self.studies:
            if not study.views or len(study.views) != len(study.view_names):
                raise KitError(f"study {study.id} needs at least one view and a name for each.")
        for system in self.systems:
            lengths = {len(values) for values in system.timeline.values()}
            if system.timeline and (len(lengths) != 1 or "step" not in system.timeline):
                raise KitError(
                    f"the timeline of {system.name} needs its steps, and as many numbers of each "
                    "kind."
                )
            if unknown := set(system.weights) - set(PARTS):
                raise KitError(f"{system.name} is paid {min(unknown)}: known: {', '.join(PARTS)}.")

    def draw(self, study: int, system: int) -> CockpitDraw:
        """What a model drew for a study, both by number."""
        return self.draws[self.studies[study].id, self.systems[system].key]


# --- sums -----------------------------------------------------------------------------------------


def mixed(parts: np.ndarray, weights: Mapping[str, float]) -> np.ndarray:
    """Weighted sum of rewards: ``[n, 3]`` in the order of ``PARTS`` -> ``[n]``."""
    return np.asarray(parts, dtype=float) @ np.array([weights.get(name, 0.0) for name in PARTS])


def baseline_of(reward: np.ndarray, kind: str, greedy: float) -> np.ndarray:
    """What is taken off each reward.

    Args:
        reward: ``[n]``, n at least 2.
        kind: key of ``BASELINES``.
        greedy: reward of the greedy report.

    Returns:
        ``[n]``: 0; the greedy report's reward; or the mean reward of the other samples.

    Raises:
        KitError: unknown kind.
    """
    reward = np.asarray(reward, dtype=float)
    if kind == "none":
        return np.zeros_like(reward)
    if kind == "greedy":
        return np.full_like(reward, greedy)
    if kind == "leave_one_out":
        return (reward.sum() - reward) / (len(reward) - 1)
    raise KitError(f"there is no baseline {kind!r}: choose {', '.join(BASELINES)}.")


def spread(reward: np.ndarray, gram: np.ndarray, group: int, kind: str, greedy: float) -> float:
    """Standard deviation of the gradient that ``group`` samples of the study estimate.

    The n samples that were drawn stand for all that the model could draw: groups are taken from
    them with replacement. Then the deviation, the root of the variance summed over all weights,
    follows from inner products of the samples' gradients alone. With a baseline that is the same
    for all samples the estimate is a mean of independent terms; "leave one out" makes it

        1/(k - 1) sum_i (r_i - mean r) s_i,

    a U-statistic of order 2 with the kernel (r_1 - r_2)(s_1 - s_2) / 2, whose variance Hoeffding
    (1948, equation 5.13) gives.

    Args:
        reward: ``[n]``.
        gram: ``[n, n]`` inner products of s_i, the gradients of the log-probabilities.
        group: k, at least 2.
        kind: key of ``BASELINES``.
        greedy: reward of the greedy report.

    Raises:
        KitError: unknown kind, or a group of fewer than two.
    """
    if group < 2:
        raise KitError(f"a group of {group} leaves no other sample out: give at least 2.")
    reward, gram = np.asarray(reward, dtype=float), np.asarray(gram, dtype=float)
    count = len(reward)
    if kind != "leave_one_out":
        weight = reward - baseline_of(reward, kind, greedy)
        square = (weight**2 * np.diag(gram)).mean()
        return math.sqrt(max(0.0, square - weight @ gram @ weight / count**2) / group)
    off = reward - reward.mean()
    mean = off / count  # coefficients of the covariance of reward and gradient
    covariance = mean @ gram @ mean
    # E[kernel | first sample] = ((r_i - mean r)(s_i - mean s) + covariance) / 2
    middle = np.eye(count) - 1 / count
    centred = middle @ gram @ middle
    first = 0.25 * ((off**2 * np.diag(centred)).mean() - covariance)
    gaps = np.diag(gram)[:, None] + np.diag(gram)[None] - 2 * gram
    both = 0.25 * ((reward[:, None] - reward[None]) ** 2 * gaps).mean() - covariance
    pairs = group * (group - 1) / 2
    return math.sqrt(max(0.0, (2 * (group - 2) * first + both) / pairs))


def sign_of(advantage: float) -> str:
    """Whether training pushes a sample up, down, or leaves it."""
    if abs(advantage) < 5e-4:
        return STILL
    return UP if advantage > 0 else DOWN


# --- payload, page, widget ----------------------------------------------------------------------


def _report_payload(report: CockpitReport) -> dict[str, Any]:
    return {
        "words": list(report.words),
        "logs": [round(min(0.0, value), 3) for value in report.log_probs],
        "marks": marks_payload(report.marks),
        "rewards": [round(report.rewards[name], 5) for name in PARTS],
        "counts": list(report.counts),
    }


def draw_payload(draw: CockpitDraw) -> dict[str, Any]:
    """A draw as plain JSON; the Gram matrix to six digits."""
    return {
        "temperature": draw.temperature,
        "seed": draw.seed,
        "samples": [_report_payload(report) for report in draw.samples],
        "greedy": _report_payload(draw.greedy),
        "gram": [[float(f"{value:.6g}") for value in row] for row in np.asarray(draw.gram)],
        "diversity": {name: round(value, 4) for name, value in draw.diversity.items()},
    }


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Running mean over ``width`` numbers, fewer at the start."""
    return [float(np.mean(values[max(0, end - width) : end])) for end in range(1, len(values) + 1)]


def payload(data: CockpitData) -> dict[str, Any]:
    """What the front end draws from, as plain JSON content."""
    return {
        "title": data.title,
        "synthetic": SYNTHETIC_NOTE if data.synthetic else "",
        "notes": list(data.notes),
        "parts": [{"key": key, "name": name} for key, name in PARTS.items()],
        "baselines": [{"key": key, "name": name} for key, name in BASELINES.items()],
        "signs": {"up": UP, "down": DOWN, "still": STILL},
        "rare": RARE,
        "faint": FAINT,
        "group": data.group,
        "systems": [
            {
                "key": system.key,
                "name": system.name,
                "about": system.about,
                "weights": [system.weights.get(name, 0.0) for name in PARTS],
                "timeline": {
                    name: {
                        "raw": [round(float(value), 5) for value in values],
                        "smooth": [round(value, 5) for value in smoothed(values, system.width)],
                    }
                    for name, values in system.timeline.items()
                },
            }
            for system in data.systems
        ],
        "studies": [
            {
                "id": study.id,
                "stratum": study.stratum,
                "views": views_payload(study.views, study.view_names),
                "words": list(study.words),
                "marks": marks_payload(study.marks),
                "draws": {
                    system.key: draw_payload(data.draws[study.id, system.key])
                    for system in data.systems
                },
            }
            for study in data.studies
        ],
    }


def cockpit_html(data: CockpitData) -> str:
    """One page with everything inside, to be opened by double click.

    Rewards, baselines and advantages follow its sliders; new draws need the kernel, and so the
    widget.
    """
    texts = []
    for study in data.studies:
        texts.append((f"{study.id}: reference", " ".join(study.words)))
        for system in data.systems:
            draw = data.draws[study.id, system.key]
            texts.append((f"{study.id}, {system.name}: greedy", " ".join(draw.greedy.words)))
            texts += [
                (f"{study.id}, {system.name}: sample {number}", " ".join(one.words))
                for number, one in enumerate(draw.samples, 1)
            ]
    return page_html(FRONT, payload(data), title=data.title, texts=texts)


def cockpit_widget(
    data: CockpitData, answer: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
) -> Any:
    """The cockpit as a live widget for notebooks.

    Its trait ``told`` says which study, models, mix of rewards and baseline the reader looks at.

    Args:
        data: as for the page.
        answer: :meth:`r2genkit.experiments.cockpit.Sampler.answer` draws again; without it only
            the draws of the data can be seen.

    Raises:
        KitError: ``anywidget`` is not installed.
    """
    return live(FRONT, payload(data), answer)


# --- static twin --------------------------------------------------------------------------------


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would start a formula


def _tint(log_prob: float) -> tuple[float, float, float, float]:
    """Ground of a word; the less probable, the stronger."""
    return (0.51, 0.31, 0.71, 0.55 * min(1.0, -min(0.0, log_prob) / FAINT))


def cockpit_figure(
    data: CockpitData,
    study: int = 0,
    systems: Sequence[int] | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    baseline: str = "leave_one_out",
    samples: int = 5,
) -> Figure:
    """The cockpit without a browser: two models' draws of one study, the spread, the training.

    Words are tinted by their log-probability; beside each sample stand its reward and, with sign
    and colour, its advantage. The baseline is that of all samples drawn, not of those shown.

    Args:
        data: as for the page.
        study: number of the study.
        systems: numbers of the models, at most two; default the first two.
        weights: mix of rewards by key of ``PARTS``; default CIDEr-D alone.
        baseline: key of ``BASELINES``.
        samples: how many of the draws to show, in the order in which they were drawn.

    Raises:
        KitError: no such study, model or baseline, or no sample to show.
    """
    weights = {"cider_d": 1.0} if weights is None else dict(weights)
    chosen = list(range(min(2, len(data.systems)))) if systems is None else list(systems)
    if not 0 <= study < len(data.studies):
        raise KitError(f"there is no study {study}: the cockpit has {len(data.studies)}.")
    if not 1 <= len(chosen) <= 2 or not all(0 <= one < len(data.systems) for one in chosen):
        raise KitError(
            f"models {chosen} cannot be shown: choose one or two of the {len(data.systems)}."
        )
    if samples < 1 or unknown_part(weights):
        raise KitError(f"ask for at least one sample, and for rewards among {', '.join(PARTS)}.")
    one = data.studies[study]
    column, bar, step = 4.6, 1.35, 0.165  # inches: text, bar of the advantage, line
    letter = 0.66 * 7 / 72  # of the fixed-width font at 7 points, with room for whole pixels
    width = int((column - 0.15) / letter)
    across = len(chosen) * (column + bar + 0.25)

    columns = []
    for place in chosen:
        draw = data.draw(study, place)
        reward = mixed(draw.parts(), weights)
        best = float(mixed(_row(draw.greedy), weights)[0])
        advantage = reward - baseline_of(reward, baseline, best)
        shown = [("greedy", draw.greedy, best, None)]
        shown += [
            (f"sample {number}", report, float(reward[number - 1]), float(advantage[number - 1]))
            for number, report in enumerate(draw.samples[:samples], 1)
        ]
        blocks = [(*item, _lines(item[1], width)) for item in shown]
        columns.append((place, draw, reward, best, blocks))
    reference = textwrap.wrap("reference: " + " ".join(one.words), int(15.5 * across))
    head = 0.82 + step * (len(reference) - 1)
    rows = max(len(column[4]) for column in columns)
    heights = [
        max(len(column[4][row][4]) for column in columns if row < len(column[4])) * step + 0.32
        for row in range(rows)
    ]
    foot = 2.35
    down = head + 0.3 + sum(heights) + 0.1 + foot
    figure = plt.figure(figsize=(across, down))

    def write(x: float, y: float, text: str, **style: Any) -> None:
        where = {"ha": "left", "va": "top", "fontsize": 7.5} | style
        figure.text(x / across, 1 - y / down, _plain(text), **where)

    def axis_at(x: float, y: float, wide: float, tall: float) -> Any:
        return figure.add_axes((x / across, 1 - (y + tall) / down, wide / across, tall / down))

    mix = " + ".join(f"{value:g} {PARTS[name]}" for name, value in weights.items() if value)
    write(0.1, 0.06, f"{data.title}: {one.id} ({one.stratum})", fontsize=10)
    write(0.1, 0.29, f"reward: {mix or 'nothing'}; baseline: {BASELINES[baseline]}", color="0.3")
    for number, line in enumerate(reference):
        write(0.1, 0.47 + step * number, line)
    limit = max(
        [abs(item[3]) for column in columns for item in column[4] if item[3] is not None] + [1e-9]
    )
    for number, (place, _, _, _, blocks) in enumerate(columns):
        left = 0.1 + number * (column + bar + 0.25)
        top = head
        write(left, top, data.systems[place].name, fontsize=9, fontweight="bold")
        top += 0.28
        for row, (name, _, reward, advantage, lines) in enumerate(blocks):
            write(left, top, f"{name}: reward {reward:.2f}", fontweight="bold")
            for line_number, line in enumerate(lines):
                used = 0
                for word, log_prob in line:
                    box = {"facecolor": _tint(log_prob), "edgecolor": "none", "pad": 0.8}
                    write(left + 0.03 + used * letter, top + step * (line_number + 1), word,
                          family="monospace", fontsize=7, bbox=box)  # fmt: skip
                    used += len(word) + 1
            if advantage is not None:
                sign = sign_of(advantage)
                axis = axis_at(left + column, top + 0.02, bar - 0.1, heights[row] - 0.12)
                axis.barh([0], [advantage], color=_COLOURS[sign], height=0.5)
                axis.axvline(0, color="0.5", lw=0.8)
                axis.set(xlim=(-1.9 * limit, 1.9 * limit), ylim=(-0.6, 0.6))
                axis.set_axis_off()
                axis.text(
                    advantage, 0, f" {sign} {advantage:+.2f} ", va="center", fontsize=7,
                    ha="left" if advantage >= 0 else "right", color=_COLOURS[sign],
                )  # fmt: skip
            top += heights[row]
    top = down - foot
    _foot(data, chosen, columns, axis_at, top, across)
    if data.synthetic:
        write(across - 0.05, down - 0.13, "synthetic phantom images", ha="right", fontsize=6.5,
              color="0.4")  # fmt: skip
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure


def unknown_part(weights: Mapping[str, float]) -> str | None:
    """The first name that is no reward; None where all are."""
    return next((name for name in weights if name not in PARTS), None)


def _row(report: CockpitReport) -> np.ndarray:
    return np.array([[report.rewards[name] for name in PARTS]])


def _lines(report: CockpitReport, width: int) -> list[list[tuple[str, float]]]:
    """Words with their log-probabilities, cut into lines of ``width`` letters."""
    lines: list[list[tuple[str, float]]] = [[]]
    used = 0
    for word, log_prob in zip(report.words or ("(empty)",), report.log_probs or (0.0,)):
        if used and used + len(word) + 1 > width:
            lines.append([])
            used = 0
        lines[-1].append((word, log_prob))
        used += len(word) + 1
    return lines


def _foot(
    data: CockpitData,
    chosen: Sequence[int],
    columns: Sequence[tuple[int, CockpitDraw, np.ndarray, float, list]],
    axis_at: Callable[[float, float, float, float], Any],
    top: float,
    across: float,
) -> None:
    """Spread of the gradient, diversity, and the training of the last model that has logs."""
    wide = (across - 2.3) / 3
    shades = ("#8c8c8c", "#1f6fb2")
    axis = axis_at(0.75, top + 0.35, wide, 1.35)
    for number, (place, draw, reward, best, _) in enumerate(columns):
        values = [spread(reward, draw.gram, data.group, kind, best) for kind in BASELINES]
        places = np.arange(len(values)) + 0.38 * (number - 0.5 * (len(columns) - 1))
        axis.bar(places, values, 0.36, color=shades[number], label=data.systems[place].name)
    axis.set_xticks(np.arange(len(BASELINES)), list(BASELINES.values()), fontsize=7)
    axis.set_title(f"spread of the gradient of {data.group} samples", fontsize=8)
    axis.tick_params(axis="y", labelsize=6.5)
    axis = axis_at(1.45 + wide, top + 0.35, wide, 1.35)
    names = [
        name for name in columns[0][1].diversity if all(name in c[1].diversity for c in columns)
    ]
    for number, (place, draw, _, _, _) in enumerate(columns):
        places = np.arange(len(names)) + 0.38 * (number - 0.5 * (len(columns) - 1))
        values = [draw.diversity[name] for name in names]
        axis.bar(places, values, 0.36, color=shades[number], label=data.systems[place].name)
    axis.set_xticks(np.arange(len(names)), [textwrap.fill(n, 11) for n in names], fontsize=6.5)
    axis.set_ylim(0, 1.45)  # room for the legend
    axis.set_yticks([0, 0.5, 1])
    axis.set_title("diversity of the samples, shares", fontsize=8)
    axis.tick_params(axis="y", labelsize=6.5)
    axis.legend(fontsize=6.5, loc="upper right", framealpha=0.8)
    axis = axis_at(2.1 + 2 * wide, top + 0.35, wide, 1.35)
    logged = [data.systems[place] for place in chosen if data.systems[place].timeline]
    if not logged:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "no log of training by reward", ha="center", va="center", fontsize=7.5)
        return
    system = logged[-1]
    steps = system.timeline["step"]
    for name, style in (("reward", "-"), ("distinct", ":")):
        if name in system.timeline:
            shown = smoothed(system.timeline[name], system.width)
            line = f"{name} (share)" if name == "distinct" else name
            axis.plot(steps, shown, style, color=shades[-1], label=line)
    axis.set_title(f"training of {system.name}", fontsize=8)
    axis.set_xlabel("minibatches", fontsize=7)
    axis.tick_params(labelsize=6.5)
    axis.legend(fontsize=6.5)
