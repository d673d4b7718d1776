"""The phantom bench without a browser: what a report says, what followed, payload, page, figure."""

import base64
import dataclasses
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import traitlets

from r2genkit.errors import KitError
from r2genkit.metrics.findings import default_labeler
from r2genkit.viz.bench import rates_figure
from r2genkit.viz.widgets import bench
from r2genkit.viz.widgets.bench import (
    FRONT,
    Statement,
    bench_figure,
    bench_html,
    bench_widget,
    follow,
    main_states,
    pair_payload,
    partners,
    patch_cover,
    payload,
    sentence_numbers,
    statement,
)
from tests.viz.made_bench import (
    AFTER,
    BEFORE,
    GONE,
    GRID,
    HEART_FINDING,
    LEFT,
    RIGHT,
    SIZE,
    effusion,
    made,
    maps,
    state,
)

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


# --- what a report says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told", "words", "sentence", "sides", "said"),
    [
        ("there is a small right pleural effusion .", "stated", (6,), 0, ("right",), ("small",)),
        ("no pleural effusion or pneumothorax .", "denied", (2,), 0, (), ()),
        ("the lungs are clear .", "not mentioned", (), -1, (), ()),
        ("possible pleural effusion .", "doubted", (2,), 0, (), ()),
        # What is stated wins over what is denied elsewhere, and sides come from what is stated.
        (
            "no left pleural effusion . there are bilateral pleural effusions .",
            "stated",
            (9,),
            1,
            ("left", "right"),
            (),
        ),
    ],
)
def test_what_a_report_says_of_a_finding(text, told, words, sentence, sides, said):
    found = statement(text.split(), "effusion")
    assert (found.told, found.words, found.sentence) == (told, words, sentence)
    assert (found.sides, found.said) == (sides, said)


def test_it_agrees_with_the_labeler():
    """On reports of several sentences, for every finding that they name."""
    labeler = default_labeler()
    reports = [" ".join(words) for words in (BEFORE, AFTER, GONE)] + [
        "left-sided effusion . opacity may represent atelectasis . no nodule .",
        "heart size is normal . there is no pneumothorax but a right-sided nodule .",
    ]
    seen = set()
    for text in reports:
        labels = labeler.label(text)
        for kind in labeler.findings:
            found = statement(text.split(), kind)
            assert found.polarity == labels.get(kind, "absent"), (text, kind)
            seen.add(found.polarity)
    assert seen == {"positive", "negative", "uncertain", "absent"}


def test_a_full_stop_ends_its_own_sentence():
    assert sentence_numbers(["a", "b", ".", "c", ".", "d"]) == [0, 0, 0, 1, 1, 2]
    assert sentence_numbers(()) == []


def test_partners_are_the_words_that_both_reports_keep():
    there, back = partners(["a", "b", "c", "d", "e"], ["x", "b", "c", "y", "e"])
    assert there == [-1, 1, 2, -1, 4] and back == [-1, 1, 2, -1, 4]
    there, back = partners(["a", "b", "c"], ["b", "c"])
    assert there == [-1, 0, 1] and back == [1, 2]


def test_a_patch_is_covered_by_the_share_of_its_pixels():
    rng = np.random.default_rng(0)
    mask = rng.random((2, 12, 10)) < 0.4
    got = patch_cover(mask, 3, 4).reshape(2, 3, 4)
    columns = np.linspace(0, 10, 5).round().astype(int)  # not all of one width
    for view in range(2):
        for row in range(3):
            for column in range(4):
                part = mask[view, 4 * row : 4 * row + 4, columns[column] : columns[column + 1]]
                assert got[view, row, column] == pytest.approx(part.mean())


# --- what followed ------------------------------------------------------------------------------


def test_the_share_inside_is_counted_patch_by_patch():
    data = made()
    before, after = data.states[:2]
    found = follow(before, after, "0")
    side = SIZE // GRID
    for which, mask in ((0, RIGHT), (1, LEFT)):
        cover = mask.reshape(2, GRID, side, GRID, side).mean((2, 4))
        assert found.chance[which] == pytest.approx(cover.mean())
        for at, words in ((0, BEFORE), (1, AFTER)):
            values = maps(words)
            for t in range(len(words)):
                want = (values[t] * cover).sum() / values[t].sum()
                assert found.inside[at][t, which] == pytest.approx(want)
    (own,) = found.said[0].words
    assert BEFORE[own] == "effusion"
    assert found.word_inside(after=False, new=True) == pytest.approx(found.inside[0][own, 1])
    assert found.inside[0][own, 1] > 0.3 > found.inside[0][own, 0]  # its hot patch is on the left


