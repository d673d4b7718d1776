"""Figures and tables of notebook 11: scores by normality, findings, templates, class balance.

Every function takes result rows or texts and returns a table or a figure. What is compared here
is always one table's rows: synthetic and real images never share a figure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from r2genkit.errors import KitError
from r2genkit.experiments.results import ResultRow
from r2genkit.metrics import METRICS, finding_f1, score_nlg
from r2genkit.metrics.findings import default_labeler
from r2genkit.metrics.uncertainty import additives_of_findings, additives_of_nlg, bootstrap
from r2genkit.study import Study
from r2genkit.text.sentences import split_sentences
from r2genkit.viz.results import _finish, _one_group

PALETTE = sns.color_palette("colorblind")
COLOURS = {"normal": PALETTE[2], "abnormal": PALETTE[3], "all": "0.35"}
SUBSETS = ("all", "normal", "abnormal")

FIRST_SENTENCE = re.compile(r"(?<![0-9.])\.(?=\s)")
TEXT_RULES = {
    "no acute": r"\bno acute\b",
    "no": r"\bno\b",
    "no, normal": r"\bno\b|normal",
    "no, normal, clear": r"\bno\b|normal|clear",
    "any of six words": (r"\bno\b|normal|clear|negative|unremarkable|without"),
}
"""Keyword rules for a normal report: the words any one of which makes it normal."""


def titles(rows: Sequence[ResultRow]) -> list[str]:
    """Title of each row, with its seed where the rows have several."""
    several = len({row.seed for row in rows}) > 1
    return [f"{row.title} ({row.seed})" if several else row.title for row in rows]


def keyword_ratios(studies: Iterable[Study], rules: Mapping[str, str] = TEXT_RULES) -> pd.DataFrame:
    """Normal : abnormal under rules that only look for words in the impression.

    Args:
        studies: those without impression are left out.
        rules: regular expression by name; a lower-cased text that holds it counts as normal.

    Returns:
        One row per rule and place ("first sentence", "whole impression"): normal, other, ratio,
        and "as coded %": on how many coded studies rule and MeSH code say the same.

    Raises:
        KitError: no study has an impression.
    """
    studies = [study for study in studies if study.impression_text]
    if not studies:
        raise KitError("No study has an impression: pass studies with report sections.")
    coded = np.array([study.normal is not None for study in studies])
    code = np.array([study.normal is True for study in studies])
    whole = [study.impression_text.lower() for study in studies]
    first = [FIRST_SENTENCE.split(text)[0] for text in whole]
    lines = []
    for place, texts in (("first sentence", first), ("whole impression", whole)):
        for name, rule in rules.items():
            normal = np.array([re.search(rule, text) is not None for text in texts])
            other = int((~normal).sum())
            agreed = (normal == code)[coded]
            lines.append(
                {
                    "place": place,
                    "words": name,
                    "normal": int(normal.sum()),
                    "other": other,
                    "ratio": normal.sum() / other if other else np.nan,
                    "as coded %": 100 * agreed.mean() if len(agreed) else np.nan,
                }
            )
    return pd.DataFrame(lines)


def subset_figure(
    rows: Sequence[ResultRow],
    metrics: Sequence[str] = ("BLEU-4", "METEOR", "CIDEr", "finding-F1"),
    subsets: Sequence[str] = ("normal", "abnormal"),
) -> Figure:
    """Scores on the normal and on the abnormal test studies, one line per row, baselines first.

    Args:
        rows: rows of one table.
        metrics: panels.
        subsets: two of the row's subsets; values with their 95 % intervals.

    Raises:
        KitError: no row holds these subsets.
    """
    rows = [row for row in _one_group(rows) if all(name in row.subsets for name in subsets)]
    if not rows:
        raise KitError("Nothing to draw: no row has scores of these subsets.")
    places = np.arange(len(rows))[::-1]
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            1,
            len(metrics),
            figsize=(2.5 * len(metrics) + 3.2, 0.36 * len(rows) + 1.6),
            sharey=True,
            squeeze=False,
        )
    for axis, metric in zip(axes[0], metrics):
        for subset, shift, marker in zip(subsets, (0.14, -0.14), "os"):
            for place, row in zip(places, rows):
                score = row.subsets[subset].metrics[metric]
                if score.value is None:
                    continue
                low = score.value if score.low is None else score.low
                high = score.value if score.high is None else score.high
                axis.errorbar(
                    score.value,
                    place + shift,
                    xerr=[[max(score.value - low, 0)], [max(high - score.value, 0)]],
                    fmt=marker,
                    ms=4.5,
                    capsize=2,
                    color=COLOURS.get(subset, PALETTE[0]),
                    label=subset if place == places[0] else None,
                )
        axis.set_title(metric, fontsize=10)
        axis.set_xlim(left=min(0, axis.get_xlim()[0]))
        axis.tick_params(labelsize=8)
    axes[0][0].set_yticks(places, titles(rows), fontsize=8.5)
    axes[0][0].set_ylim(-0.6, len(rows) - 0.4)
    handles = [
        plt.Line2D([], [], marker=marker, ls="", color=COLOURS.get(subset, PALETTE[0]))
        for subset, marker in zip(subsets, "os")
    ]
    counts = [f"{name} ({rows[0].subsets[name].studies} studies)" for name in subsets]
    figure.tight_layout(rect=(0, 0.32 / figure.get_figheight(), 1, 1))
    figure.legend(
        handles, counts, loc="lower center", ncols=2, frameon=False, fontsize=8.5, borderpad=0
    )
    return _finish(figure, rows[0].synthetic)


def finding_table(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Recall and share of false statements per row and finding type, in long form.

    Returns:
        Columns system, finding, support, predicted, hit, "recall" (hit / support) and "false"
        ((predicted - hit) / predicted); NaN where nothing can be divided. Finding types that no
        reference and no report states are left out.
    """
    rows = _one_group(rows)
    lines = []
    for row, title in zip(rows, titles(rows)):
        for finding, counts in row.findings.items():
            lines.append(
                {
                    "system": title,
                    "finding": finding,
                    "support": counts.support,
                    "predicted": counts.predicted,
                    "hit": counts.hit,
                    "recall": counts.hit / counts.support if counts.support else np.nan,
                    "false": (counts.predicted - counts.hit) / counts.predicted
                    if counts.predicted
                    else np.nan,
                }
            )
    table = pd.DataFrame(lines)
    met = table.groupby("finding")[["support", "predicted"]].sum().sum(axis=1) > 0
    return table[table["finding"].map(met)].reset_index(drop=True)


