"""The microscope in a real browser: mouse, keyboard, slots, trials, hostile text, JupyterLab."""

import io
import statistics
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from r2genkit.viz.widgets.microscope import (
    SlotUse,
    Trial,
    meeting,
    microscope_html,
    payload,
)
from r2genkit.viz.widgets.parts import FindingMark
from tests.viz.test_microscope import (
    CROP,
    GRID,
    HEADS,
    MARKS,
    SLOTS,
    WORDS,
    made,
    rewriting,
)

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LAYERS = HEADS + 1


def opened(page, tmp_path, data, width=1200):
    page.show(microscope_html(data), tmp_path, width)


def point_patch(page, view, row, column):
    """Move a real mouse to the middle of a patch."""
    x, y, width, height = page.js(
        f"(() => {{ const e = document.querySelectorAll('.r2g-film')[{view}];"
        "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
        "return [b.x, b.y, b.width, b.height]; })()"
    )
    place = x + (column + 0.5) / GRID * width, y + (row + 0.5) / GRID * height
    page.mouse("mouseMoved", *place)
    return place


def percent(share):
    return f"{round(100 * share)}\u202f%"


def test_pointing_at_a_word_lights_up_the_patches_that_share_its_slots(page, tmp_path):
    data = made()
    found = meeting(data)
    opened(page, tmp_path, data)
    start = page.state()
    assert start["word"] == 2  # the affirmed finding
    assert start["patch"] == found.own[2, 0].argmax()
    for row in (5, 1):
        page.hover(".r2g-right .r2g-word", row)
        assert page.state()["word"] == row
        for view in (0, 1):
            pixels = page.pixels(".r2g-heat", view)
            size = pixels.shape[0] // GRID
            alpha = pixels[size // 2 :: size, size // 2 :: size, 3]
            top = max(found.own[row, 0].max(), data.elsewhere[row, 0].max())
            shown = (alpha / (0.7 * 255)) ** 2 * top  # opacity goes with the root
            want = found.own[row, 0, view].reshape(GRID, GRID)
            assert np.abs(shown - want).max() <= 0.02
        own, chance, elsewhere = (
            each[row, 0].mean() for each in (found.own, found.chance, data.elsewhere)
        )
        line = page.texts(".r2g-wordline")[0]
        assert line.startswith(f"\u201c{data.readers[row]}\u201d over all patches: {100 * own:.1f}")
        assert f"shuffled slots {100 * chance:.1f}" in line
        assert f"in other studies {100 * elsewhere:.1f}" in line
        assert (
            f"do there (dots): {found.rare[row, 0]} of {2 * GRID**2}; in other studies 0 to 3"
            in line
        )
        dots = page.js("document.querySelectorAll('.r2g-cursor circle').length")
        assert dots == found.rare[row, 0]


def test_pointing_at_a_patch_shades_the_words_and_compares(page, tmp_path):
    data = made()
    found = meeting(data)
    opened(page, tmp_path, data)
    point_patch(page, 1, 2, 3)
    patch = GRID**2 + 2 * GRID + 3
    assert page.state()["patch"] == patch
    line = page.texts(".r2g-pairline")[0]
    own, chance = found.own[2, 0, 1, 11], found.chance[2, 0, 1, 11]
    assert f"lateral, row 3, column 4: {percent(own)} of their reading" in line
    assert f"shuffled slots: {percent(chance)}" in line
    assert f"{percent(data.reached[2, 0, 1, 11])} of them share at least as much" in line
    shades = page.js(
        "Array.from(document.querySelectorAll('.r2g-right .r2g-word'), (e) => e.style.background)"
    )
    alphas = [float(s.split(",")[-1].rstrip(")")) if "rgba" in s else 0 for s in shades]
    want = 0.55 * found.own[:, 0, 1, 11] / found.own[:, 0].max()
    want[2] = 0  # the word at hand has its own look
    np.testing.assert_allclose(alphas, want, atol=0.005)
    # What both read stands in both lists, marked.
    listed = page.js(
        "['.r2g-of-word', '.r2g-of-patch'].map((s) => Array.from("
        "document.querySelectorAll(s + ' button'), (e) => [e.dataset.slot, e.className]))"
    )
    for (mine, other), entries in zip(
        (
            (data.word_reads.slots[2], data.patch_reads.slots[1, 11]),
            (data.patch_reads.slots[1, 11], data.word_reads.slots[2]),
        ),
        listed,
    ):
        assert len(entries) == mine.size
        for name, kind in entries:
            head, slot = map(int, name.split("/"))
            assert slot in mine[head]
            assert (kind == "r2g-both") == (slot in other[head])


def test_one_head_and_the_same_places_of_other_studies(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    page.click(".r2g-segment button[data-value='2']")
    page.click(".r2g-segment button[data-value='elsewhere']")
    assert page.state()["layer"] == 2 and page.state()["map"] == "elsewhere"
    want = data.elsewhere[2, 2].mean(-1)
    shown = [page.texts(".r2g-share")[view] for view in (0, 1)]
    assert shown == [f"mean {percent(one)}" for one in want]
    assert page.js("document.querySelectorAll('.r2g-cursor circle').length") == 0
    page.click(".r2g-segment button[data-value='difference']")
    gap = meeting(data).own[2, 2, 0] - data.elsewhere[2, 2, 0]
    pixels = page.pixels(".r2g-heat", 0)
    size = pixels.shape[0] // GRID
    patch = int(np.abs(gap).argmax())
    row, column = divmod(patch, GRID)
    red, _, blue, _ = pixels[row * size + size // 2, column * size + size // 2]
    assert (red > blue) == (gap[patch] > 0)


def test_the_slot_at_hand_shows_who_reads_it(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    head, slot = page.state()["slot"]
    page.click(".r2g-segment button[data-value='slot']")
    weights = data.patch_reads.dense(SLOTS)[..., head, slot]  # [V, S]
    assert weights.max() > 0
    for view in (0, 1):
        assert page.texts(".r2g-share")[view] == f"mean {percent(weights[view].mean())}"
        pixels = page.pixels(".r2g-heat", view)
        size = pixels.shape[0] // GRID
        alpha = pixels[size // 2 :: size, size // 2 :: size, 3]
        shown = (alpha / (0.7 * 255)) ** 2 * weights.max()
        assert np.abs(shown - weights[view].reshape(GRID, GRID)).max() <= 0.02
    of_words = data.word_reads.dense(SLOTS)[:, head, slot]
    page.hover(".r2g-right .r2g-word", int(of_words.argmin()))
    shade = page.js(
        f"document.querySelectorAll('.r2g-right .r2g-word')[{of_words.argmax()}].style.background"
    )
    assert float(shade.split(",")[-1].rstrip(")")) == pytest.approx(0.55, abs=0.005)


def test_pins_and_keys(page, tmp_path):
    opened(page, tmp_path, made())
    page.click(".r2g-right .r2g-word", 4)
    page.hover(".r2g-right .r2g-word", 1)
    assert (page.state()["word"], page.state()["word_pinned"]) == (4, True)
    for name, word in (("ArrowRight", 5), ("Home", 0), ("ArrowLeft", 0), ("End", len(WORDS))):
        page.key(name)
        assert page.state()["word"] == word, name
    assert page.js("document.activeElement.dataset.row") == str(len(WORDS))
    page.key("Escape")
    assert not page.state()["word_pinned"]
    page.key("Enter")
    assert page.state()["word_pinned"]
    x, y = point_patch(page, 0, 1, 1)
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, x, y, button="left", clickCount=1)
    assert page.state()["patch_pinned"]
    point_patch(page, 0, 3, 3)
    assert page.state()["patch"] == GRID + 1
    page.js("document.querySelectorAll('.r2g-film')[0].focus()")
    page.key("ArrowRight")
    page.key("ArrowDown")
    assert page.state()["patch"] == 2 * GRID + 2
    page.key("Escape")
    assert not page.state()["patch_pinned"]


def test_a_slot_shows_its_readers_and_dead_ones_say_so(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    order = data.use.order.tolist()
    assert (
        "12 slots: 10 are read by something, 2 by nothing in 40" in page.texts(".r2g-panel h2")[0]
    )

    def choose(slot):
        page.js("document.querySelector('.r2g-slots').focus()")
        while (at := page.state()["slot"][1]) != slot:
            page.key("ArrowRight" if order.index(at) < order.index(slot) else "ArrowLeft")

    choose(0)
    page.click(".r2g-card .r2g-segment button", 1)  # head 2
    assert page.state()["slot"] == [1, 0]
    card = page.texts(".r2g-card")[0]
    share = 100 * data.use.words[1, 0]
    assert f"{share:.1f}\u202f% of the words' reading" in card
    assert "heart \u00d7\u202f4.0" in card and "s1, effusion" in card
    pixels = page.pixels(".r2g-crops canvas", 0)
    assert pixels.shape[:2] == (CROP, CROP)
    crop = data.use.cards[1, 0].crops[1][0].pixels
    page.wait("document.querySelectorAll('.r2g-crops canvas').length === 2")
    inner = page.pixels(".r2g-crops canvas", 1)[25:35, 25:35, 0]
    assert np.abs(inner - crop[25:35, 25:35].astype(int)).mean() < 14  # JPEG
    choose(11)
    assert "a dead slot" in page.texts(".r2g-card")[0]
    # A real click on the field of slots: the first cell is the slot that is read most.
    x, y = page.js(
        "(() => { const b = document.querySelector('.r2g-slots').getBoundingClientRect();"
        "return [b.x + 12, b.y + 12]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, x, y, button="left", clickCount=1)
    assert page.state()["slot"][1] == order[0]
    page.js("document.querySelector('.r2g-slots').focus()")
    page.key("Enter")
    assert page.state()["without"] == [order[0]] and page.texts(".r2g-count")[0] == "1 slot"
    assert page.texts(".r2g-away")[0] == "taken away"
    page.click(".r2g-clear")
    assert page.state()["without"] == []


def test_a_page_shows_what_was_written_beforehand_and_cannot_write_again(page, tmp_path):
    second = Trial(rewriting(("new", *WORDS), (7,), "slot 7", MARKS), ())
    data = made(trials=(*made().trials, second))
    opened(page, tmp_path, data)
    assert page.state()["trial"] == [1, 2]
    struck = page.js("Array.from(document.querySelectorAll('del'), (e) => e.innerText)")
    assert [one.split("\u2212")[0] for one in struck] == list(WORDS[3:])
    assert (
        "findings no longer written: \u2212 pneumothorax"
        in page.texts(".r2g-outcome .r2g-findings")[0]
    )
    page.click(".r2g-prepared button", 1)
    assert page.state()["trial"] == [7] and page.state()["without"] == [7]
    assert page.js("Array.from(document.querySelectorAll('ins'), (e) => e.innerText)") == ["new"]
    assert page.js("document.querySelector('.r2g-again').disabled") is True
    assert "needs the model" in page.texts(".r2g-actions .r2g-note")[0]
    page.click(".r2g-add-word")
    read = set(data.word_reads.slots[2].ravel().tolist())
    assert set(page.state()["without"]) == {7} | read


def test_no_text_is_markup_and_the_page_asks_for_nothing(page, tmp_path):
    use = made().use
    (at, card), *_ = use.cards.items()
    crop = replace(card.crops[0][0], caption=HOSTILE)
    cards = {at: replace(card, words=((HOSTILE, 2.0),), crops=((crop, 0.5),))}
    trial = Trial(
        rewriting((HOSTILE,), about=HOSTILE, findings=(FindingMark(0, 1, HOSTILE, "positive"),))
    )
    data = made(
        title=HOSTILE, system=HOSTILE, notes=(HOSTILE,), words=(HOSTILE, *WORDS[1:]),
        view_names=(HOSTILE, "b"), findings=(FindingMark(0, 1, HOSTILE, "positive"),),
        masks={HOSTILE: made().masks["effusion"]}, trials=(trial,),
        use=SlotUse(use.patches, use.words, 1, cards),
    )  # fmt: skip
    opened(page, tmp_path, data)
    page.hover(".r2g-right .r2g-word", 1)
    assert page.js("window.hacked === undefined") and page.js("document.scripts.length") == 2
    assert page.texts("h1")[0] == HOSTILE and page.texts(".r2g-right .r2g-word")[1].startswith(
        HOSTILE
    )
    asked = [e for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert {e["params"]["request"]["url"].split(":")[0] for e in asked} <= {"file", "data"}


@pytest.mark.parametrize("width", [1200, 360])
def test_it_fits_the_window_and_follows_the_pointer(page, tmp_path, width):
    opened(page, tmp_path, made(), width)
    times = [
        page.painted_ms(lambda row=row: page.hover(".r2g-right .r2g-word", row))
        for row in (*range(len(WORDS)), *range(len(WORDS)))
    ]
    print(f"hover to painted frame: median {statistics.median(times):.1f} ms")
    assert page.js("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    wide = page.js("document.querySelector('.r2g-film img').getBoundingClientRect().width")
    assert wide > 130
    shot = page.screenshot(tmp_path / f"microscope_{width}.png")
    assert Image.open(io.BytesIO(shot.read_bytes())).size[0] == width
    print(f"screenshot: {shot}")


def test_inside_jupyterlab(lab, tmp_path):
    """A live kernel: pointing repaints, slots taken away come back as another report."""
    tab = lab(
        """
from IPython.display import display
from r2genkit.errors import KitError
from r2genkit.viz.widgets.microscope import Trial, microscope_widget, trial_payload
from tests.viz.test_microscope import MARKS, WORDS, made, rewriting

def answer(question):
    slots = tuple(question["without"])
    if len(slots) > 3:
        raise KitError("too many slots: take fewer.")
    trial = Trial(rewriting(("new", *WORDS), slots, f"{len(slots)} of them", MARKS))
    return trial_payload(trial, WORDS, MARKS)

display(microscope_widget(made(trials=()), answer))
"""
    )
    figure = "document.querySelector('.r2g').r2genkit"
    before = tab.pixels(".r2g-heat")
    tab.hover(".r2g-right .r2g-word", 5)
    assert tab.js(f"{figure}.state().word") == 5
    assert (tab.pixels(".r2g-heat") != before).any()
    assert tab.js("document.querySelector('.r2g-again').disabled")  # no slot is chosen yet
    tab.click(".r2g-list button")
    tab.click(".r2g-away")
    tab.click(".r2g-again")
    tab.wait("document.querySelector('.r2g-outcome ins')?.innerText === 'new'")
    chosen = tab.js(f"{figure}.state()")
    assert chosen["trial"] == chosen["without"] == [chosen["slot"][1]]
    tab.click(".r2g-add-most")
    tab.click(".r2g-again")
    tab.wait("document.querySelector('.r2g-error').textContent === 'too many slots: take fewer.'")
    assert not tab.js(f"{figure}.state().busy")
    print(f"screenshot: {tab.screenshot(tmp_path / 'microscope_in_jupyterlab.png')}")


def test_the_payload_is_small_where_little_is_shown():
    """Crops are the weight of a page; without them a study takes no more than its images."""
    use = made().use
    bare = made(use=SlotUse(use.patches, use.words, 1))
    assert payload(bare)["sheet"]["image"] == "" and len(microscope_html(bare)) < 200_000
    assert payload(bare)["slots"] == SLOTS and LAYERS * (len(WORDS) + 1) == len(
        payload(bare)["rare_patches"]
    )