def test_what_is_not_drawn_has_no_place():
    data = made()
    found = follow(data.states[0], data.states[2], "0")
    assert np.isnan(found.chance[1]) and np.isnan(found.inside[1][:, 1]).all()
    assert found.where == ("mild right", None) and found.should == (True, False)
    assert np.isfinite(found.word_inside(True, False))  # a denied finding has words, too
    silent = state("silent", ["the", "heart", "is", "enlarged", "."])
    assert np.isnan(follow(data.states[0], silent, "0").word_inside(True, False))


@pytest.mark.parametrize(
    ("words", "findings", "verdict", "told"),
    [
        (GONE, (), "followed", "is gone, and the report no longer states it (denied)"),
        (BEFORE, (), "not followed", "is gone, and the report still states it"),
        (AFTER, (effusion("left", LEFT),), "followed", "the report now says left"),
        (BEFORE, (effusion("left", LEFT),), "not followed", "the report still says right"),
        (
            ["there", "is", "a", "pleural", "effusion", "."],
            (effusion("left", LEFT),),
            "not followed",
            "names no side",
        ),
        (GONE, (effusion("left", LEFT),), "lost", "no longer states it (denied)"),
        (BEFORE, (effusion("right", RIGHT, "large"),), "kept", "in the same way"),
        (
            ["a", "large", "right", "pleural", "effusion", "."],
            (effusion("right", RIGHT, "large"),),
            "kept",
            "said of it: small, right, now large, right",
        ),
        (BEFORE, (effusion("right", RIGHT),), "kept", "Nothing about pleural effusion was changed"),
        (GONE, (effusion("right", RIGHT),), "unprovoked", "it was stated and is now denied"),
    ],
)
def test_verdicts(words, findings, verdict, told):
    data = made()
    found = follow(data.states[0], state("after", words, *findings), "0")
    assert found.verdict == verdict and told in found.sentence


def test_verdicts_of_what_is_added_or_was_never_stated():
    without = state("before", GONE)
    drawn = effusion("left", LEFT, key="+1")
    assert follow(without, state("after", AFTER, drawn), "+1").verdict == "followed"
    assert follow(without, state("after", GONE, drawn), "+1").verdict == "not followed"
    early = state("before", BEFORE)
    found = follow(early, state("after", BEFORE, drawn), "+1")
    assert found.verdict == "nothing to follow" and "before it was there" in found.sentence
    silent = state("before", GONE, effusion("right", RIGHT))
    assert follow(silent, state("after", GONE), "0").verdict == "nothing to follow"
    found = follow(silent, state("after", GONE, effusion("left", LEFT)), "0")
    assert found.verdict == "nothing to follow" and "neither" in found.sentence
    found = follow(silent, state("after", AFTER, effusion("left", LEFT)), "0")
    assert found.verdict == "found"


def test_a_second_finding_of_the_type_still_asks_for_its_statement():
    other = effusion("left", LEFT, key="2")
    before = state("before", BEFORE, effusion("right", RIGHT), other)
    found = follow(before, state("after", GONE, other), "0")
    assert found.should == (True, True) and found.verdict == "lost"


def test_nothing_follows_what_neither_state_draws():
    data = made()
    with pytest.raises(KitError, match="draws the finding '7'"):
        follow(*data.states[:2], "7")


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attention": maps(BEFORE)[:-1]}, r"expected \[T, V, h, w\] with T = 13 words"),
        ({"attention": maps(BEFORE) * 2}, "leaves the range 0 to 1"),
        ({"sentences": (0, 1)}, "13 words and 2 sentence numbers"),
        ({"findings": (HEART_FINDING, HEART_FINDING)}, "share a key"),
        ({"findings": (effusion("left", LEFT[:, :9]),)}, "mask of 'pleural effusion'"),
        ({"tags": {"effusion": (0.5, 1.5)}}, "two probabilities"),
        ({"views": (np.zeros((4, 4)),) * 2}, "no grey image"),
    ],
)
def test_a_state_whose_parts_do_not_fit_is_refused(changes, told):
    with pytest.raises(KitError, match=told):
        state("odd", BEFORE, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"states": ()}, "no state to show"),
        ({"focus": "9"}, "no state draws the finding '9'"),
        ({"view_names": ("frontal",)}, "same views"),
        ({"states": made().states[:1] * 2}, "same title"),
        ({"systems": ("other", "reader")}, "name it first"),
    ],
)
def test_a_bench_whose_states_do_not_fit_is_refused(changes, told):
    with pytest.raises(KitError, match=told):
        made(**changes)