def finding_heatmap(rows: Sequence[ResultRow], least: int = 10) -> Figure:
    """Per finding and row: recall, and the share of statements that are false (in %).

    Grey: fewer than ``least`` studies to divide by (support for recall, statements for the false
    share); white with a dash: none at all. The support stands beside each finding. Systems that
    state no finding at all are left out where others state some: their columns hold zeros.

    Raises:
        KitError: no finding occurs in these rows.
    """
    table = finding_table(rows)
    if table.empty:
        raise KitError("Nothing to draw: no finding occurs in these rows.")
    states = table.groupby("system")["predicted"].transform("sum") > 0
    if states.any():
        table = table[states]
    support = table.groupby("finding")["support"].max().sort_values(ascending=False, kind="stable")
    systems = list(dict.fromkeys(table["system"]))
    spoken = default_labeler().titles
    names = [f"{spoken.get(name, name)} ({count})" for name, count in support.items()]
    with sns.axes_style("white"):
        figure, axes = plt.subplots(
            2,
            1,
            figsize=(0.42 * len(systems) + 4, 0.44 * len(support) + 3.4),
            sharex=True,
            layout="constrained",
        )
    panels = (
        ("recall", "support", "Recall (%)", "Blues"),
        ("false", "predicted", "False statements (%)", "OrRd"),
    )
    for axis, (value, divisor, title, cmap) in zip(axes, panels):
        shares, whole = (
            table.pivot(index="finding", columns="system", values=name).loc[support.index, systems]
            for name in (value, divisor)
        )
        thin, none = (whole < least) & (whole > 0), whole == 0
        marks = shares.map(lambda share: "–" if np.isnan(share) else f"{100 * share:.0f}")
        layers = (
            (0 * whole, thin, ["0.85"]),
            (0 * whole, none, ["1.0"]),
            (100 * shares, ~(thin | none), cmap),
        )
        for values, drawn, colours in layers:
            if drawn.to_numpy().any():
                sns.heatmap(
                    values,
                    mask=~drawn.to_numpy(),
                    annot=marks.to_numpy(),
                    fmt="",
                    annot_kws={"fontsize": 7},
                    vmin=0,
                    vmax=100,
                    cmap=colours,
                    cbar=False,
                    linewidths=0.6,
                    linecolor="white",
                    ax=axis,
                )
        axis.set(xlabel="", ylabel="")
        axis.set_title(title, fontsize=10)
        axis.set_yticks(np.arange(len(support)) + 0.5)
        axis.set_yticklabels(names, rotation=0, fontsize=8)
    axes[1].set_xticks(np.arange(len(systems)) + 0.5)
    axes[1].set_xticklabels(systems, rotation=50, ha="right", fontsize=8, rotation_mode="anchor")
    figure.supxlabel(" ", fontsize=7)  # room for the tag below the slanted titles
    return _finish(figure, _one_group(rows)[0].synthetic)


