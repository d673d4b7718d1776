"""The scrubber without a browser: its data against the trace, its payload, its page, its figure."""

import base64
import dataclasses
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.metrics.findings import default_labeler
from r2genkit.study import Hypothesis
from r2genkit.viz.widgets import scrubber
from r2genkit.viz.widgets.parts import (
    FindingMark,
    fading,
    mark_findings,
    normalised,
    outline,
    peaks,
    quantised,
    shares,
)
from r2genkit.viz.widgets.scrubber import (
    ScrubberReport,
    payload,
    scrubber_data,
    scrubber_figure,
    scrubber_html,
    scrubber_widget,
    side_by_side,
    with_maps,
)

TEXT = "small right pleural effusion . no pneumothorax ."
WORDS = tuple(TEXT.split())
HOSTILE = "</script><script>alert(1)</script><!--\"'&\u2028"


def attention(shape, seed=0):
    """Random weights that sum to 1 over the last two axes (views and patches)."""
    values = np.random.default_rng(seed).exponential(size=shape)
    return (values / values.sum((-2, -1), keepdims=True)).astype(np.float32)


def films(views=2, size=28):
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (size, size)).astype(np.uint8) for _ in range(views)]


def flat(text=TEXT, **trace):
    count = len(text.split())
    return Hypothesis("s1", text, trace={"attention": attention((count, 2, 9)), **trace})


# --- data ---------------------------------------------------------------------------------------


def test_maps_are_the_trace_over_the_strongest_patch_of_each_word():
    report = flat()
    data = scrubber_data(report, films(), title="t", system="s")
    (one,) = data.reports
    assert one.words == WORDS and list(one.maps) == ["average"]
    seen = report.trace["attention"]
    for t in range(len(WORDS)):
        strongest = max(seen[t, view, patch] for view in range(2) for patch in range(9))
        for view in range(2):
            for patch in range(9):
                got = one.maps["average"][t, view, patch // 3, patch % 3]
                assert got == pytest.approx(seen[t, view, patch] / strongest)
    assert one.maps["average"].dtype == np.float32
    assert peaks(one.maps["average"]) == pytest.approx(seen.max((1, 2)) * 18, rel=1e-5)
    assert shares(one.maps["average"]) == pytest.approx(seen.sum(2), rel=1e-5)
    assert one.sentences is None and data.view_names == ("frontal", "lateral")


def test_every_layer_and_head_of_a_transformer_is_a_map():
    heads = attention((len(WORDS), 2, 3, 2, 9), seed=3)
    report = flat(cross_attention=heads, attention=heads[:, -1].mean(1))
    (one,) = scrubber_data(report, films()).reports
    names = [f"layer {layer} head {head}" for layer in (1, 2) for head in (1, 2, 3)]
    assert list(one.maps) == ["average", *names]
    got = one.maps["layer 2 head 1"]
    want = heads[:, 1, 0].reshape(-1, 2, 3, 3)
    assert got == pytest.approx(want / want.max((1, 2, 3), keepdims=True))
    assert "3 heads of decoder layer 2" in one.about["average"]
    sent = payload(scrubber_data(report, films()))["reports"][0]["maps"]
    assert [entry["head"] for entry in sent[:3]] == [None, [1, 1], [1, 2]]


def test_sentences_of_a_hierarchical_model():
    numbers = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    rows = attention((2, 2, 9))[numbers]
    (one,) = scrubber_data(flat(attention=rows, sentence=numbers), films()).reports
    assert one.sentences == tuple(numbers)
    assert (one.maps["average"][0] == one.maps["average"][4]).all()
    assert "once per sentence" in one.about["average"]


def test_an_absent_second_view_is_left_out():
    seen = attention((len(WORDS), 2, 9))
    seen[:, 1] = 0
    data = scrubber_data(flat(attention=seen), films(1))
    assert data.reports[0].maps["average"].shape == (len(WORDS), 1, 3, 3)
    assert data.view_names == ("view 1",)


def test_a_word_without_attention_stays_empty():
    values = np.zeros((2, 1, 2, 2))
    values[1, 0, 0, 1] = 3
    assert normalised(values)[0].max() == 0 and normalised(values)[1].max() == 1
    assert peaks(values).tolist() == [0, 4]
    assert shares(values).tolist() == [[0], [1]]


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "the heart is not enlarged . possible right-sided effusion , no pneumothorax",
        ". . the lungs are clear . heart size normal .",
    ],
)
def test_findings_are_those_of_the_labeler(text):
    words = text.split()
    labeler = default_labeler()
    marks = mark_findings(words)
    told = labeler.explain(text)
    assert told and len(marks) == len(told)
    for mark, mention in zip(marks, told):
        assert mark.title == labeler.titles[mention.finding]
        assert mark.polarity == mention.polarity
        spoken = " ".join(words[mark.first : mark.end]).replace("-", " ")
        assert mention.phrase in spoken
        assert all(words[place].replace("-", " ") in mention.trigger for place in mark.trigger)


