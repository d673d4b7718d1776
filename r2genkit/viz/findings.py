"""Reports with their findings marked, as HTML for notebooks.

Colour alone never carries the meaning: each mention bears a sign, and the legend names signs and
colours. Colours follow the palette of Okabe and Ito (2008), which readers with colour-vision
deficiency can tell apart; the blue and the yellow are shifted a little, to stand out on dark pages
and on white ones. Everything is inline, so the view survives saving, exporting and e-mailing a
notebook.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from IPython.display import HTML

from r2genkit.errors import KitError
from r2genkit.metrics.findings import OTHER, FindingLabeler, Mention, default_labeler
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import split_sentences

SIGNS: dict[str, str] = {"positive": "+", "negative": "−", "uncertain": "?"}
"""Sign beside a mention."""

# Hit, false and missed are about a report against its reference.
_VERDICTS = {
    "hit": ("✓", "stated by both"),
    "false": ("✗", "not affirmed by the reference"),
    "missed": ("○", "missed by the report"),
}

# Vermillion, blue and yellow underlines over a faint tint; text keeps the colour of the page, so
# that it can be read on white and on black.
_STYLE = """
#{id} {{ font: 15px/2.1 system-ui, sans-serif; max-width: 60em; color: inherit; }}
#{id} h4 {{ font-size: 13px; margin: 0.6em 0 0; opacity: 0.75; font-weight: 600; }}
#{id} p {{ margin: 0; }}
#{id} .m {{ border-bottom: 3px solid var(--c); background: var(--t); border-radius: 3px 3px 0 0;
  padding: 1px 3px; }}