def text_forms(
    reports: Mapping[str, Mapping[str, str]],
    normal: Mapping[str, bool],
    templates: Iterable[str],
    own: int = 10,
) -> pd.DataFrame:
    """Length and repetition of reports, by system and normality.

    Args:
        reports: by system, report by study id (tokenised).
        normal: whether each study is normal.
        templates: sentences that count as templates (e.g. the ten commonest of training).
        own: how many of a text's own commonest sentences count for "own commonest %".

    Returns:
        One row per system and normality: studies, words (mean, full stops not counted), "words SD",
        sentences (mean), "templates %" and "own commonest %" (shares of sentences), "distinct %"
        (different reports).
    """
    templates = set(templates)
    lines = []
    for system, texts in reports.items():
        for name, wanted in (("normal", True), ("abnormal", False)):
            chosen = [text for study, text in texts.items() if normal[study] is wanted]
            if not chosen:
                continue
            words = np.array([sum(word != "." for word in text.split()) for text in chosen])
            counts = Counter(sentence for text in chosen for sentence in split_sentences(text))
            total = max(counts.total(), 1)
            lines.append(
                {
                    "system": system,
                    "studies are": name,
                    "studies": len(chosen),
                    "words": words.mean(),
                    "words SD": words.std(),
                    "sentences": counts.total() / len(chosen),
                    "templates %": 100 * sum(counts[s] for s in templates) / total,
                    "own commonest %": 100 * sum(n for _, n in counts.most_common(own)) / total,
                    "distinct %": 100 * len(set(chosen)) / len(chosen),
                }
            )
    return pd.DataFrame(lines)