# --- payload, page, widget ----------------------------------------------------------------------


def test_the_payload_holds_what_was_computed():
    data = made()
    content = payload(data)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert "synthetic" in content["synthetic"] and content["called_at"] == 0.45
    assert [one["title"] for one in content["states"]] == [one.title for one in data.states]
    second = content["states"][1]
    got = np.frombuffer(base64.b64decode(second["map"]["bytes"]), np.uint8)
    assert np.abs(got / 255 - data.states[1].attention.ravel()).max() <= 0.5 / 255 + 1e-6
    assert [bool(path) for path in second["findings"][0]["paths"]] == [True, False]
    (own, heart) = content["pairs"][1]["follows"]
    assert (own["key"], heart["key"]) == ("0", "1")
    assert own["verdict"] == "followed" and own["roads"] == ["stated", "stated"]
    found = follow(*data.states[:2], "0")
    assert np.allclose(own["inside"][1], found.inside[1], atol=5e-5)
    assert own["tags"] == [[0.8, 0.99], [0.8, 0.99]]
    gone = content["pairs"][2]["follows"][0]
    assert gone["chance"][1] is None and gone["where"] == ["mild right", None]
    assert content["pairs"][2]["follows"][1]["tags"] is None  # no tag of it in that state
    assert content["kinds"][1]["places"]["left"] == ["lingula", "apex"]
    assert content["kinds"][1]["start"] == {"side": "right", "place": "apex", "severity": "mild"}


