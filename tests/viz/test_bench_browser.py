"""The phantom bench in a real browser: states, words in both reports, the kernel's answers."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2genkit.viz.widgets.bench import bench_html, follow, statement
from r2genkit.viz.widgets.parts import OPACITY
from tests.viz.made_bench import AFTER, BEFORE, GONE, GRID, RIGHT, effusion, hot, made, state

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
HALF = ".r2g-both .r2g-report:nth-child({})"


def opened(page, tmp_path, data, width=1200):
    path = tmp_path / "bench.html"
    path.write_text(bench_html(data), encoding="utf-8")
    page.window(width)
    page.open(path)


def now(page):
    return page.js("window.r2genkit.state()")


def point(page, half, word):
    page.hover(f"{HALF.format(half + 1)} .r2g-word", word)


def heat(page, half, view):
    return page.pixels(f"{HALF.format(half + 1)} .r2g-heat", view)


def assert_hot(page, half, word):
    """The strongest colour stands on the patch that the word looks at."""
    view, row, column = hot(word)
    pixels = heat(page, half, view)
    size = pixels.shape[0] // GRID
    each = pixels[size // 2 :: size, size // 2 :: size]  # patch centres
    assert np.unravel_index(each[..., 3].argmax(), each.shape[:2]) == (row, column)
    assert abs(each[..., 3].max() - 255 * OPACITY) <= 2


def text_of(page, selector):
    return page.js(f"document.querySelector({selector!r}).textContent")


def classes(page, half, name):
    """Words of a report that bear a class."""
    return page.js(
        f"Array.from(document.querySelectorAll('{HALF.format(half + 1)} .r2g-word.{name}'),"
        "(e) => e.firstChild.data)"
    )


def test_a_state_is_chosen_by_a_click(page, tmp_path):
    opened(page, tmp_path, made())
    assert now(page)["title"] == "effusion on the left"  # the first variant
    assert "the report now says left" in text_of(page, ".r2g-verdict")
    page.click(".r2g-variants button", 2)
    assert (now(page)["variant"], now(page)["verdict"]) == (2, "followed")
    assert "no longer states it (denied)" in text_of(page, ".r2g-verdict")
    pressed = "Array.from(document.querySelectorAll('.r2g-variants button'), (b) => b.ariaPressed)"
    assert page.js(pressed) == ["false", "false", "true"]
    rows = page.js(
        "Array.from(document.querySelectorAll('.r2g-facts tbody tr'),"
        "(r) => Array.from(r.children, (c) => c.textContent))"
    )
    table = {row[0]: row[1:] for row in rows}
    assert table["the report"] == ["stated", "denied"]
    assert table["drawn: should it be stated?"] == ["yes: mild right", "no"]
    assert table["tag: probability"] == ["0.80 (told 0.99)", "0.10 (told 0.01)"]
    assert table["the report, had only the patches changed"] == ["stated", "stated"]
    data = made()
    found = follow(data.states[0], data.states[2], "0")
    (named,) = [name for name in table if "attention" in name]
    assert f"old place (even: {round(100 * found.chance[0])}\u202f%)" in named
    assert table[named] == [
        f"{round(100 * found.word_inside(after, False))}\u202f%" for after in (False, True)
    ]
    page.click(".r2g-reset")
    assert now(page)["variant"] == 0
    assert "Nothing about pleural effusion was changed" in text_of(page, ".r2g-verdict")


def test_images_and_outlines_are_those_of_the_state(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    page.click(".r2g-variants button", 2)
    for half, shown in ((0, data.states[0]), (1, data.states[2])):
        page.js(
            "(() => { const i = document.querySelectorAll("
            f"'{HALF.format(half + 1)} img')[0];"
            "const c = document.createElement('canvas'); c.id = 'copy'; c.width = i.naturalWidth;"
            "c.height = i.naturalHeight; c.getContext('2d').drawImage(i, 0, 0);"
            "document.getElementById('copy')?.remove(); document.body.append(c); })()"
        )
        assert np.array_equal(page.pixels("#copy")[..., 0], shown.views[0])
    page.js("document.getElementById('copy').remove()")
    drawn = f"document.querySelectorAll('{HALF.format(2)} .r2g-drawn path.r2g-%s').length"
    assert page.js(drawn % "old") == 1 and page.js(drawn % "new") == 0
    page.click(".r2g-variants button", 1)
    assert page.js(drawn % "old") == 1 and page.js(drawn % "new") == 1
    page.click(".r2g-reset")
    assert page.js(drawn % "old") == 0 and page.js(drawn % "drawn") == 1  # one place: one line


def test_pointing_at_a_word_shows_it_in_both_reports(page, tmp_path):
    opened(page, tmp_path, made())
    page.click(".r2g-smooth")
    # It starts at the word that names the finding, in both.
    assert now(page)["words"] == [BEFORE.index("effusion"), AFTER.index("effusion")]
    point(page, 1, AFTER.index("enlarged"))
    assert now(page)["words"] == [BEFORE.index("enlarged"), AFTER.index("enlarged")]
    assert_hot(page, 0, BEFORE.index("enlarged"))
    assert_hot(page, 1, AFTER.index("enlarged"))
    point(page, 0, BEFORE.index("right"))  # has no partner
    assert now(page)["words"] == [BEFORE.index("right"), -1]
    assert heat(page, 1, 0).max() == 0 and heat(page, 1, 1).max() == 0
    assert "no such word" in text_of(page, f"{HALF.format(2)} .r2g-here")
    data = made()
    found = follow(data.states[0], data.states[1], "0")
    point(page, 1, AFTER.index("effusion"))
    told = text_of(page, f"{HALF.format(2)} .r2g-here")
    share = found.inside[1][AFTER.index("effusion"), 1]
    assert f"{round(100 * share)}\u202f% in the finding’s new place" in told


def test_changed_words_and_the_sentence_are_marked(page, tmp_path):
    opened(page, tmp_path, made())
    assert classes(page, 0, "r2g-gone") == ["small", "right"]
    assert classes(page, 1, "r2g-new") == ["left"]
    inside = (
        f"Array.from(document.querySelectorAll('{HALF.format(2)} .r2g-sentence .r2g-word'),"
        "(e) => e.firstChild.data)"
    )
    assert page.js(inside) == AFTER[: AFTER.index(".") + 1]
    assert classes(page, 1, "r2g-positive")[-3:] == AFTER[-4:-1]
    page.click(".r2g-variants button", 2)
    assert "effusion" in classes(page, 1, "r2g-negative")
    assert page.js(inside) == GONE[: GONE.index(".") + 1]


def test_another_finding_can_be_looked_at(page, tmp_path):
    opened(page, tmp_path, made())
    page.click(".r2g-item input[type=radio]", 1)
    assert (now(page)["focus"], now(page)["verdict"]) == ("1", "kept")
    assert "Nothing about enlarged heart was changed" in text_of(page, ".r2g-verdict")
    own = [statement(words, "cardiomegaly").words[0] for words in (BEFORE, AFTER)]
    assert now(page)["words"] == own and own[0] >= BEFORE.index("heart")
    page.click(".r2g-item input[type=radio]", 0)
    assert now(page)["focus"] == "0"


def test_keyboard_pins_and_lets_go(page, tmp_path):
    opened(page, tmp_path, made())
    page.click(f"{HALF.format(2)} .r2g-word", 0)
    assert (now(page)["pinned"], now(page)["words"]) == (True, [0, 0])
    point(page, 0, 5)
    assert now(page)["words"] == [0, 0]  # pinned: pointing does not move it
    page.key("ArrowRight")
    assert (now(page)["pinned"], now(page)["words"]) == (False, [1, 1])
    page.key("End")
    assert now(page)["words"] == [len(BEFORE) - 1, len(AFTER) - 1]
    page.key("Home")
    page.key("Enter")
    assert now(page)["pinned"] and now(page)["words"] == [0, 0]
    page.key("Escape")
    assert not now(page)["pinned"]
    stops = f"document.querySelectorAll('{HALF.format(2)} .r2g-text [tabindex=\"0\"]').length"
    assert page.js(stops) == 1  # from it, Tab leaves the text


@pytest.mark.parametrize(
    ("uncoded", "offered"),
    [
        ("", ["not coded", "mild", "moderate", "large"]),
        ("moderate", ["not coded", "mild", "large"]),
    ],
)
def test_only_what_changes_something_is_offered(page, tmp_path, uncoded, offered):
    kinds = (dataclasses.replace(made().kinds[0], uncoded=uncoded),)
    first = state("as it is", BEFORE, effusion("right", RIGHT, None))
    large = state("large", BEFORE, effusion("right", RIGHT, "large"))
    opened(page, tmp_path, made(states=(first, large), kinds=kinds))
    options = (
        "Array.from(document.querySelectorAll('[data-what=%s]'),"
        "(s) => Array.from(s.options, (o) => o.text))"
    )
    assert page.js(options % "severity") == [offered]  # the way back to the code is there, too
    assert page.js(options % "side") == [["left", "right", "bilateral"]]
    assert page.js(options % "place") == []  # there is but one


def test_a_report_may_be_empty(page, tmp_path):
    opened(page, tmp_path, made(states=(made().states[0], state("silent", ()))))
    assert now(page)["words"] == [BEFORE.index("effusion"), -1]
    assert "(empty report)" in text_of(page, f"{HALF.format(2)} .r2g-text")
    assert "This report is empty." in text_of(page, f"{HALF.format(2)} .r2g-here")
    point(page, 0, 3)
    assert now(page)["words"] == [3, -1]


def test_a_page_says_why_findings_cannot_be_changed(page, tmp_path):
    opened(page, tmp_path, made())
    assert "where a kernel draws" in text_of(page, ".r2g-nokernel")
    assert page.js(
        "Array.from(document.querySelectorAll('.r2g-item select, .r2g-item button, .r2g-adds'))"
        ".every((e) => e.disabled)"
    )


def test_no_text_is_markup_and_the_page_asks_for_nothing(page, tmp_path):
    words = (HOSTILE, "a&b", "\u2028", *BEFORE)
    finding = dataclasses.replace(made().states[0].findings[0], title=HOSTILE)
    states = [state(HOSTILE + end, words, finding) for end in ("", "2")]
    kinds = (dataclasses.replace(made().kinds[0], title=HOSTILE),)
    data = made(title=HOSTILE, states=tuple(states), system=HOSTILE, notes=(HOSTILE,), kinds=kinds)
    opened(page, tmp_path, data)
    point(page, 1, 0)
    assert page.js("window.hacked === undefined")
    assert page.js("document.scripts.length") == 2
    assert text_of(page, "h1") == HOSTILE
    assert classes(page, 1, "r2g-word")[0] == HOSTILE
    asked = [e for e in page.events if e["method"] == "Network.requestWillBeSent"]
    schemes = {event["params"]["request"]["url"].split(":")[0] for event in asked}
    assert schemes <= {"file", "data"}  # of its own it asks for nothing


def test_a_hover_is_painted_at_once(page, tmp_path):
    opened(page, tmp_path, made())
    times = []
    for word in (*range(1, len(AFTER)), *range(len(AFTER) - 1)):
        selector = f"{HALF.format(2)} .r2g-word"
        x, y = page.centre(selector, word)
        times.append(page.painted_ms(lambda x=x, y=y: page.mouse("mouseMoved", x, y)))
    print(f"hover to painted frame: median {np.median(times):.1f} ms, worst {max(times):.1f} ms")
    # The aim is 50 ms; machines that run other work beside the test get room.
    assert np.median(times) < 1000


@pytest.mark.parametrize("width", [1200, 360])
def test_it_fits_the_window(page, tmp_path, width):
    opened(page, tmp_path, made(), width)
    assert page.js("[document.documentElement.scrollWidth, window.innerWidth]") == [width, width]
    wide = page.js(
        "Array.from(document.querySelectorAll('.r2g-film img'),"
        "(e) => e.getBoundingClientRect().width)"
    )
    assert len(wide) == 4 and min(wide) > 120
    tops = page.js(
        "Array.from(document.querySelectorAll('.r2g-both .r2g-report'),"
        "(e) => e.getBoundingClientRect().top)"
    )
    assert (tops[0] == tops[1]) == (width == 1200)
    shot = page.screenshot(tmp_path / f"bench_{width}.png")
    assert Image.open(io.BytesIO(shot.read_bytes())).size[0] == width
    print(f"screenshot: {Path(shot)}")


LAB = """
import dataclasses, time
from IPython.display import display
from r2genkit.errors import KitError
from r2genkit.viz.widgets.bench import bench_widget, pair_payload, state_payload
from tests.viz.made_bench import BEFORE, effusion, made, state, box