def test_words_of_a_denied_finding():
    affirmed, denied = mark_findings(WORDS)
    assert (affirmed.polarity, affirmed.end, affirmed.trigger) == ("positive", 4, ())
    assert denied == FindingMark(6, 7, denied.title, "negative", (5,))


def test_more_maps_and_numbers_join_later():
    data = scrubber_data(flat(), films(), more_maps={"occlusion": attention((8, 2, 4))})
    assert data.reports[0].maps["occlusion"].shape == (8, 2, 2, 2)
    more = with_maps(
        data,
        {"gradient": 5 * attention((8, 2, 9)).reshape(8, 2, 3, 3)},
        about={"gradient": "Gradient of the word."},
        numbers={"average": "Swap test: 12 %.", "gradient": "Swap test: 30 %."},
    )
    assert list(more.reports[0].maps) == ["average", "occlusion", "gradient"]
    assert more.reports[0].maps["gradient"].max() == 1
    sent = {entry["name"]: entry for entry in payload(more)["reports"][0]["maps"]}
    assert sent["average"]["number"] == "Swap test: 12 %."
    assert sent["gradient"]["about"] == "Gradient of the word."
    assert list(data.reports[0].maps) == ["average", "occlusion"]  # the old one is left as it was
    with pytest.raises(KitError, match=r"there is no report 1: the data hold 1"):
        with_maps(data, report=1)


def test_two_systems_over_the_same_images():
    ramp = np.linspace(0, 255, 40)
    views = [np.tile(one, (40, 1)).astype(np.uint8) for one in (ramp, 0.5 * ramp)]
    first = scrubber_data(flat(), views, system="A", notes=("one", "two"))
    smaller = [np.asarray(Image.fromarray(view).resize((32, 32))) for view in views]
    second = scrubber_data(flat("heart normal ."), smaller, system="B", notes=("two",))
    both = side_by_side(first, second)
    assert [report.title for report in both.reports] == ["A", "B"]
    assert both.notes == ("one", "two")
    other = scrubber_data(flat(), views[::-1], system="C")
    with pytest.raises(KitError, match="'A' and 'C' are about different images"):
        side_by_side(first, other)
    with pytest.raises(KitError, match="nothing to compare"):
        side_by_side()


# --- bad input ----------------------------------------------------------------------------------


def test_bad_traces_are_told_in_one_sentence():
    cases = {
        "no trace of attention": (Hypothesis("s1", TEXT), films()),
        "report of s1 is empty": (flat(""), films()),
        "8 patches of 'average' are no 2 x 2 grid": (
            flat(attention=attention((8, 2, 8))),
            films(),
        ),
        r"'average' \[7, 2, 3, 3\] does not fit 8 words": (
            flat(attention=attention((7, 2, 9))),
            films(),
        ),
        "does not fit 8 words and 1 views": (flat(), films(1)),  # attention on a view not given
        "does not fit 8 words and 3 views": (flat(), films(3)),
        "expected \\[T, layers, heads, V, S\\]": (flat(cross_attention=np.ones((8, 2))), films()),
        "negative or missing": (flat(attention=attention((8, 2, 9)) - 1), films()),
        "view 1 is no grey image": (flat(), [view / 255 for view in films()]),
    }
    for message, (report, views) in cases.items():
        with pytest.raises(KitError, match=message) as told:
            scrubber_data(report, views)
        assert "\n" not in str(told.value)


