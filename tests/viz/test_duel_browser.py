"""The duel in a real browser: blind at first, votes by mouse and keys, exact sums, ballots out."""

import io
import itertools
import json
import re
import time

import numpy as np
import pytest
from PIL import Image

from r2genkit.intervals import wilson
from r2genkit.metrics import evaluate_reports
from r2genkit.viz.widgets.duel import METRICS, corpus_scores, duel_html, metric_favourites
from r2genkit.viz.widgets.duel_votes import count_votes, read_votes
from tests.duels import TITLES, WRITTEN, made_deck

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def opened(page, tmp_path, deck, width=1200):
    path = tmp_path / "duel.html"
    path.write_text(duel_html(deck), encoding="utf-8")
    page.window(width)
    page.open(path)
    return page


@pytest.fixture(scope="module")
def deck():
    return made_deck()


def state(page):
    return page.js("window.r2genkit.state()")


def seen(page):
    """What can be read in the page."""
    return page.js("document.querySelector('.r2g').innerText")


def shift(page, digit):
    for kind in ("keyDown", "keyUp"):
        page("Input.dispatchKeyEvent", type=kind, key="!", code=f"Digit{digit}", modifiers=8)


def test_before_the_vote_there_are_no_names_no_colours_and_no_scores(page, tmp_path, deck):
    opened(page, tmp_path, deck)
    # "report" and "reference" are words of the instructions; titles are not.
    told = seen(page)
    assert not any(title in told for title in TITLES.values())
    assert not any(name in told for name in METRICS) and "s1" not in told
    assert page.js("document.querySelectorAll('.r2g-blind').length") == 3  # two are the same words
    marked = (
        "['positive', 'negative', 'uncertain', 'trigger']"
        ".map((n) => document.querySelectorAll(`.r2g-card .r2g-${n}`).length)"
    )
    assert page.js(marked) == [0, 0, 0, 0]
    texts = page.js("Array.from(document.querySelectorAll('.r2g-blind'), (e) => e.textContent)")
    order = [keys[0] for keys in deck.studies[0].cards]
    assert [" ".join(text.split()) for text in texts] == [WRITTEN[k]["s1"] for k in order]
    assert page.js("document.querySelector('.r2g-next').disabled")
    assert page.js("document.querySelectorAll('.r2g-views img').length") == 2
    assert "The images are synthetic" in told


def test_a_click_votes_and_shows_who_wrote_what(page, tmp_path, deck):
    opened(page, tmp_path, deck)
    page.click(".r2g-vote", 1)
    told = seen(page)
    assert all(title in told for title in TITLES.values())
    assert "Your vote: A model = The constant." in told  # the same words: one card for both
    now = state(page)
    assert now["revealed"] and now["n"] == 1
    assert now["ballot"]["votes"] == [
        {"study": "s1", "best": ["model", "constant"], "dangerous": []}
    ]
    assert [now["sums"][key]["votes"] for key in ("model", "constant")] == [0.5, 0.5]
    assert page.js("document.querySelectorAll('.r2g-card .r2g-negative').length") > 0
    page.key("2")  # a vote stands
    assert len(state(page)["ballot"]["votes"][0]["best"]) == 2
    page.click(".r2g-next")
    assert state(page)["at"] == 1 and not state(page)["revealed"]
    cards = "document.querySelector('.r2g-cards').innerText"
    assert "A model" not in page.js(cards) and "Report 4" in page.js(cards)
    page.click(".r2g-back")
    assert "your vote" in page.js(cards)


def test_reports_keep_their_findings_apart_by_sign_and_colour(page, tmp_path, deck):
    opened(page, tmp_path, deck)
    page.key("0")
    page.key("ArrowRight")
    page.key("1")
    study = deck.studies[1]
    lines = page.js(
        "Array.from(document.querySelectorAll('.r2g-lines tbody tr'), (row) =>"
        "Array.from(row.children, (cell) => cell.textContent))"
    )
    signs = {"positive": "+", "negative": "\N{MINUS SIGN}", "uncertain": "?", "": ""}
    want = [
        [
            line.title,
            "\N{BLACK CIRCLE}" if line.shown else "",
            *(signs[line.said[keys[0]]] for keys in study.cards),
        ]
        for line in study.lines
    ]
    assert lines == want and len(lines) == 1
    colours = page.js(
        "['positive', 'negative'].map((n) =>"
        "getComputedStyle(document.querySelector(`.r2g-card .r2g-${n}`)).borderBottomColor)"
    )
    assert colours == ["rgb(179, 71, 0)", "rgb(11, 99, 160)"]
    facts = page.js("document.querySelectorAll('.r2g-facts')[0].textContent")
    report = study.reports[study.cards[0][0]]
    assert f"BLEU-4 {report.scores['BLEU-4']:.3f}" in facts
    assert "states 1 of 1; invented: 0" in facts