#{id} sup {{ font-weight: 700; font-size: 11px; margin-left: 1px; line-height: 1; }}
#{id} .g {{ border: 1px dashed currentColor; border-radius: 3px; padding: 0 2px; }}
#{id} .positive {{ --c: #d55e00; --t: rgba(213, 94, 0, 0.18); }}
#{id} .negative {{ --c: #1f83c4; --t: rgba(31, 131, 196, 0.22); border-bottom-style: dashed; }}
#{id} .uncertain {{ --c: #b8860b; --t: rgba(230, 159, 0, 0.22); border-bottom-style: dotted; }}
#{id} .legend {{ font-size: 12px; line-height: 1.9; opacity: 0.9; margin-top: 0.5em; }}
#{id} .legend i {{ font-style: normal; margin-right: 1.1em; }}
#{id} ul {{ margin: 0.1em 0 0; padding-left: 1.3em; line-height: 1.6; }}
"""

_NUMBERS = count(1)


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _disjoint(mentions: Sequence[Mention]) -> list[list[Mention]]:
    """Mentions in runs of overlapping spans: each run becomes one mark."""
    runs: list[list[Mention]] = []
    end = -1
    for mention in sorted(mentions, key=lambda m: m.span):
        if runs and mention.span[0] < end:
            runs[-1].append(mention)
        else:
            runs.append([mention])
        end = max(end, mention.span[1])
    return runs


def _sentence(
    words: Sequence[str],
    mentions: Sequence[Mention],
    titles: Mapping[str, str],
    verdicts: Mapping[str, str],
) -> str:
    boxed = set().union(*(mention.trigger_words() for mention in mentions))

    def plain(start: int, end: int) -> str:
        return " ".join(
            f'<span class="g">{_escape(words[i])}</span>' if i in boxed else _escape(words[i])
            for i in range(start, end)
        )

    parts, place = [], 0
    for run in _disjoint(mentions):
        start, end = run[0].span[0], max(mention.span[1] for mention in run)
        if start > place:
            parts.append(plain(place, start))
        place = end
        # Of mentions that overlap, the strongest polarity gives the colour; signs show them all.
        order = ("positive", "uncertain", "negative")
        shown = sorted(run, key=lambda m: order.index(m.polarity))
        tip = "\n".join(
            f"{titles[m.finding]}: {m.polarity}"
            + (f" (trigger: {m.trigger})" if m.trigger else "")
            + (f" [{_VERDICTS[verdicts[m.finding]][1]}]" if _marked(m, verdicts) else "")
            + f"\nrule: {m.rule}"
            for m in shown
        )
        signs = dict.fromkeys(SIGNS[m.polarity] for m in shown)
        signs |= dict.fromkeys(
            _VERDICTS[verdicts[m.finding]][0] for m in shown if _marked(m, verdicts)
        )
        parts.append(
            f'<span class="m {shown[0].polarity}" title="{_escape(tip)}">{plain(start, end)}'
            f"<sup>{''.join(signs)}</sup></span>"
        )
    if place < len(words):
        parts.append(plain(place, len(words)))
    return " ".join(parts) + "."


def _marked(mention: Mention, verdicts: Mapping[str, str]) -> bool:
    return mention.polarity == "positive" and mention.finding in verdicts


def _paragraph(text: str, labeler: FindingLabeler, verdicts: Mapping[str, str]) -> str:
    mentions: dict[int, list[Mention]] = {}
    for mention in labeler.explain(text):
        mentions.setdefault(mention.sentence_index, []).append(mention)
    sentences = split_sentences(clean_report(text))
    if not sentences:
        return "<p><em>(empty report)</em></p>"
    body = " ".join(
        _sentence(sentence.replace("-", " ").split(), mentions.get(i, ()), labeler.titles, verdicts)
        for i, sentence in enumerate(sentences)
    )
    return f"<p>{body}</p>"


def _legend(compared: bool) -> str:
    entries = [
        ('<span class="m positive">word<sup>+</sup></span>', "affirmed"),
        ('<span class="m negative">word<sup>−</sup></span>', "denied or stated normal"),
        ('<span class="m uncertain">word<sup>?</sup></span>', "doubted"),
        ('<span class="g">word</span>', "trigger of denial or doubt"),
    ]
    if compared:
        entries += [(f"<b>{sign}</b>", meaning) for sign, meaning in _VERDICTS.values()]
    body = " ".join(f"{mark} <i>{meaning}</i>" for mark, meaning in entries)
    return f'<div class="legend">{body}</div>'


def _compare(report: str, reference: str, labeler: FindingLabeler) -> dict[str, dict[str, str]]:
    """Verdict by finding for the marks of the report and of the reference."""
    found, wanted = labeler.label(report), labeler.label(reference)
    stated = {name for name, label in found.items() if label == "positive"} - {OTHER}
    true = {name for name, label in wanted.items() if label == "positive"} - {OTHER}
    return {
        "report": {name: "hit" if name in true else "false" for name in stated},
        "reference": {name: "hit" if name in stated else "missed" for name in true},
    }


def findings_html(
    report: str, *, reference: str | None = None, labeler: FindingLabeler | None = None
) -> HTML:
    """A report with its findings marked by polarity, and compared with a reference if there is one.

    Each mention is underlined and signed: + affirmed, − denied or stated normal, ? doubted; the
    words that turned it are boxed. The tooltip gives finding, polarity, trigger and rule. With a
    reference both texts are shown; affirmed findings are marked ✓ (stated by both), ✗ (in the
    report only) or ○ (missed), and the three are listed. Findings of type "other" are marked by
    polarity but not compared, as they are not scored; a doubted finding counts as not affirmed,
    the default policy of finding-F1.

    Args:
        report: report, raw or cleaned; shown as the labeler saw it (lower case).
        reference: report to compare with.
        labeler: other rules than the kit's.

    Returns:
        Self-contained HTML with inline style, readable on light and dark pages.

    Raises:
        KitError: a report is no string.
    """
    for text in (report, *(() if reference is None else (reference,))):
        if not isinstance(text, str):
            raise KitError(f"A report must be text but is {type(text).__name__}: pass a string.")
    labeler = labeler or default_labeler()
    name = f"r2genkit-findings-{next(_NUMBERS)}"
    style = f"<style>{_STYLE.format(id=name)}</style>"
    parts = marked_parts(report, reference, labeler)
    if reference is None:
        return HTML(f'<div id="{name}">{style}{parts.report}{_legend(False)}</div>')
    body = (
        f"<h4>Report</h4>{parts.report}<h4>Reference</h4>{parts.reference}<ul>{parts.verdicts}</ul>"
    )
    return HTML(f'<div id="{name}">{style}{body}{_legend(True)}</div>')


@dataclass(frozen=True)
class MarkedParts:
    """Pieces of marked HTML, for pages that place them themselves (style: ``findings_style``).

    Attributes:
        report: paragraph of the report.
        reference: paragraph of the reference, "" without one.
        verdicts: list items of hits, false and missed findings, "" without a reference.
    """

    report: str
    reference: str = ""
    verdicts: str = ""


def marked_parts(
    report: str, reference: str | None = None, labeler: FindingLabeler | None = None
) -> MarkedParts:
    """A report, and a reference if there is one, with findings marked (see ``findings_html``)."""
    labeler = labeler or default_labeler()
    if reference is None:
        return MarkedParts(_paragraph(report, labeler, {}))
    verdicts = _compare(report, reference, labeler)
    lists = {
        "hit": [f for f, verdict in verdicts["report"].items() if verdict == "hit"],
        "false": [f for f, verdict in verdicts["report"].items() if verdict == "false"],
        "missed": [f for f, verdict in verdicts["reference"].items() if verdict == "missed"],
    }
    heads = {"hit": "Hits", "false": "False findings", "missed": "Missed findings"}
    items = "".join(
        f"<li>{_VERDICTS[kind][0]} {heads[kind]} ({len(names)}): "
        f"{_escape('; '.join(sorted(labeler.titles[f] for f in names))) or '–'}</li>"
        for kind, names in lists.items()
    )
    return MarkedParts(
        _paragraph(report, labeler, verdicts["report"]),
        _paragraph(reference, labeler, verdicts["reference"]),
        items,
    )


def findings_style(name: str) -> str:
    """CSS of marked reports inside the element with the id ``name``."""
    return _STYLE.format(id=name)


def findings_legend(compared: bool) -> str:
    """Legend of signs and colours; ``compared``: with those of a comparison."""
    return _legend(compared)
