"""The retrieval wall without a browser: what it counts, its payload, its page, its figure."""

import base64
import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.viz.widgets.parts import FindingMark
from r2genkit.viz.widgets.wall import (
    EMPTY,
    EXTRA,
    MISSING,
    SHARED,
    SIGNS,
    Hit,
    Order,
    WallData,
    WallQuery,
    WallReport,
    WallSentence,
    WallStudy,
    copied,
    copy_counts,
    copy_sentence,
    mean_findings,
    payload,
    relation_counts,
    relations,
    report_payload,
    wall_figure,
    wall_html,
    wall_widget,
)

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
EFFUSION, SCAR, HEART = "pleural effusion", "scar", "enlarged heart"
NAMES = {"effusion": EFFUSION, "scar": SCAR, "heart": HEART}
# Reports of training studies; a word of NAMES affirms its finding, behind "no" it denies it.
TEXTS = {
    "A": "small effusion . no scar .",
    "B": "scar . large heart .",
    "C": "lungs are clear . no scar .",
    "D": "large heart .",
    "E": "small effusion . scar .",
}
REFERENCE = ("small", "effusion", ".", "scar", ".")
SHOWS = {"A": (EFFUSION,), "B": (SCAR, HEART), "C": (), "D": (HEART,), "E": (EFFUSION, SCAR)}