def test_no_text_ends_the_script():
    first = dataclasses.replace(made().states[0], title=HOSTILE, words=(HOSTILE,) * 13)
    page = bench_html(made(title=HOSTILE, system=HOSTILE, notes=(HOSTILE,), states=(first,)))
    assert page.count("<script") == 2 and "<img" not in page
    (content,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
    assert json.loads(content)["states"][0]["words"] == [HOSTILE] * 13


def test_the_widget_says_how_to_get_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(KitError, match=r"pip install 'r2genkit\[widgets\]'"):
        bench_widget(made())


def test_the_widget_hands_questions_to_python(monkeypatch):
    class AnyWidget(traitlets.HasTraits):
        """Its traits without its front end."""

    monkeypatch.setitem(sys.modules, "anywidget", SimpleNamespace(AnyWidget=AnyWidget))
    asked = []

    def answer(question):
        asked.append(question)
        first, second = made().states[:2]
        return {"pair": pair_payload(first, second)}

    widget = bench_widget(made(), answer)
    assert widget.data["focus"] == "0" and widget.answers
    widget.question = {"findings": [], "number": 1}
    assert asked == [{"findings": []}]
    assert widget.answer["pair"]["follows"][0]["verdict"] == "followed"


def test_the_style_touches_no_other_figure():
    heads = [line.split("{")[0] for line in FRONT.rules.splitlines() if "{" in line]
    assert heads and all(".r2g-bench" in head or head.startswith("@") for head in heads)


# --- figure -------------------------------------------------------------------------------------


def texts(figure):
    own = [text.get_text() for text in figure.texts]
    return own + [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_figure_shows_the_main_states():
    large = state("large", BEFORE, effusion("right", RIGHT, "large"))
    small = state("borderline", BEFORE, effusion("right", RIGHT, "borderline"))
    data = made(states=(*made().states, small, large))
    assert main_states(data) == [0, 1, 4, 2]  # as it is, elsewhere, larger, gone
    figure = bench_figure(data)
    shown = " ".join(" ".join(texts(figure)).split())
    titles = ("as it is", "effusion on the left", "large", "without effusion")
    assert all(title in shown for title in titles) and "borderline" not in shown
    assert "pleural effusion: stated +" in shown
    assert "pleural effusion: denied \N{MINUS SIGN}" in shown
    assert "Had only the tags changed: denied. Only the patches: stated." in shown
    assert "synthetic phantom images" in shown


def test_the_figure_shows_the_numbers_of_the_payload():
    data = made()
    found = follow(data.states[0], data.states[1], "0")
    figure = bench_figure(data, [1])
    shown = " ".join(texts(figure))
    assert (
        f"{found.word_inside(True, True):.0%} in new place (even: {found.chance[1]:.0%})" in shown
    )
    bars = [axis for axis in figure.axes if axis.patches and axis.get_xlim() == (0, 1)]
    assert [bar.get_width() for bar in bars[0].patches] == [0.8]
    films = [axis for axis in figure.axes if axis.images]
    assert len(films) >= 2
    assert np.array_equal(films[0].images[0].get_array(), data.states[1].views[0])


def test_a_state_without_the_word_or_the_tag_can_be_drawn():
    silent = state("silent", ("clear", "."), tags={})
    figure = bench_figure(made(states=(*made().states, silent)), [3])
    shown = " ".join(texts(figure))
    assert "the report has no word for it" in shown and "no tag of it" in shown


def test_an_empty_report_can_be_shown():
    silent = state("silent", ())
    data = made(states=(*made().states, silent))
    content = payload(data)
    assert content["states"][3]["words"] == []
    assert content["pairs"][3]["follows"][0]["said"][1]["told"] == "not mentioned"
    figure = bench_figure(data, [3])
    assert "the report has no word for it" in " ".join(texts(figure))


@pytest.mark.parametrize(
    ("data", "states", "told"),
    [
        (made(), [5], "states 0 to 2"),
        (made(), [], "asked for none"),
        (made(focus=""), None, "about no finding"),
    ],
)
def test_a_figure_of_nothing_is_refused(data, states, told):
    with pytest.raises(KitError, match=told):
        bench_figure(data, states)


def test_importing_it_loads_no_model_code():
    code = "import sys; import r2genkit.viz.widgets.bench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_statements_are_compared_by_what_they_say():
    assert bench.STATEMENTS[Statement("absent").polarity] == "not mentioned"
    assert set(bench.STATEMENTS) == {"positive", "uncertain", "negative", "absent"}


# --- rates --------------------------------------------------------------------------------------


def test_rates_are_drawn_where_they_are():
    from r2genkit.experiments.bench_follow import Rate  # brings torch

    def line(kind, change, **rates):
        return {"kind": kind, "change": change, "trials": 8, "others": 1.0} | rates

    names = ("tag", "report", "only tags", "only patches")
    rates = pd.DataFrame(
        [
            line("effusion", "remove", **dict(zip(names, map(Rate, (4, 3, 3, 0), (4, 4, 4, 4))))),
            line("all", "remove", **dict(zip(names, map(Rate, (4, 3, 3, 0), (4, 4, 4, 4))))),
            line("effusion", "add", **dict(zip(names, map(Rate, (1, 0, 0, 0), (5, 0, 5, 5))))),
        ]
    )
    titles = {"effusion": "pleural effusion"}
    figure = rates_figure(rates, titles=titles)
    removed, added = figure.axes

    def drawn(axis, count):
        """Lines of so many points, from above."""
        lines = [one for one in axis.lines if len(one.get_xdata()) == count]
        return [tuple(one.get_xdata()) for one in sorted(lines, key=lambda one: one.get_ydata()[0])]

    def spans(axis):
        return [span for span in drawn(axis, 2) if span != (0, 1)]  # without lines between rows

    assert drawn(removed, 1) == [(1,), (0.75,), (0.75,), (0,)] * 2
    ends = [Rate(4, 4), Rate(3, 4), Rate(3, 4), Rate(0, 4)]
    assert spans(removed) == [rate.interval for rate in ends] * 2
    # Nothing to follow: no mark of the report, three of the others.
    assert drawn(added, 1) == [(0.2,), (0,), (0,)]
    assert [text.get_text() for text in removed.get_yticklabels()] == [
        "pleural effusion\n(n = 4)",
        "all of them\n(n = 4)",
    ]
    assert any("synthetic" in text.get_text() for text in figure.texts)
    assert not rates_figure(rates, titles=titles, synthetic=False).texts
    with pytest.raises(KitError, match="no rates to draw"):
        rates_figure(rates.iloc[:0])