def test_sums_in_the_page_are_the_scores_of_the_judged_studies(page, tmp_path, deck):
    """After each vote, in another order than the deck's: exactly what Python counts."""
    opened(page, tmp_path, deck)
    judged = []
    for number, key in enumerate("2041"):  # a card, cannot tell, two more
        page.key(key)
        judged.append(deck.studies[number])
        now = state(page)
        assert now["n"] == len(judged)
        ids = [study.id for study in judged]
        for source in deck.sources:
            reports = [study.reports[source.key] for study in judged]
            got, want = now["scores"][source.key], corpus_scores(reports)
            alone = evaluate_reports(
                {one: WRITTEN[source.key][one] for one in ids},
                {one: WRITTEN["reference"][one] for one in ids},
                meteor=False,
                bootstrap=0,
            ).metrics
            for name in METRICS:
                value = np.nan if got[name] is None else got[name]
                assert value == pytest.approx(want[name], abs=1e-12, nan_ok=True)
                if name != "CIDEr":  # whose word rarities stay those of the whole set
                    assert value == pytest.approx(alone[name], abs=1e-12, nan_ok=True)
        (ballot,) = read_votes([now["ballot"]])
        counts = count_votes(ballot)
        for source in deck.sources:
            assert now["sums"][source.key]["votes"] == pytest.approx(counts[source.key])
            low, high = wilson(counts[source.key], len(judged))
            assert now["intervals"][source.key] == pytest.approx([low, high], abs=1e-12)
        assert now["unsure"] == counts["cannot tell"]
        for name in METRICS:
            want = {key: 0.0 for key in TITLES if key != "reference"}
            for study in judged:
                for key, share in metric_favourites(study, "reference")[name].items():
                    want[key] += share
            assert {k: now["metrics"][name][k] for k in want} == pytest.approx(want)
        page.key("ArrowRight")
    shown = page.js(
        "Array.from(document.querySelectorAll('.r2g-scores tr[data-source=constant] td'),"
        " (e) => e.firstChild.textContent)"
    )
    reports = [study.reports["constant"] for study in judged]
    scores, hits = corpus_scores(reports), np.sum([one.hits for one in reports], axis=0)
    assert hits[0] == 0 and hits[2] > 0  # it states no finding
    findings = [f"0 of {hits[2]}", str(hits[1])]
    assert shown == [*(f"{scores[name]:.3f}" for name in METRICS), *findings]


def test_keys_vote_fear_and_step(page, tmp_path, deck):
    opened(page, tmp_path, deck)
    page.key("ArrowRight")  # not before the vote
    page.key("4")  # there are three cards
    assert (state(page)["at"], state(page)["n"]) == (0, 0)
    shift(page, 1)
    shift(page, 3)
    shift(page, 3)  # taken back
    pressed = "Array.from(document.querySelectorAll('.r2g-danger'), (e) => e.ariaPressed)"
    assert page.js(pressed) == ["true", "false", "false"]
    page.key("3")
    (vote,) = state(page)["ballot"]["votes"]
    assert vote == {"study": "s1", "best": ["reference"], "dangerous": ["copied"]}
    assert "you: dangerous" in seen(page) and state(page)["sums"]["copied"]["dangerous"] == 1
    assert page.js("document.activeElement.className").count("r2g-next")  # Enter goes on
    page.key("Enter")
    assert state(page)["at"] == 1
    page.click(".r2g-unsure")
    page.key("ArrowLeft")
    page.key("ArrowLeft")
    assert state(page)["at"] == 0
    for key in ("ArrowRight", "ArrowRight", "1", "ArrowRight", "1", "ArrowRight", "1"):
        page.key(key)
    now = state(page)
    assert now["n"] == 5 and now["unsure"] == 1 and "over all 5 judged studies" in seen(page)
    page.key("ArrowRight")
    assert state(page)["at"] == 4  # the last one


