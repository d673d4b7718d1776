"""A private set to look at: one HTML page that needs nothing beside it, and figures for notebooks.

The page holds its images and its style, runs no script and loads nothing, so it can be opened by
double click or sent by mail. Every text in it is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.metrics.findings import OTHER, FindingLabeler, default_labeler
from r2genkit.metrics.uncertainty import SAME, Difference
from r2genkit.viz.findings import SIGNS, findings_legend, findings_style, marked_parts
from r2genkit.viz.metrics import BLUE, DARK, GREEN, GREY, ORANGE, RED


@dataclass(frozen=True)
class Card:
    """One study as the gallery shows it.

    Attributes:
        study_id: its id.
        projections: name of each view.
        images: grey images uint8 ``[H, W]``, as many.
        report: generated.
        reference: what a reader wrote, or None.
        warning: why the images are unlike the training images, or "".
    """

    study_id: str
    projections: Sequence[str]
    images: Sequence[np.ndarray]
    report: str
    reference: str | None = None
    warning: str = ""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5em auto; max-width: 78em; padding: 0 1em;
  background: #fff; color: #1b1b1b; }}
h1 {{ font-size: 1.4em; }} h2 {{ font-size: 1.05em; margin: 0 0 .5em; }}
.notes li {{ margin: .15em 0; }}
table {{ border-collapse: collapse; font-size: 13px; margin: .3em 0 1.2em; }}
th, td {{ border-bottom: 1px solid #ddd; padding: .2em .8em .2em 0; text-align: left; }}
.card {{ border: 1px solid #ccc; border-radius: 6px; padding: .8em 1em; margin: 1em 0; }}
.card.far {{ border: 2px solid #b34700; }}
.warning {{ color: #8f3900; font-weight: 600; margin: 0 0 .5em; }}
.grid {{ display: grid; grid-template-columns: auto 1fr 1fr; gap: 1.2em; align-items: start; }}
.views {{ display: flex; gap: .4em; }}
.views figure {{ margin: 0; }} .views img {{ width: 200px; height: 200px; background: #000; }}
.views figcaption {{ font-size: 12px; color: #555; }}
@media (max-width: 60em) {{ .grid {{ grid-template-columns: 1fr; }} }}
{marks}
#reports h4 {{ margin-top: 0; }} #reports {{ max-width: none; }}
#reports p {{ line-height: 1.9; }}
#reports h2 {{ line-height: 1.3; }} #reports .warning {{ line-height: 1.5; }}
#reports figcaption {{ line-height: 1.4; }}
</style></head>
<body><h1>{title}</h1>
{notes}
{tables}
<div id="reports">{legend}
{cards}
</div></body></html>
"""


def gallery_html(
    cards: Sequence[Card],
    *,
    title: str,
    notes: Sequence[str] = (),
    tables: Mapping[str, pd.DataFrame] | None = None,
    labeler: FindingLabeler | None = None,
) -> str:
    """Studies side by side: views, generated report, reference; findings marked by polarity.

    Args:
        cards: the studies, in order.
        title: heading.
        notes: sentences below it.
        tables: scores by heading.
        labeler: other rules than the kit's.

    Raises:
        KitError: there is no study to show.
    """
    if not cards:
        raise KitError("the gallery has no study to show")
    labeler = labeler or default_labeler()
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    shown = "".join(
        f"<h2>{html.escape(name)}</h2>{_table(table)}" for name, table in (tables or {}).items()
    )
    return _PAGE.format(
        title=html.escape(title),
        notes=f'<ul class="notes">{listed}</ul>' if listed else "",
        tables=shown,
        marks=findings_style("reports"),
        legend=findings_legend(any(card.reference for card in cards)),
        cards="\n".join(_card(card, labeler) for card in cards),
    )