def text_forms_figure(
    reports: Mapping[str, Mapping[str, str]],
    normal: Mapping[str, bool],
    templates: Iterable[str],
    *,
    synthetic: bool,
) -> Figure:
    """Words per report, and how much of the text is template, by system and normality.

    Args:
        reports, normal, templates: as ``text_forms``.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: there is no report.
    """
    forms = text_forms(reports, normal, templates)
    if forms.empty:
        raise KitError("Nothing to draw: there is no report.")
    words = pd.DataFrame(
        [
            {
                "system": system,
                "studies are": "normal" if normal[study] else "abnormal",
                "words": sum(word != "." for word in text.split()),
            }
            for system, texts in reports.items()
            for study, text in texts.items()
        ]
    )
    order = list(reports)
    same = {
        "y": "system",
        "order": order,
        "hue": "studies are",
        "hue_order": ["normal", "abnormal"],
        "palette": {name: COLOURS[name] for name in ("normal", "abnormal")},
        "legend": False,
    }
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            1, 3, figsize=(11.4, 0.5 * len(order) + 1.7), sharey=True, layout="constrained"
        )
    sns.boxplot(words, x="words", ax=axes[0], fliersize=2, linewidth=0.9, **same)
    axes[0].set_title("Words per report", fontsize=10)
    for axis, column, title in zip(
        axes[1:],
        ("templates %", "own commonest %"),
        ("Among training's ten commonest", "Among its own ten commonest"),
    ):
        sns.barplot(forms, x=column, ax=axis, **same)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 100)
    for axis, label in zip(axes, ("words", "share of sentences (%)", "share of sentences (%)")):
        axis.set(xlabel=label, ylabel="")
        axis.tick_params(labelsize=8.5)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[n]) for n in ("normal", "abnormal")]
    figure.legend(
        handles,
        ["normal studies", "abnormal studies"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8.5,
    )
    return _finish(figure, synthetic)


def mixture_weights(normal: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Weights of the studies that give every wanted share of normal ones.

    Args:
        normal: bool ``[N]``; both kinds occur.
        shares: R values in 0..1.

    Returns:
        float64 ``[R, N]``, rows summing to N.

    Raises:
        KitError: one of the two kinds is missing, or a share lies outside 0..1.
    """
    normal = np.asarray(normal, dtype=bool)
    shares = np.asarray(shares, dtype=np.float64)[:, None]
    if normal.all() or not normal.any():
        raise KitError("A mixture needs normal and abnormal studies.")
    if ((shares < 0) | (shares > 1)).any():
        raise KitError("A share of normal studies lies between 0 and 1.")
    each = shares * normal / normal.sum() + (1 - shares) * ~normal / (~normal).sum()
    return each * len(normal)


def mixture_curves(
    hypotheses: Mapping[str, str],
    references: Mapping[str, str],
    normal: Mapping[str, bool | None],
    shares: Sequence[float],
) -> pd.DataFrame:
    """Scores of fixed reports when the test set holds another share of normal studies.

    Studies are weighted, none is drawn: every score is a function of sums over studies. CIDEr keeps
    the document frequencies of the full set. METEOR is left out (it would need Java).

    Args:
        hypotheses, references: tokenised texts by study id.
        normal: by study id; None leaves it to the reference text.
        shares: R shares of normal studies.

    Returns:
        Index "normal share" ``[R]``, one column per metric.
    """
    scores = score_nlg(hypotheses, references, meteor=False)
    findings = finding_f1(hypotheses, references, normal=normal)
    weights = mixture_weights(~findings.abnormal, shares)
    curves = bootstrap(
        [*additives_of_nlg(scores), *additives_of_findings(findings.counts)], weights
    )
    return pd.DataFrame(curves, index=pd.Index(np.asarray(shares), name="normal share"))


def mixture_figure(
    curves: Mapping[str, pd.DataFrame],
    marks: Mapping[str, float],
    *,
    synthetic: bool,
    metrics: Sequence[str] = ("BLEU-4", "CIDEr", "finding-F1"),
) -> Figure:
    """Scores against the share of normal test studies, one line per system.

    Args:
        curves: as ``mixture_curves`` gives, by system.
        marks: shares to mark with a vertical line, by name.
        synthetic: whether to tag the figure as drawn from phantom images.
        metrics: panels.

    Raises:
        KitError: there is no curve.
    """
    if not curves:
        raise KitError("Nothing to draw: there is no system.")
    table = pd.concat(curves, names=["system"]).reset_index()
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            1, len(metrics), figsize=(3.6 * len(metrics), 4.2), layout="constrained", squeeze=False
        )
    for axis, metric in zip(axes[0], metrics):
        sns.lineplot(
            table,
            x="normal share",
            y=metric,
            hue="system",
            style="system",
            palette="colorblind",
            legend=metric == metrics[-1],
            ax=axis,
        )
        for (name, share), style in zip(marks.items(), (":", "--", "-.")):
            axis.axvline(share, color="0.35", lw=1, ls=style, label=name)
        axis.set_title(metric, fontsize=10)
        axis.set(xlabel="share of normal studies", ylabel="", xlim=(0, 1))
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.tick_params(labelsize=8.5)
    handles, names = axes[0][-1].get_legend_handles_labels()
    axes[0][-1].get_legend().remove()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return _finish(figure, synthetic)


def implied_share(total: float, normal: float, abnormal: float) -> float:
    """Share of normal studies that makes a mean of two subset scores the total; NaN if equal."""
    apart = normal - abnormal
    return (total - abnormal) / apart if apart else np.nan


def implied_shares(
    scores: pd.DataFrame, metrics: Sequence[str] = METRICS, least: float = 0.0
) -> pd.Series:
    """Implied share of normal studies by metric.

    Args:
        scores: index "all", "normal", "abnormal", one column per metric.
        metrics: columns used.
        least: metrics whose subset scores lie closer together than this give NaN: there the
            inversion magnifies every small error.
    """
    shares = {}
    for metric in metrics:
        total, normal, abnormal = (float(scores.loc[n, metric]) for n in SUBSETS)
        close = not abs(normal - abnormal) > least
        shares[metric] = np.nan if close else implied_share(total, normal, abnormal)
    return pd.Series(shares, name="implied normal share")


def row_subset_scores(row: ResultRow, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Scores of one row on all, normal and abnormal studies, NaN where missing.

    Raises:
        KitError: the row lacks one of the subsets.
    """
    if missing := [name for name in ("normal", "abnormal") if name not in row.subsets]:
        raise KitError(f"row {row.run} has no scores of {missing[0]} studies")
    parts = {"all": row.metrics} | {n: row.subsets[n].metrics for n in ("normal", "abnormal")}
    return pd.DataFrame(
        {
            name: {
                metric: np.nan if scores[metric].value is None else scores[metric].value
                for metric in metrics
            }
            for name, scores in parts.items()
        }
    ).T


def implied_figure(
    shares: pd.DataFrame, truth: Mapping[str, float], *, synthetic: bool = False
) -> Figure:
    """The share of normal studies that published or own scores imply, metric by metric.

    Args:
        shares: index = metric, one column per source of scores.
        truth: known or stated share by name, drawn as vertical lines.
        synthetic: whether any source was measured on phantom images.

    Raises:
        KitError: the table is empty.
    """
    if shares.empty:
        raise KitError("Nothing to draw: the table of implied shares is empty.")
    with sns.axes_style("whitegrid"):
        figure, axis = plt.subplots(figsize=(8.2, 0.36 * len(shares) + 1.9), layout="constrained")
    places = np.arange(len(shares))
    width = 0.8 / max(shares.shape[1], 5)  # sources lie side by side within a metric
    steps = width * (np.arange(shares.shape[1]) - (shares.shape[1] - 1) / 2)
    for (name, values), step, colour in zip(shares.items(), steps, PALETTE):
        axis.scatter(values, places + step, color=colour, s=30, label=name, zorder=3)
    for (name, share), style in zip(truth.items(), ("--", ":", "-.")):
        axis.axvline(share, color="0.3", ls=style, lw=1.2, label=name)
    axis.set_yticks(places, list(shares.index), fontsize=9)
    axis.set_ylim(len(shares) - 0.5, -0.5)
    low, high = np.nanmin(shares.to_numpy()), np.nanmax(shares.to_numpy())
    axis.set_xlim(min(0.0, low - 0.03), max(1.0, high + 0.03))
    axis.set_xlabel("implied share of normal studies")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return _finish(figure, synthetic)
