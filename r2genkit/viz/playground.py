"""Edit one report and watch every metric: what an n-gram score notices, and what it does not.

The static table and figure are the lesson; :func:`playground` adds a text box where a live kernel
and ``ipywidgets`` are at hand. The callback is a plain method (:meth:`Playground.update`), so that
it works, and is tested, without any widget.
"""

from __future__ import annotations

import html
import importlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from r2genkit.errors import KitError
from r2genkit.metrics import METRICS, finding_f1, score_nlg
from r2genkit.metrics.findings import default_labeler
from r2genkit.seeds import numpy_rng
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import split_sentences

DENIALS = ("no", "not", "without")
NORMAL_REPORT = (
    "the heart is normal in size . the lungs are clear . no pneumothorax . no pleural effusion ."
)
WORDINGS = {
    "there is": "the image shows",
    "cardiomegaly": "enlarged heart",
    "heart size is": "the size of the heart is",
    "enlarged": "increased in size",
    "small": "little",
    "mild": "slight",
    "pleural effusion": "pleural fluid",
    "lungs are clear": "lungs are free of disease",
    "unremarkable": "normal",
    "opacity": "opacification",
    "no ": "no evidence of ",
}
"""Other words for the same thing, replaced in this order."""
COLUMNS = (*METRICS, "finding-F1")


def _sentences(report: str) -> list[str]:
    return split_sentences(clean_report(report))


def _join(sentences: Iterable[str]) -> str:
    return " ".join(f"{sentence} ." for sentence in sentences if sentence)


def drop_denials(report: str) -> str:
    """The report without "no", "not" and "without": it affirms what it denied."""
    return _join(
        " ".join(word for word in sentence.split() if word not in DENIALS)
        for sentence in _sentences(report)
    )


def swap_sides(report: str) -> str:
    """Left becomes right and right becomes left."""
    other = {"left": "right", "right": "left"}
    return _join(
        " ".join(other.get(word, word) for word in sentence.split())
        for sentence in _sentences(report)
    )


def shuffle_sentences(report: str, seed: int = 0) -> str:
    """The same sentences in another order (reversed if the draw gives the old one)."""
    sentences = _sentences(report)
    order = numpy_rng(seed, "playground").permutation(len(sentences))
    if (order == np.arange(len(sentences))).all():
        order = order[::-1]
    return _join(sentences[i] for i in order)


def other_wording(report: str) -> str:
    """The same statements in other words (``WORDINGS``)."""
    sentences = []
    for sentence in _sentences(report):
        padded = f"{sentence} "
        for old, new in WORDINGS.items():
            padded = re.sub(rf"\b{re.escape(old)}", new, padded)
        sentences.append(padded.strip())
    return _join(sentences)


def drop_statements(report: str) -> str:
    """The report without the sentences that state a finding."""
    labeler = default_labeler()
    return _join(
        sentence
        for sentence in _sentences(report)
        if not any(m.polarity == "positive" for m in labeler.mentions_of_sentence(sentence))
    )


EDITS: Mapping[str, Callable[[str], str]] = {
    "copy": lambda report: _join(_sentences(report)),
    "sentences shuffled": shuffle_sentences,
    "other wording": other_wording,
    "left and right swapped": swap_sides,
    '"no" dropped': drop_denials,
    "findings left out": drop_statements,
    "constant normal report": lambda report: NORMAL_REPORT,
}
"""Instructive edits by name: the first three mean the same as before, the others do not."""


def edited(report: str) -> dict[str, str]:
    """The report after every edit of ``EDITS`` that changes it, and the copy.

    Raises:
        KitError: the report is empty.
    """
    if not report.strip():
        raise KitError("Nothing to edit: the report is empty; give a text.")
    copy = EDITS["copy"](report)
    texts = {name: change(report) for name, change in EDITS.items()}
    return {name: text for name, text in texts.items() if name == "copy" or text != copy}