def test_data_that_do_not_belong_together():
    data = scrubber_data(flat(), films())
    (report,) = data.reports
    maps = report.maps
    with pytest.raises(KitError, match="has no map to show"):
        ScrubberReport("r", WORDS, {})
    with pytest.raises(KitError, match=r"expected \[T, V, h, w\] with T = 8"):
        ScrubberReport("r", WORDS, {"average": np.ones((8, 9))})
    with pytest.raises(KitError, match="leaves the range 0 to 1"):
        ScrubberReport("r", WORDS, {"average": 2 * maps["average"]})
    with pytest.raises(KitError, match="leaves the range 0 to 1"):
        ScrubberReport("r", WORDS, {"average": np.nan * maps["average"]})
    with pytest.raises(KitError, match="different numbers of views"):
        ScrubberReport("r", WORDS, {"a": maps["average"], "b": maps["average"][:, :1]})
    with pytest.raises(KitError, match="numbers of report 'r' names 'gradient'"):
        ScrubberReport("r", WORDS, maps, numbers={"gradient": "x"})
    with pytest.raises(KitError, match="8 words and 2 sentence numbers"):
        ScrubberReport("r", WORDS, maps, sentences=(0, 1))
    with pytest.raises(KitError, match="finding 'x'"):
        ScrubberReport("r", WORDS, maps, findings=(FindingMark(7, 9, "x", "positive"),))
    with pytest.raises(KitError, match="1 names for 2 views"):
        dataclasses.replace(data, view_names=("a",))
    with pytest.raises(KitError, match="no report to show"):
        dataclasses.replace(data, reports=())
    with pytest.raises(KitError, match="over 2 views and there are 1"):
        dataclasses.replace(data, views=data.views[:1], view_names=("a",))
    with pytest.raises(KitError, match=r"mask 'nodule' .* does not cover the views"):
        dataclasses.replace(data, masks={"nodule": np.zeros((2, 5, 5), bool)})


# --- payload ------------------------------------------------------------------------------------


def test_quantised_maps_are_off_by_half_a_step_at_most():
    data = scrubber_data(flat(), films())
    values = data.reports[0].maps["average"]
    (sent,) = payload(data)["reports"][0]["maps"]
    back = np.frombuffer(base64.b64decode(sent["bytes"]), np.uint8).reshape(values.shape)
    assert sent["grid"] == [3, 3]
    error = np.abs(back / 255 - values).max()
    assert 0 < error <= 0.5 / 255 + 1e-7  # not equal, and as the page says below 0.2 %
    assert quantised(np.array([0, 1, 0.4999 / 255, 0.5001 / 255])).tolist() == [0, 255, 0, 1]
    assert sent["peaks"] == pytest.approx(peaks(values), abs=5e-4)


def test_outline_goes_around_the_mask():
    mask = np.zeros((6, 6), bool)
    mask[1:3, 2:5] = True
    drawn = outline(mask)
    parts = set(re.findall(r"M\d+ \d+[hv]\d+", drawn))
    assert parts == {"M2 1h3", "M2 3h3", "M2 1v2", "M5 1v2"}
    assert outline(np.zeros((4, 4), bool)) == ""
    full = re.findall(r"[hv](\d+)", outline(np.ones((4, 4), bool)))
    assert [int(length) for length in full] == [4, 4, 4, 4]  # also at the border


# --- page ---------------------------------------------------------------------------------------