def _table(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in table.itertuples(index=False)
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _image(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _card(card: Card, labeler: FindingLabeler) -> str:
    reference = card.reference or None
    parts = marked_parts(card.report, reference, labeler)
    views = "".join(
        f'<figure><img alt="{html.escape(name)} view" src="{_image(pixels)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, pixels in zip(card.projections, card.images)
    )
    warned = f'<p class="warning">&#9888; {html.escape(card.warning)}</p>' if card.warning else ""
    right = (
        f"<div><h4>Reference</h4>{parts.reference}</div>"
        if reference
        else "<div><h4>Reference</h4><p><em>(none)</em></p></div>"
    )
    verdicts = f"<ul>{parts.verdicts}</ul>" if reference else ""
    return (
        f'<section class="card{" far" if card.warning else ""}">'
        f"<h2>{html.escape(card.study_id)}</h2>{warned}"
        f'<div class="grid"><div class="views">{views}</div>'
        f"<div><h4>Generated report</h4>{parts.report}{verdicts}</div>{right}</div></section>"
    )


# --- figures ------------------------------------------------------------------------------------


def tagged(figure: Figure, synthetic: bool) -> Figure:
    """Say at the foot that images are rendered; of the texts, some may be the kit's own style."""
    if synthetic:
        figure.supxlabel("synthetic phantom images", fontsize=7, color="0.4", x=0.995, ha="right")
    return figure


_POLARITIES = {"positive": "#d55e00", "uncertain": "#b8860b", "negative": "#1f83c4"}


def gallery_figure(
    cards: Sequence[Card], *, synthetic: bool, labeler: FindingLabeler | None = None
) -> Figure:
    """The gallery without a browser: views, report and reference of a few studies.

    Below each text stand its findings with the sign of their polarity (+ affirmed, − denied,
    ? doubted), coloured as in the page.

    Args:
        cards: at most a handful of studies.
        synthetic: whether the images are rendered.
        labeler: other rules than the kit's.

    Raises:
        KitError: there is no study to show.
    """
    if not cards:
        raise KitError("the gallery has no study to show")
    labeler = labeler or default_labeler()
    figure = plt.figure(figsize=(13, 2.75 * len(cards)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.08)
    grid = figure.add_gridspec(len(cards), 4, width_ratios=(1, 1, 1.65, 1.65))
    for row, card in enumerate(cards):
        for column in range(2):
            axis = figure.add_subplot(grid[row, column])
            axis.axis("off")
            if column < len(card.images):
                axis.imshow(card.images[column], cmap="gray", vmin=0, vmax=255)
                axis.set_title(card.projections[column], fontsize=8, color=DARK)
            else:
                axis.text(0.5, 0.5, "no second view", ha="center", va="center", fontsize=8)
        heads = (f"{card.study_id}: generated report", "reference")
        for column, (head, text) in enumerate(zip(heads, (card.report, card.reference))):
            axis = figure.add_subplot(grid[row, 2 + column])
            axis.axis("off")
            _write(axis, head, text, labeler, card.warning if column == 0 else "")
    plt.close(figure)
    return tagged(figure, synthetic)


def _write(axis, head: str, text: str | None, labeler: FindingLabeler, warning: str) -> None:
    """A text and its findings from the top of an axis downwards."""
    place, line = 1.0, 0.075
    axis.text(0, place, head, fontsize=9, fontweight="bold", va="top")
    place -= 1.4 * line
    for content, colour in ((warning, "#8f3900"), (text or "(none)", "black")):
        lines = textwrap.wrap(content, 62)[:8] if content else []
        for one in lines:
            axis.text(0, place, one, fontsize=8, va="top", color=colour)
            place -= line
    if not text:
        return
    place -= 0.3 * line
    for polarity, colour in _POLARITIES.items():
        names = [
            labeler.titles[name]
            for name, label in labeler.label(text).items()
            if label == polarity and name != OTHER
        ]
        for number, one in enumerate(textwrap.wrap(", ".join(names), 58)[:3]):
            sign = SIGNS[polarity] if number == 0 else "  "
            axis.text(0, place, f"{sign} {one}", fontsize=8, va="top", color=colour)
            place -= line


def bare(axis: Axes) -> None:
    """An axis of lines with names at the left: nothing but the scale and faint lines."""
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)


def gap_figure(
    changes: Mapping[str, Mapping[str, Mapping[str, Difference]]],
    metrics: Sequence[str],
    *,
    synthetic: bool,
) -> Figure:
    """Change of each score against the control, by cause; one panel per metric.

    Args:
        changes: by name of the report writer, cause and metric.
        metrics: one panel each.
        synthetic: whether the images are rendered.

    Raises:
        KitError: there is no change to draw.
    """
    causes = list(dict.fromkeys(cause for each in changes.values() for cause in each))
    if not causes:
        raise KitError("there is no change to draw: name at least one cause")
    figure, axes = plt.subplots(
        1,
        len(metrics),
        figsize=(4.3 * len(metrics) + 1, 0.55 * len(causes) + 1.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    styles = list(zip((BLUE, GREY, GREEN), "osD"))
    for axis, metric in zip(axes[0], metrics):
        axis.axvline(0, color=DARK, lw=0.8)
        for number, (name, by_cause) in enumerate(changes.items()):
            colour, marker = styles[number % len(styles)]
            shift = 0.18 * (number - (len(changes) - 1) / 2)
            for place, cause in enumerate(causes):
                d = by_cause.get(cause, {}).get(metric)
                if d is None or not np.isfinite(d.value):
                    continue
                axis.plot([d.low, d.high], [place + shift] * 2, color=colour, lw=1.8)
                filled = colour if d.verdict != SAME else "white"
                axis.plot(
                    d.value,
                    place + shift,
                    marker,
                    color=colour,
                    mfc=filled,
                    ms=6,
                    label=name if place == 0 else None,
                )
        axis.set_yticks(range(len(causes)), causes)
        axis.set_xlabel(f"change of {metric}")
        bare(axis)
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    plt.close(figure)
    return tagged(figure, synthetic)


def distance_figure(
    groups: Mapping[str, np.ndarray], limits: np.ndarray, *, synthetic: bool
) -> Figure:
    """Distances from the training images, one line of points per group; one panel per view.

    Args:
        groups: distances ``[N, V]`` by name, NaN for absent views.
        limits: ``[V]``, beyond which a view is called unfamiliar.
        synthetic: whether the system was trained on rendered images.

    Raises:
        KitError: there is no group to draw.
    """
    if not groups:
        raise KitError("there is no group of images to draw")
    figure, axes = plt.subplots(
        1,
        len(limits),
        figsize=(5.2 * len(limits) + 1, 0.34 * len(groups) + 1.3),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    names = list(groups)
    for view, axis in enumerate(axes[0]):
        spread = np.random.default_rng(0)  # of the points across their line: drawing only
        axis.axvline(limits[view], color=RED, lw=1.3)
        for place, name in enumerate(names):
            values = groups[name][:, view]
            values = values[np.isfinite(values)]
            far = values > limits[view]
            across = place + spread.uniform(-0.24, 0.24, len(values))
            for mask, colour in ((~far, BLUE), (far, ORANGE)):
                axis.plot(values[mask], across[mask], ".", color=colour, ms=4, alpha=0.7)
            if len(values):
                axis.text(
                    1.01,
                    place,
                    f"{100 * far.mean():.0f} %",
                    transform=axis.get_yaxis_transform(),
                    va="center",
                    fontsize=8,
                    color=DARK,
                )
        axis.set_xscale("log")
        axis.set_xlabel(f"distance, {('first', 'second')[view]} view")
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", which="both", color="0.93")
        axis.set_axisbelow(True)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(
            lambda value, _: f"{value:g}" if str(value)[0] in "2357" and value < 100 else ""
        )
        axis.tick_params(axis="x", which="both", labelsize=8)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[0][0].invert_yaxis()
    plt.close(figure)
    return tagged(figure, synthetic)


def chain_figure(
    values: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    *,
    metrics: Sequence[str],
    constant: str,
    synthetic: bool,
) -> Figure:
    """Stages of a chain of systems on each set: seeds as points, their mean with its interval.

    Args:
        values: by ``"set|stage"`` and metric, one (value, low, high) per seed; sets and stages in
            the order in which they are drawn.
        metrics: one panel each.
        constant: the stage that is drawn as a dashed line, one per set.
        synthetic: whether the images are rendered.

    Raises:
        KitError: there is nothing to draw.
    """
    pairs = [key.split("|", 1) for key in values]
    sets = list(dict.fromkeys(subset for subset, _ in pairs))
    stages = list(dict.fromkeys(stage for _, stage in pairs if stage != constant))
    if not stages:
        raise KitError("there is no stage to draw: run the chain first")
    figure, axes = plt.subplots(
        1,
        len(metrics),
        figsize=(3.6 * len(metrics) + 2, 0.6 * len(stages) + 1.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    styles = list(zip((BLUE, ORANGE, GREEN), "osD"))
    for axis, metric in zip(axes[0], metrics):
        for number, subset in enumerate(sets):
            colour, marker = styles[number % len(styles)]
            shift = 0.2 * (number - (len(sets) - 1) / 2)
            for value, *_ in values.get(f"{subset}|{constant}", {}).get(metric, ())[:1]:
                axis.axvline(value, color=colour, ls="--", lw=1.1, alpha=0.8)
            for place, stage in enumerate(stages):
                seeds = values.get(f"{subset}|{stage}", {}).get(metric, ())
                if not seeds:
                    continue
                value, low, high = np.mean(np.array(seeds, float), axis=0)
                axis.plot([low, high], [place + shift] * 2, color=colour, lw=1.8)
                at = [place + shift] * len(seeds)
                axis.plot([seed[0] for seed in seeds], at, "|", color=DARK, ms=9, mew=0.9)
                axis.plot(value, place + shift, marker, color=colour, ms=6)
        axis.set_yticks(range(len(stages)), stages)
        axis.set_xlabel(metric)
        bare(axis)
    axes[0][0].invert_yaxis()
    handles = [
        Line2D([], [], color=colour, marker=marker, lw=1.8, label=f"{subset} set")
        for subset, (colour, marker) in zip(sets, styles)
    ]
    handles.append(Line2D([], [], color=GREY, ls="--", label=f"{constant} (same colours)"))
    handles.append(Line2D([], [], color=DARK, marker="|", lw=0, ms=9, label="single seeds"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    plt.close(figure)
    return tagged(figure, synthetic)