class Playground:
    """Scores any text against one reference.

    Args:
        reference: report that counts as right.
        background: other references, e.g. those of the test set; CIDEr takes its document
            frequencies from them and the reference (one text alone would give every n-gram the
            weight 0).
        meteor: whether to compute METEOR (needs Java; NaN without).

    Raises:
        KitError: the reference is empty.
    """

    def __init__(
        self, reference: str, background: Iterable[str] = (), *, meteor: bool = True
    ) -> None:
        self.reference = clean_report(reference)
        if not self.reference:
            raise KitError("Nothing to compare with: the reference is empty; give a text.")
        self.background = tuple(clean_report(text) for text in background)
        self.meteor = meteor
        self.last: pd.DataFrame | None = None

    def score(self, texts: Mapping[str, str]) -> pd.DataFrame:
        """One row per text: the seven metrics, finding-F1 (NaN: no finding on either side),
        and what the text states.
        """
        texts = {name: clean_report(text) for name, text in texts.items()}
        wanted = dict.fromkeys(texts, self.reference)
        table = score_nlg(texts, wanted, meteor=self.meteor).per_study[list(METRICS)].copy()
        table.index.name = "text"
        table["CIDEr"] = [self._cider(text) for text in texts.values()]
        table["finding-F1"] = finding_f1(texts, wanted).per_study_f1
        labeler = default_labeler()
        table["states"] = [
            ", ".join(n for n, p in labeler.label(text).items() if p == "positive") or "nothing"
            for text in texts.values()
        ]
        return table

    def _cider(self, text: str) -> float:
        """CIDEr of one text; the background only lends its document frequencies."""
        if not self.background:
            return math.nan
        references = {"": self.reference} | {str(i): t for i, t in enumerate(self.background)}
        hypotheses = dict.fromkeys(references, "") | {"": text}
        scores = score_nlg(hypotheses, references, meteor=False).per_study
        return float(scores.loc["", "CIDEr"])

    def update(self, text: str) -> str:
        """Score an edited text and return the table as HTML: the callback of the text box."""
        self.last = self.score({"your text": text})
        shown = self.last.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value)
        cells = "".join(
            f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(shown[name].iloc[0]))}</td></tr>"
            for name in shown
        )
        return f"<table>{cells}</table>"


def playground_figure(table: pd.DataFrame) -> Figure:
    """Texts by metrics, each column shaded from 0 to its largest value, with the values.

    Args:
        table: as ``Playground.score`` gives; columns without any value are left out.

    Raises:
        KitError: the table is empty.
    """
    if table.empty:
        raise KitError("Nothing to draw: the table of edits is empty.")
    values = table[[name for name in COLUMNS if table[name].notna().any()]].astype(float)
    shade = values / values.max().replace(0, 1)
    marks = values.map(lambda value: "–" if math.isnan(value) else f"{value:.2f}")
    figure = Figure(
        figsize=(0.85 * values.shape[1] + 2.6, 0.38 * len(values) + 1.0),
        dpi=80,
        layout="constrained",
    )
    axis = figure.subplots()
    sns.heatmap(
        shade,
        annot=marks.to_numpy(),
        fmt="",
        vmin=0,
        vmax=1.7,  # dark text stays readable on the darkest cell
        cmap="Blues",
        cbar=False,
        linewidths=0.8,
        annot_kws={"fontsize": 9, "color": "0.1"},
        ax=axis,
    )
    axis.set(xlabel="", ylabel="")
    axis.xaxis.tick_top()
    axis.tick_params(labelsize=9, length=0)
    axis.tick_params(axis="y", rotation=0)
    return figure


def playground(
    report: str,
    reference: str,
    *,
    background: Iterable[str] = (),
    meteor: bool = True,
    interactive: bool = False,
    show: Callable[[Any], None] | None = None,
) -> tuple[pd.DataFrame, Figure]:
    """The edits of a report scored against a reference, as table and figure; a text box on request.

    Args:
        report: text that is edited (see ``EDITS``).
        reference: text that counts as right; may be the same.
        background, meteor: see ``Playground``.
        interactive: also build a text box whose scores follow what is typed.
        show: displays the box (``IPython.display.display``); required when interactive.

    Raises:
        KitError: an empty text; or ``interactive`` without ``ipywidgets`` or ``show``.
    """
    game = Playground(reference, background, meteor=meteor)
    texts = edited(report)
    table = game.score(texts)
    table["report"] = list(texts.values())
    if interactive:
        if show is None:
            raise KitError("A text box needs a way to appear: pass show=display.")
        show(text_box(game, report))
    return table, playground_figure(table)


def text_box(game: Playground, text: str, widgets: ModuleType | None = None) -> Any:
    """A text area above a table of scores that follows it.

    Args:
        game: does the scoring.
        text: what the box holds at first.
        widgets: the module ``ipywidgets``; imported if not given.

    Raises:
        KitError: ``ipywidgets`` is not installed.
    """
    if widgets is None:
        try:
            widgets = importlib.import_module("ipywidgets")
        except ImportError:
            raise KitError(
                "The text box needs ipywidgets: pip install ipywidgets, or set interactive = False."
            ) from None
    area = widgets.Textarea(
        value=text,
        continuous_update=False,  # one scoring when the box is left, not one per key
        layout=widgets.Layout(width="100%", height="7em"),
    )
    scores = widgets.HTML(game.update(text))

    def follow(change: Mapping[str, Any]) -> None:
        scores.value = game.update(change["new"])

    area.observe(follow, names="value")
    return widgets.VBox([area, scores])