data = made(systems=("reader", "parrot"))

def answer(question):
    if question["system"] == "parrot":
        first = state("as it is", BEFORE[:8], effusion("right", box(0, 0, 9, 0, 9)), seed=30)
        after = dataclasses.replace(first, title=question["title"])
        return {
            "first": state_payload(first, ("frontal", "lateral")),
            "state": state_payload(after, ("frontal", "lateral")),
            "pair": pair_payload(first, after),
            "called_at": 0.2,
            "seconds": {"whole": 0.1, "render": 0, "masks": 0, "encode": 0, "decode": 0},
        }
    drawn = [one for one in question["findings"] if one["kind"] == "effusion"]
    if len(drawn) > 1:
        raise KitError("two effusions are one too many: remove one.")
    one = drawn[0]
    mask = box(1, 20, 60, 20, 60)
    words = f"a {one['severity']} {one['side']} pleural effusion .".split()
    after = state(question["title"], words, effusion(one["side"], mask, one["severity"]), seed=9)
    return {
        "state": state_payload(after, ("frontal", "lateral")),
        "pair": pair_payload(data.states[0], after),
        "seconds": {"whole": 0.25, "render": 0.1, "masks": 0.05, "encode": 0.05, "decode": 0.05},
    }

widget = bench_widget(data, answer)
display(widget)
"""


def test_inside_jupyterlab_the_kernel_draws_and_reads(lab):
    tab = lab(LAB)
    seen = "document.querySelector('.jp-OutputArea .r2g').r2genkit.state()"
    tab.js("document.querySelector('.jp-OutputArea .r2g').scrollIntoView()")

    def choose(what, value):
        tab.js(
            f"(() => {{ const s = document.querySelector('select[data-what={what}]');"
            f"s.value = String(Array.from(s.options).findIndex((o) => o.text === '{value}'));"
            "s.dispatchEvent(new Event('change')); })()"
        )

    before = tab.js("document.querySelectorAll('.r2g-both img')[2].src")
    tab.click(".r2g-reset")
    choose("severity", "large")
    tab.wait(f"{seen}.variant === -1 && !{seen}.busy")
    assert tab.js(seen)["title"] == "large right pleural effusion"
    assert tab.js("document.querySelectorAll('.r2g-both img')[2].src") != before
    report = "document.querySelectorAll('.r2g-both .r2g-text')[1].textContent"
    assert tab.js(report).split()[:3] == ["a", "large", "right"]
    assert "0.25 s" in tab.js("document.querySelector('.r2g-status').textContent")
    # What is there already needs no kernel: the other side of the mild one came with the widget.
    choose("severity", "mild")
    choose("side", "left")
    tab.wait(f"{seen}.variant === 1")
    # A refusal is shown, and the last good state stays.
    tab.js("document.querySelector('.r2g-add select').value = 'effusion'; 0")
    tab.click(".r2g-adds")
    tab.wait(f"{seen}.error !== ''")
    assert "one too many" in tab.js("document.querySelector('.r2g-error').textContent")
    assert [one["key"] for one in tab.js(seen)["findings"]] == ["0", "1"]
    assert tab.js(seen)["title"] == "effusion on the left"
    tab.hover(".r2g-both .r2g-report:nth-child(2) .r2g-word", 0)
    assert tab.js(seen)["words"][1] == 0
    tab.click(".r2g-both .r2g-report:nth-child(2) .r2g-word", 0)
    tab.key("ArrowRight")
    assert tab.js(seen)["words"][1] == 1
    # Its keys are its own: "m" looks for a choice and makes no text of the cell.
    kind = "jupyterapp.shell.currentWidget.content.widgets[0].model.type"
    assert tab.js(kind) == "code"
    tab.js("document.querySelector('select[data-what=severity]').focus()")
    tab.key("m")  # in a list of choices it may choose another one
    tab.wait(f"!{seen}.busy")
    # Another system reads the same patient: both columns are its own, as is the line of its tags.
    source = "document.querySelectorAll('.r2g-both img')[0].src"
    own = tab.js(source)

    def reports_by(number):
        tab.js(
            f"(() => {{ const s = document.querySelector('.r2g-system'); s.value = '{number}';"
            "s.dispatchEvent(new Event('change')); })()"
        )
        tab.wait(f"{seen}.system === {number} && !{seen}.busy")

    reports_by(1)
    assert tab.js(source) != own
    assert tab.js("document.querySelectorAll('.r2g-both .r2g-text')[0].textContent").split() == (
        [*BEFORE[:6], "effusion+", "."]
    )
    assert tab.js("document.querySelector('.r2g-facts u').style.left") == "20%"
    tab.click(".r2g-variants button", 2)  # it is the parrot that answers, not the state of before
    tab.wait(f"{seen}.title === 'without pleural effusion' && !{seen}.busy")
    assert tab.js(seen)["variant"] == -1
    reports_by(0)
    assert (tab.js(seen)["variant"], tab.js(source)) == (2, own)
    assert tab.js(kind) == "code"