class _Reader(HTMLParser):
    """Elements, and the text of scripts and styles, as a browser's parser sees them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.inside, self.policy = [], {}, ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]

    def handle_data(self, text):
        tag, found = self.elements[-1] if self.elements else ("", {})
        if tag in ("script", "style"):  # white space behind the end of an element follows, too
            self.inside.setdefault((tag, found.get("type", "")), text)


def hostile():
    data = scrubber_data(flat(), films(), title=HOSTILE, system=HOSTILE, notes=(HOSTILE,))
    words = (HOSTILE.replace(" ", ""), *WORDS[1:])
    report = dataclasses.replace(
        data.reports[0],
        words=words,
        maps={"average": data.reports[0].maps["average"], HOSTILE: np.zeros((8, 2, 2, 2))},
        about={"average": HOSTILE},
        numbers={HOSTILE: HOSTILE},
        findings=(FindingMark(0, 1, HOSTILE, "uncertain"),),
    )
    masks = {HOSTILE: np.ones((2, 28, 28), bool)}
    return dataclasses.replace(
        data, reports=(report,), view_names=(HOSTILE, "b"), masks=masks, synthetic=True
    )


def test_hostile_texts_stay_texts():
    page = scrubber_html(hostile())
    found = _Reader(page)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 2 and "img" not in tags
    content = json.loads(found.inside["script", "application/json"])
    assert content == payload(hostile())  # what arrives is what was sent, to the letter
    assert content["reports"][0]["title"] == HOSTILE
    assert "<" not in found.inside["script", "application/json"]
    assert "alert(1)</script>" not in page


def test_only_the_pages_own_script_and_style_may_run():
    found = _Reader(scrubber_html(scrubber_data(flat(), films())))
    rules = dict(rule.strip().split(" ", 1) for rule in found.policy.split(";"))
    assert rules["default-src"] == rules["connect-src"] == "'none'"
    assert rules["img-src"] == "data:"

    def digest(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules["script-src"] == digest(found.inside["script", "module"])
    assert rules["style-src"] == digest(found.inside["style", ""])
    for _, attributes in found.elements:
        assert not {"src", "href", "style", "onload", "onclick"} & set(attributes)
    script = found.inside["script", "module"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")


def test_page_says_that_images_are_synthetic_only_where_they_are():
    said = [
        _Reader(scrubber_html(scrubber_data(flat(), films(), synthetic=flag))).inside[
            "script", "application/json"
        ]
        for flag in (True, False)
    ]
    assert "phantom radiographs" in said[0] and "phantom" not in said[1]


def test_page_without_script_still_holds_the_report():
    page = scrubber_html(scrubber_data(flat(), films(), system="R2Gen"))
    noscript = page[page.index("<noscript>") : page.index("</noscript>")]
    assert TEXT in noscript and "R2Gen" in noscript


# --- widget -------------------------------------------------------------------------------------


def test_widget_without_anywidget_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)  # importing it fails
    with pytest.raises(KitError, match=r"pip install 'r2genkit\[widgets\]'"):
        scrubber_widget(scrubber_data(flat(), films()))


# --- figure -------------------------------------------------------------------------------------


def texts_of(figure):
    inside = [text for axis in figure.axes for text in [axis.title, *axis.texts]]
    return [text.get_text() for text in [*inside, *figure.texts]]


def test_figure_shows_words_numbers_and_both_reports(tmp_path):
    data = with_maps(
        scrubber_data(flat(), films(), system="A", synthetic=True),
        numbers={"average": "Swap test: 12 % of $words$."},
    )
    both = side_by_side(data, scrubber_data(flat("no effusion ."), films(), system="B"))
    figure = scrubber_figure(both, ["effusion", 6])
    told = texts_of(figure)
    assert "4. effusion +" in told and "7. pneumothorax \N{MINUS SIGN}" in told
    assert "2. effusion \N{MINUS SIGN}" in told and "not written" in told  # B has three words
    share = shares(data.reports[0].maps["average"])[3]
    high = peaks(data.reports[0].maps["average"])[3]
    assert f"peak {high:.1f} x even, {share[0]:.0%} | {share[1]:.0%}" in told
    assert any(text.replace("\n", " ").startswith("A: average. Swap test") for text in told)
    assert "synthetic phantom images" in told
    figure.savefig(tmp_path / "figure.png")  # texts with $ must not be read as formulas
    assert not plt.get_fignums()


def test_figure_draws_the_maps_of_the_page():
    data = scrubber_data(flat(), films(2, 27), more_maps={"head": attention((8, 2, 9), seed=5)})
    figure = scrubber_figure(data, [2], maps=["head"])
    panel = next(axis for axis in figure.axes if axis.get_title().startswith("3."))
    heat = panel.images[1]
    values = data.reports[0].maps["head"][2]
    # Pixel 13 of 27 is the middle of the second of three patches.
    for view in range(2):
        want = scrubber.OPACITY * np.sqrt(values[view, 1, 1])
        assert heat.get_alpha()[13, 27 * view + 13] == pytest.approx(want, rel=1e-5)


def test_figure_chooses_words_of_findings_and_fades_an_even_look():
    data = scrubber_data(flat(), films())
    (report,) = data.reports
    even = {"average": report.maps["average"].copy()}
    even["average"][6] = 1  # pneumothorax
    data = dataclasses.replace(data, reports=(dataclasses.replace(report, maps=even),))
    figure = scrubber_figure(data, limit=2)
    panels = [axis for axis in figure.axes if axis.get_title()[:1].isdigit()]
    wanted = sorted(mark.first for mark in report.findings)
    assert [int(axis.get_title().split(".")[0]) - 1 for axis in panels] == wanted
    assert panels[0].images[1].get_alpha().max() > 0.3
    assert panels[1].images[1].get_alpha().max() == 0
    plain = dataclasses.replace(report, findings=())
    figure = scrubber_figure(dataclasses.replace(data, reports=(plain,)), limit=3)
    assert sum(axis.get_title()[:1].isdigit() for axis in figure.axes) == 3


def test_an_even_look_is_not_drawn():
    assert fading(np.array([0, 1, 1.25, 2, 9])).tolist() == [0, 0, 0.25, 1, 1]


def test_figure_of_nothing():
    data = scrubber_data(flat(), films())
    with pytest.raises(KitError, match="no report has a map called rollout: choose from average"):
        scrubber_figure(data, maps=["rollout"])
    with pytest.raises(KitError, match=r"none of the words \['nodule'\]"):
        scrubber_figure(data, ["nodule"])