def test_ballots_leave_the_page_as_text_and_as_a_file(page, tmp_path, deck):
    opened(page, tmp_path, deck)
    assert page.js("document.querySelector('details.r2g-section').hidden")
    page.key("2")
    page.click("details summary")
    page.click(".r2g-reader")
    for character in "a1":  # digits are no votes while one writes
        page("Input.dispatchKeyEvent", type="keyDown", key=character, text=character)
    assert state(page)["n"] == 1
    text = page.js("document.querySelector('.r2g-ballot').value")
    (copied,) = read_votes([json.loads(text)])
    assert copied.reader == "a1" and copied.deck == deck.deck
    folder = tmp_path / "downloads"
    page("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.click(".r2g-save")
    limit = time.monotonic() + 60
    while not list(folder.glob("*.json")):
        assert time.monotonic() < limit, "nothing was downloaded"
        time.sleep(0.05)
    (file,) = folder.glob("*.json")
    assert file.name == f"duel-{deck.deck[:6]}-a1.json"
    assert read_votes([file]) == (copied,)
    page.click(".r2g-copy")
    assert page.js("document.querySelector('.r2g-copy').textContent") == "copied"


def test_hostile_texts_stay_text(page, tmp_path):
    deck = made_deck(titles=dict.fromkeys(TITLES, HOSTILE), title=HOSTILE, notes=(HOSTILE,))
    opened(page, tmp_path, deck)
    for key in ("1", "ArrowRight", "2"):
        page.key(key)
    assert page.js("window.hacked") is None
    assert page.js("document.querySelector('h1').textContent") == HOSTILE
    assert page.js("document.querySelectorAll('.r2g img:not(figure img)').length") == 0
    assert seen(page).count("window.hacked") > 6
    asked = [e for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert {re.match(r"\w+:", e["params"]["request"]["url"])[0] for e in asked} <= {
        "file:",
        "data:",
    }


@pytest.mark.parametrize("width", [1200, 360])
def test_it_fits_the_window(page, tmp_path, deck, width):
    opened(page, tmp_path, deck, width)
    for key in ("1", "ArrowRight", "0", "ArrowRight", "3"):
        page.key(key)
    page.js("document.querySelector('details').open = true; 0")
    size = page.js("[document.documentElement.scrollWidth, window.innerWidth]")
    assert size == [width, width]  # nothing to scroll sideways
    wide = page.js(
        "Array.from(document.querySelectorAll('.r2g-views img, .r2g-card'),"
        "(e) => e.getBoundingClientRect().width)"
    )
    assert min(wide) > 130
    inside = page.js(
        "Array.from(document.querySelectorAll('.r2g-wide'), (e) => e.scrollWidth <= e.clientWidth)"
    )
    assert all(inside), inside  # the tables fit, too
    shot = page.screenshot(tmp_path / f"duel_{width}.png")
    assert Image.open(io.BytesIO(shot.read_bytes())).size[0] == width
    print(f"screenshot: {shot}")


def test_a_vote_is_painted_at_once(page, tmp_path, deck, record_property):
    opened(page, tmp_path, deck)
    times = []
    for key in itertools.chain.from_iterable(("1", "ArrowRight") for _ in deck.studies):
        page.js(
            "window.painted = new Promise((done) => document.addEventListener('keydown', (e) =>"
            "requestAnimationFrame(() => { const c = new MessageChannel();"
            "c.port1.onmessage = () => done(performance.now() - e.timeStamp);"
            "c.port2.postMessage(0); }), { once: true })); 0"
        )
        page.key(key)
        times.append(page.js("window.painted"))
    record_property("vote_ms", sorted(round(one, 1) for one in times))
    print(f"key to painted frame: median {np.median(times):.1f} ms, worst {max(times):.1f} ms")
    # The aim is 50 ms; machines that run other work beside the test get room.
    assert np.median(times) < 1000


def test_inside_jupyterlab(lab, tmp_path):
    """A key of the notebook is a vote here, and the ballot reaches the kernel."""
    tab = lab(
        """
from IPython.display import display
from r2genkit.viz.widgets.duel import duel_widget
from r2genkit.viz.widgets.duel_votes import read_votes, votes_sentence
from tests.duels import made_deck

duel = duel_widget(made_deck())
display(duel)
"""
    )
    figure = "document.querySelector('.r2g').r2genkit"
    assert tab.js(f"{figure}.state().revealed") is False
    tab.click(".r2g-duel .r2g-place")  # nothing in the figure has the focus yet
    tab.js("document.querySelector('.r2g-stage').focus(); 0")
    tab.key("3")  # would make a heading of the cell
    assert tab.js(f"{figure}.state().revealed") is True
    assert "human reference" in tab.js("document.querySelector('.r2g-cards').innerText")
    print(f"screenshot: {tab.screenshot(tmp_path / 'duel_in_jupyterlab.png')}")
    # The kernel counts what it was told.
    tab.js(
        """(async () => {
        const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
        const counted = kernel.requestExecute({
            code: "print(votes_sentence(read_votes([duel.told])))" });
        window.printed = '';
        counted.onIOPub = (message) => { window.printed += message.content.text || ''; };
        await counted.done;
        })()"""
    )
    kinds = "jupyterapp.shell.currentWidget.content.widgets.map((cell) => cell.model.type)"
    assert set(tab.js(kinds)) == {"code"}
    assert "1 reader, 1 vote: the human reference was called best in 1 of 1" in tab.js("printed")
