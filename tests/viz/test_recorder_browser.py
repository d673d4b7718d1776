"""The recorder in a real browser: words, columns, keys, hostile text, JupyterLab."""

import io
import statistics
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from r2genkit.viz.widgets.parts import FindingMark
from r2genkit.viz.widgets.recorder import payload, recorder_html, spread
from tests.viz.test_recorder import SIZE, WORDS, made, without_norms

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def opened(page, tmp_path, data, width=1200):
    page.show(recorder_html(data), tmp_path, width)


def point_column(page, column):
    x, y, width = page.js(
        "(() => { const e = document.querySelector('.r2g-run svg');"
        "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
        "return [b.x, b.y, b.width]; })()"
    )
    page.mouse("mouseMoved", x + (column + 0.5) * (width - 2) / (len(WORDS) + 1), y + 40)


def test_pointing_at_a_word_shows_its_gates_slots_and_norms(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    assert page.state()["word"] == 2  # the affirmed finding
    for row in (5, 1):
        page.hover(".r2g-text .r2g-word", row)
        assert page.state()["word"] == row
        headline = page.texts(".r2g-now h3")[0]
        assert headline.startswith(f"reads \u201c{data.readers[row]}\u201d, then writes ")
        assert f"with the memory {data.probability[row]:.2f}, with constants" in headline
        mean, low, high = spread(data.gates["forget"])[row, 1]
        assert page.texts(".r2g-slots > div:nth-child(2) .r2g-small")[2] == (
            f"forget gate {mean:.2f} ({low:.2f} to {high:.2f})"
        )
        cells = page.js(
            "Array.from(document.querySelectorAll('.r2g-now td'), (e) => e.textContent)"
        )
        assert cells[:5] == [
            "self-attention",
            *(
                f"{value:.3f}"
                for name in ("gain", "bias")
                for value in (data.constant[name][0], data.moving[name][row, 0])
            ),
        ]
        pixels = page.pixels(".r2g-vector", 2)
        assert pixels.shape == (1, SIZE, 4)
        warm = pixels[0, :, 0] > pixels[0, :, 2]  # orange above zero
        clear = np.abs(data.memory[row, 2]) > 0.1
        assert (warm == (data.memory[row, 2] > 0))[clear].all()
    page.hover(".r2g-text .r2g-word", len(WORDS))
    assert page.texts(".r2g-now h3")[0].endswith("the last word")


def test_columns_follow_the_pointer_and_words_can_be_pinned(page, tmp_path):
    opened(page, tmp_path, made())
    for column in (0, 4):
        point_column(page, column)
        assert page.state()["word"] == column
        assert page.texts(".r2g-run text.r2g-at")[0] == made().readers[column]
    page.click(".r2g-text .r2g-word", 3)
    point_column(page, 1)
    assert (page.state()["word"], page.state()["pinned"]) == (3, True)
    for name, row in (("ArrowRight", 4), ("End", len(WORDS)), ("Home", 0), ("ArrowLeft", 0)):
        page.key(name)
        assert page.state()["word"] == row, name
    page.key("Escape")
    assert not page.state()["pinned"]
    page.key("Enter")
    assert page.state()["pinned"]


def test_cells_are_coloured_by_their_value(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    fills = page.js(
        "Array.from(document.querySelectorAll('.r2g-run rect'), (e) => e.getAttribute('fill'))"
    )[:-1]  # the last one is the frame
    values = [
        (value - group["low"]) / (group["high"] - group["low"])
        for group in payload(data)["groups"]
        for row in group["rows"]
        for value in row["values"]
        if value is not None
    ]
    assert len(fills) == len(values)
    green = [int(fill.split(",")[1]) for fill in fills]  # viridis: rises throughout
    order = np.argsort(values)
    assert (np.diff(np.array(green)[order]) >= 0).all()


def test_without_norms_there_is_no_table_and_no_second_report(page, tmp_path):
    opened(page, tmp_path, without_norms())
    assert page.js("document.querySelector('.r2g-now table')") is None
    assert page.js("document.querySelectorAll('.r2g-text').length") == 1


def test_no_text_is_markup_and_the_page_asks_for_nothing(page, tmp_path):
    plain = made()
    data = made(
        title=HOSTILE, system=HOSTILE, notes=(HOSTILE,), words=(HOSTILE, *WORDS[1:]),
        findings=(FindingMark(0, 1, HOSTILE, "positive"),), sublayers=(HOSTILE, "b", "c"),
        held=replace(plain.held, words=(HOSTILE,), findings=()),
    )  # fmt: skip
    opened(page, tmp_path, data)
    page.hover(".r2g-text .r2g-word", 1)
    assert page.js("window.hacked === undefined") and page.js("document.scripts.length") == 2
    assert page.texts("h1")[0] == HOSTILE
    asked = [e for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert {e["params"]["request"]["url"].split(":")[0] for e in asked} <= {"file", "data"}


@pytest.mark.parametrize("width", [1200, 360])
def test_it_fits_the_window_and_follows_the_pointer(page, tmp_path, width):
    opened(page, tmp_path, made(), width)
    times = [
        page.painted_ms(lambda row=row: page.hover(".r2g-text .r2g-word", row))
        for row in (*range(len(WORDS)), *range(len(WORDS)))
    ]
    print(f"hover to painted frame: median {statistics.median(times):.1f} ms")
    assert page.js("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    shot = page.screenshot(tmp_path / f"recorder_{width}.png")
    assert Image.open(io.BytesIO(shot.read_bytes())).size[0] == width
    print(f"screenshot: {shot}")


def test_inside_jupyterlab(lab, tmp_path):
    tab = lab(
        """
from IPython.display import display
from r2genkit.viz.widgets.recorder import recorder_widget
from tests.viz.test_recorder import made

recorder = recorder_widget(made())
recorder.observe(lambda change: setattr(
    recorder, "data", recorder.data | {"title": str(change["new"])}), "told")
display(recorder)
"""
    )
    before = tab.pixels(".r2g-vector")
    tab.hover(".r2g-text .r2g-word", 5)
    assert tab.js("document.querySelector('.r2g').r2genkit.state().word") == 5
    assert (tab.pixels(".r2g-vector") != before).any()
    tab.click(".r2g-text .r2g-word", 5)
    tab.wait("document.querySelector('.r2g h1').textContent === \"{'word': 5}\"")
    print(f"screenshot: {tab.screenshot(tmp_path / 'recorder_in_jupyterlab.png')}")