def film(seed, size=64):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    pixels = 170 * np.exp(-2 * (x**2 + y**2)) + rng.normal(0, 8, x.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def marks_of(words):
    marks = []
    for place, word in enumerate(words):
        if word in NAMES:
            denied = place > 0 and words[place - 1] == "no"
            trigger = (place - 1,) if denied else ()
            polarity = "negative" if denied else "positive"
            marks.append(FindingMark(place, place + 1, NAMES[word], polarity, trigger))
    return tuple(marks)


def spans(words):
    first = 0
    for place, word in enumerate(words):
        if word == "." or place + 1 == len(words):
            yield first, place + 1
            first = place + 1


def report_of(text, pool=TEXTS, f1=0.5, bleu4=0.25):
    """Who holds a sentence is found by looking for it as a text, between full stops."""
    words = tuple(text.split())
    sentences = []
    for first, end in spans(words):
        wanted = f". {' '.join(words[first:end])}"
        holders = tuple(name for name in pool if wanted in f". {TEXTS[name]}")
        sentences.append(WallSentence(first, end, holders, 10 * len(holders)))
    return WallReport(words, marks_of(words), f1, bleu4, tuple(sentences))


def written(given):
    """What a model would write that copies from seat 1 and ends as it likes."""
    first = TEXTS[given[0]].split(" . ")[0] + " ." if given[0] else "nothing to see ."
    return f"{first} no scar ."


def query(name="Q1", findings=(EFFUSION, SCAR), **options):
    walls = {
        "image": (Hit("C", 0.61), Hit("A", 0.4), Hit("D", 0.1)),
        "both": (Hit("A", 0.92), Hit("B", 0.81), Hit("C", 0.8)),
        "truth": (Hit("E", 1.0), Hit("A", 0.75), Hit("B", 0.5)),
    }
    given = ("A", "B")
    many = list(itertools.product(("A", EMPTY), ("B", EMPTY)))
    many += [tuple(hit.study for hit in walls[key][:2]) for key in ("image", "truth")]
    texts = [written(one) for one in many]
    different = list(dict.fromkeys(texts))
    content = {
        "id": name,
        "stratum": "two findings",
        "views": (film(1), film(2)),
        "view_names": ("frontal", "lateral"),
        "words": REFERENCE,
        "marks": marks_of(REFERENCE),
        "findings": tuple(findings),
        "predicted": (HEART,),
        "walls": walls,
        "copies": {one: (None if one == "C" else 0.5, 0.1) for one in TEXTS},
        "reports": tuple(report_of(text) for text in different),
        "written": {one: different.index(text) for one, text in zip(many, texts)},
        "given": given,
    }
    return WallQuery(**content | options)


def made(**options):
    studies = {
        name: WallStudy(
            name,
            (film(ord(name), 24), film(ord(name) + 1, 24)),
            tuple(text.split()),
            marks_of(text.split()),
            SHOWS[name],
        )
        for name, text in TEXTS.items()
    }
    orders = [Order(key, f"by {key}", f"Compares {key}.") for key in ("image", "both", "truth")]
    content = {
        "title": "What is like this study",
        "system": "reader",
        "orders": tuple(orders),
        "own": "both",
        "studies": studies,
        "queries": (query(), query("Q2", (), words=("clear", "."), marks=())),
        "synthetic": True,
        "notes": ("Two queries.",),
    }
    return WallData(**content | options)


def answer(question):
    """As the kit's writer answers, by rule."""
    given = tuple(one or EMPTY for one in question["given"])
    if "D" in given:
        raise KitError("study D sits on no seat: choose another.")
    return {"report": report_payload(report_of(written(given), question["pool"], f1=0.75))}


# --- what it counts -------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "shown"), list(itertools.product(SHOWS.values(), repeat=2)))
def test_relations_are_those_of_sets(wanted, shown):
    found = relations(wanted, shown)
    assert set(found[SHARED]) == set(wanted) & set(shown)
    assert set(found[MISSING]) == set(wanted) - set(shown)
    assert set(found[EXTRA]) == set(shown) - set(wanted)
    sizes = [len(set(wanted) & set(shown)), len(set(wanted) - set(shown))]
    want = f"✓{sizes[0]} ○{sizes[1]} ✕{len(set(shown) - set(wanted))}"
    assert relation_counts(wanted, shown) == want


def test_a_copied_sentence_names_the_seats_that_hold_it():
    one = query()
    report = one.report(("A", "B"))
    assert " ".join(report.words) == "small effusion . no scar ."
    assert copied(report, ("A", "B")) == [(0,), (0,)]
    assert copied(report, ("B", "A")) == [(1,), (1,)]
    assert copied(report, ("A", "C")) == [(0,), (0, 1)]
    assert copied(report, (EMPTY, EMPTY)) == [(), ()]


def test_copies_are_counted_with_what_is_written_anyway():
    one = query()
    # "small effusion ." from A; "no scar ." stands in A, and is written with empty seats, too.
    assert copy_counts(one) == {"sentences": 2, "copied": 2, "anyway": 1}
    assert copy_counts(one, (EMPTY, EMPTY)) == {"sentences": 2, "copied": 0, "anyway": 0}
    assert copy_counts(one, ("C", "A")) == {"sentences": 2, "copied": 2, "anyway": 1}
    told = copy_sentence(one)
    assert told.startswith("2 of 2 sentences stand word for word in a report on a seat; the model")
    assert "1 of these with empty seats" in told
    # By seat 1: A, nobody, C, E, of which A and E begin alike.
    assert "With 6 choices of neighbours tried in advance it wrote 3 different reports." in told
    with pytest.raises(KitError, match="with neighbours D, nobody: ask the model"):
        copy_counts(one, ("D", EMPTY))


def test_means_over_neighbours():
    data = made(queries=(query(),))
    # Of A, B, C against effusion and scar.
    assert mean_findings(data, "both", 3) == pytest.approx(
        {SHARED: 2 / 3, MISSING: 4 / 3, EXTRA: 1 / 3}
    )
    assert mean_findings(data, "truth", 1) == {SHARED: 2, MISSING: 0, EXTRA: 0}
    both = made()
    first, second = (mean_findings(both, "image", 2, one) for one in both.queries)
    whole = mean_findings(both, "image", 2)
    assert all(whole[kind] == pytest.approx((first[kind] + second[kind]) / 2) for kind in whole)
    with pytest.raises(KitError, match="has no order 'name': choose image, both, truth"):
        mean_findings(data, "name", 1)


# --- bad data -------------------------------------------------------------------------------------


def broken(**options):
    return made(queries=(query(**options),))


CASES = {
    "the orders of the wall are image, both, truth: give each once, and 'x'": lambda: made(own="x"),
    "has no query": lambda: made(queries=()),
    "different numbers of seats; give one": lambda: made(
        queries=(query(), query("Q2", given=("A",)))
    ),
    "has nothing on its wall 'truth'": lambda: broken(
        walls={"image": (Hit("A", 1.0),), "both": (Hit("A", 1.0),)}
    ),
    "names study Z, which the wall does not hold": lambda: broken(
        walls={key: (Hit("Z", 1.0),) for key in ("image", "both", "truth")}
    ),
    "scores of B for query Q1 are None and nan": lambda: broken(
        copies=dict.fromkeys("ACDE", (0.5, 0.1))
    ),
    "scores of A for query Q1 are 2 and 0.1": lambda: broken(copies=dict.fromkeys(TEXTS, (2, 0.1))),
    "lacks the report written with its own neighbours": lambda: broken(given=("B", "A")),
    "lacks the report written with no neighbour": lambda: broken(written={("A", "B"): 0}),
    "names a report that it does not hold": lambda: broken(
        written={("A", "B"): 0, (EMPTY, EMPTY): 9}
    ),
    "has reports for different numbers of seats": lambda: broken(
        written={("A", "B"): 0, (EMPTY, EMPTY): 0, ("A",): 0}
    ),
    "another number of names": lambda: broken(view_names=("frontal",)),
    "view 1 of query Q1 is no grey image": lambda: broken(views=(np.zeros((4, 4)), film(1))),
    "does not fit the 5 words of query Q1": lambda: broken(
        marks=(FindingMark(3, 8, SCAR, "positive"),)
    ),
    "sentences of a report of query Q1 do not cover its words": lambda: broken(
        reports=tuple(
            dataclasses.replace(report, sentences=report.sentences[1:])
            for report in query().reports
        )
    ),
}


@pytest.mark.parametrize("message", CASES)
def test_parts_that_do_not_belong_together(message):
    with pytest.raises(KitError, match=message) as told:
        CASES[message]()
    assert "\n" not in str(told.value)


# --- payload, page, widget ------------------------------------------------------------------------


def test_payload_holds_what_the_data_hold():
    data = made()
    sent = json.loads(json.dumps(payload(data)))
    assert [order["key"] for order in sent["orders"]] == ["image", "both", "truth"]
    assert sent["own"] == "both" and "phantom radiographs" in sent["synthetic"]
    for one, given in zip(sent["queries"], data.queries):
        assert set(one["pool"]) == set(TEXTS)
        for seats, number in given.written.items():
            key = ",".join(str(one["pool"].index(s)) if s else "-1" for s in seats)
            assert one["written"][key] == number
        assert [one["pool"][place] for place in one["given"]] == list(given.given)
        for study, found in one["neighbours"].items():
            assert set(found[SHARED]) == set(given.findings) & set(SHOWS[study])
            assert set(found[MISSING]) == set(given.findings) - set(SHOWS[study])
            assert set(found[EXTRA]) == set(SHOWS[study]) - set(given.findings)
        assert one["neighbours"]["C"]["f1"] is None and one["neighbours"]["A"]["f1"] == 0.5
        assert (one["choices"], one["different"]) == (len(given.written), len(given.reports))
    for name, study in sent["studies"].items():
        for url, view in zip(study["views"], data.studies[name].views):
            raw = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
            shown = np.asarray(Image.open(io.BytesIO(raw)), dtype=float)
            assert np.abs(shown - view).mean() < 6  # JPEG of a noisy picture


def hostile():
    order = Order("both", HOSTILE, HOSTILE)
    word = HOSTILE.replace(" ", "")
    base = made().studies
    studies = {
        name: dataclasses.replace(
            study,
            words=(word, *study.words[1:]),
            marks=(FindingMark(0, 1, HOSTILE, "positive"),),
            findings=(HOSTILE,),
        )
        for name, study in base.items()
    }
    report = dataclasses.replace(report_of("effusion ."), words=(word, "."))
    one = query(
        HOSTILE,
        (HOSTILE,),
        stratum=HOSTILE,
        words=(word, "."),
        marks=(FindingMark(0, 1, HOSTILE, "positive"),),
        predicted=(HOSTILE,),
        view_names=(HOSTILE, "b"),
        walls={"both": (Hit("A", 1.0), Hit("B", 0.5))},
        reports=(report,),
        written={("A", "B"): 0, (EMPTY, EMPTY): 0},
    )
    return made(
        title=HOSTILE, system=HOSTILE, orders=(order,), studies=studies, queries=(one,),
        notes=(HOSTILE,),
    )  # fmt: skip


def test_hostile_texts_stay_texts():
    page = wall_html(hostile())
    assert HOSTILE not in page and "<img" not in page
    assert page.count("<script") == 2


def test_a_page_without_script_still_holds_the_reports():
    page = wall_html(made())
    noscript = page[page.index("<noscript>") : page.index("</noscript>")]
    for text in ("small effusion . scar .", "small effusion . no scar .", "nothing to see ."):
        assert text in noscript


def test_the_widget_asks_the_writer():
    widget = wall_widget(made(), answer)
    assert widget.data == payload(made()) and widget.answers
    question = {"query": "Q1", "given": ["E", None], "pool": list(TEXTS), "number": 7}
    widget.question = question
    assert widget.answer["number"] == 7
    assert " ".join(widget.answer["report"]["words"]) == "small effusion . no scar ."
    assert widget.answer["report"]["sentences"][0]["holders"] == ["A", "E"]
    widget.question = {**question, "given": ["D", None], "number": 8}
    assert widget.answer == {"error": "study D sits on no seat: choose another.", "number": 8}
    assert not wall_widget(made()).answers


# --- figure ---------------------------------------------------------------------------------------


def test_the_figure_has_a_line_of_tiles_per_order():
    data = made()
    figure = wall_figure(data, 0, tiles=2)
    written_on_it = [text.get_text() for text in figure.texts]
    assert len(figure.axes) == 2 + 3 * 2  # views of the query, tiles
    assert "by both (given to the model)" in written_on_it and "by truth" in written_on_it
    assert "Written with 2 neighbours: finding-F1 0.50, BLEU-4 0.25" in written_on_it
    assert written_on_it.count("cos 1.00, F1 0.50") == 1
    assert "cos 0.61, F1 -" in written_on_it  # neither text states a finding
    # E shares both findings.
    assert sum(text == f"{SIGNS[SHARED]}2" for text in written_on_it) == 1
    # The report copies from seat 1, twice; with empty seats from nobody.
    assert sum(text.endswith("[1]") for text in written_on_it) == 2
    boxed = [text for text in figure.texts if text.get_bbox_patch() is not None]
    assert [text.get_text() for text in boxed] == [
        "small", f"effusion{SIGNS[SHARED]}", ".[1]", "no", "scar", ".[1]"
    ]  # fmt: skip
    assert "synthetic phantom images" in written_on_it
    assert copy_sentence(data.queries[0]) in " ".join(written_on_it)


def test_the_figure_draws_texts_that_look_like_formulas():
    one = query("$x_{", words=("$\\frac{", "."), marks=())
    figure = wall_figure(made(queries=(one,)), tiles=1)
    figure.savefig(io.BytesIO(), format="png", dpi=40)  # would raise in matplotlib's parser
    assert any("\\$x_{" in text.get_text() for text in figure.texts)


def test_the_figure_says_what_it_cannot_draw():
    with pytest.raises(KitError, match="no query 2: the wall has 2"):
        wall_figure(made(), 2)
    with pytest.raises(KitError, match="0 tiles per line show nothing"):
        wall_figure(made(), tiles=0)
