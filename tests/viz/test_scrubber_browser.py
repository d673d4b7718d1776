"""The scrubber's page in a real browser: mouse, keyboard, heads, pins, network, narrow windows.

Headless Chromium is driven over its DevTools protocol. Data are made by hand: no model, no torch.
"""

import contextlib
import io
import json
import re
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2genkit.viz.widgets.parts import OPACITY, FindingMark, normalised
from r2genkit.viz.widgets.scrubber import (
    FRONT,
    ScrubberData,
    ScrubberReport,
    payload,
    scrubber_html,
    side_by_side,
)

pytestmark = pytest.mark.slow

WORDS = ("small", "right", "pleural", "effusion", ".", "no", "pneumothorax", ".")
GRID = 7
YELLOW = (253, 231, 37)  # the palette's end: the strongest patch of a word
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def film(seed):
    """A grey disc on black, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:112j, -1:1:112j]
    pixels = 170 * np.exp(-2 * (x**2 + y**2)) + rng.normal(0, 8, x.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def maps_with(hot):
    """Word t looks at one patch, ``hot(t) = (view, row, column)``, and faintly everywhere."""
    values = np.full((len(WORDS), 2, GRID, GRID), 0.02)
    for t in range(len(WORDS)):
        values[(t, *hot(t))] = 1.0
    return normalised(values)


def average(t):
    return t % 2, t % GRID, (2 * t) % GRID


def head(number):
    return lambda t: ((t + number) % 2, (3 * t + number) % GRID, (t + 2 * number) % GRID)


def made(system="reader", sentences=None, **options):
    maps = {"average": maps_with(average)}
    if sentences is None:
        maps |= {f"layer {i} head {j}": maps_with(head(2 * i + j)) for i in (1, 2) for j in (1, 2)}
    report = ScrubberReport(
        title=system,
        words=WORDS,
        maps=maps,
        about={"average": "Attention over the patches of all views."},
        numbers={"average": "Images swapped: 41 % of the words change."},
        sentences=sentences,
        findings=(
            FindingMark(2, 4, "pleural effusion", "positive"),
            FindingMark(6, 7, "pneumothorax", "negative", (5,)),
        ),
    )
    mask = np.zeros((2, 112, 112), dtype=bool)
    mask[0, 70:100, 10:40] = True
    return ScrubberData(
        **{
            "title": "Where the model looks",
            "views": (film(0), film(1)),
            "view_names": ("frontal", "lateral"),
            "reports": (report,),
            "masks": {"pleural_effusion": mask},
            "synthetic": True,
        }
        | options
    )


def point(page, word):
    page.hover(".r2g-text .r2g-word", word)


def state(page, report=0):
    return page.js("window.r2genkit.state()")["reports"][report]


def heat(page, view, nth=0):
    """The overlay of a view as RGBA ``[H, W, 4]``."""
    return page.pixels(f".r2g-report:nth-of-type({nth + 1}) .r2g-heat", view)


def opened(page, tmp_path, data, width=1200):
    path = tmp_path / "report.html"
    path.write_text(scrubber_html(data), encoding="utf-8")
    page.window(width)
    page.open(path)
    return path


def patches(page):
    """Turn smoothing off: one colour a patch."""
    page.click(".r2g-smooth")


def hot_patch(pixels):
    """The patch with the strongest colour, and that colour."""
    size = pixels.shape[0] // GRID
    each = pixels[size // 2 :: size, size // 2 :: size]  # patch centres
    place = np.unravel_index(each[..., 3].argmax(), each.shape[:2])
    return place, each[place]


def assert_hot(page, place):
    view, row, column = place
    found, colour = hot_patch(heat(page, view))
    assert found == (row, column)
    # Read back from premultiplied bytes: a step or two may be lost.
    assert np.abs(colour - np.array([*YELLOW, round(255 * OPACITY)])).max() <= 2
    other = heat(page, 1 - view)
    assert other[..., 3].max() < 60  # faint: this word looks at one view


def test_pointing_at_a_word_lights_up_its_patch(page, tmp_path):
    opened(page, tmp_path, made())
    assert state(page)["word"] == 2  # starts at the first finding
    patches(page)
    before = heat(page, 0)
    for word in (0, 3, 6):
        point(page, word)
        assert state(page)["word"] == word
        assert_hot(page, average(word))
    assert (heat(page, 0) != before).any()
    told = page.js("document.querySelector('.r2g-readout').textContent")
    assert told.startswith("7. pneumothorax") and "denied or stated normal (“no”)" in told
    assert "Images swapped: 41 %" in page.js("document.querySelector('.r2g-number').textContent")
    share = [0.02 * 49 + 0.98, 0.02 * 49]
    want = f"{round(100 * share[0] / sum(share))}\u202f%"
    assert page.js("document.querySelector('.r2g-share').textContent") == want


def test_smooth_maps_agree_with_the_figure(page, tmp_path):
    """The browser's interpolation is that of the static twin."""
    from r2genkit.viz.attention import upsample

    opened(page, tmp_path, made())
    point(page, 3)
    pixels = heat(page, 1)
    values = upsample(maps_with(average)[3, 1], *pixels.shape[:2])
    want = 255 * OPACITY * np.sqrt(values)
    assert np.abs(pixels[..., 3] - want).max() <= 3


def test_keyboard_steps_pins_and_lets_go(page, tmp_path):
    opened(page, tmp_path, made())
    patches(page)
    page.click(".r2g-text .r2g-word", 0)
    assert state(page)["pinned"] == 0
    point(page, 5)
    assert state(page)["word"] == 0  # pinned: pointing does not move it
    for name, word in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("ArrowDown", 5),
        ("ArrowUp", 0),
        ("End", 7),
        ("ArrowRight", 7),
        ("Home", 0),
        ("ArrowLeft", 0),
    ):
        page.key(name)
        assert (state(page)["word"], state(page)["pinned"]) == (word, word), name
    page.key("ArrowRight")
    assert_hot(page, average(1))
    focused = "document.activeElement"
    assert page.js(f"{focused}.dataset.word") == "1"
    assert page.js(f"{focused}.getAttribute('aria-pressed')") == "true"
    assert page.js(f"{focused}.tabIndex") == 0
    # One tab stop in the text: from it, Tab leaves.
    assert page.js("document.querySelectorAll('.r2g-text [tabindex=\"0\"]').length") == 1
    page.key("Escape")
    assert state(page)["pinned"] == -1
    page.key("Enter")
    assert state(page)["pinned"] == 1
    page.key("Enter")
    assert state(page)["pinned"] == -1
    point(page, 6)
    assert state(page)["word"] == 6
    assert page.js(
        "document.querySelectorAll('.r2g-text .r2g-word')[6].getAttribute('aria-label')"
    ) == ("pneumothorax, word 7 of 8; pneumothorax: denied or stated normal")


def test_heads_switch_by_grid_and_by_list(page, tmp_path):
    opened(page, tmp_path, made())
    patches(page)
    point(page, 3)
    page.click(".r2g-heads button", 2)  # rows are layers
    assert state(page)["map"] == "layer 2 head 1"
    assert_hot(page, head(5)(3))
    assert page.js("document.querySelector('.r2g-choice select').value") == "3"
    page.js(
        "(() => { const s = document.querySelector('.r2g-choice select'); s.value = '2';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert state(page)["map"] == "layer 1 head 2"
    assert_hot(page, head(4)(3))
    assert page.js("document.querySelector('.r2g-number').hidden") is True
    page.click(".r2g-heads button", 1)  # the chosen one again: back to the average
    assert state(page)["map"] == "average"
    # Each cell shows the word's own map: its brightest pixel is the head's patch.
    for cell, number in enumerate((3, 4, 5, 6)):
        width, data = page.js(
            f"(() => {{ const c = document.querySelectorAll('.r2g-heads canvas')[{cell}];"
            "const i = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            "return [c.width, Array.from(i.data)]; })()"
        )
        green = np.array(data).reshape(GRID, width, 4)[..., 1]
        view, row, column = head(number)(3)
        assert np.unravel_index(green.argmax(), green.shape) == (row, view * (GRID + 1) + column)


def test_words_of_a_sentence_share_a_map(page, tmp_path):
    opened(page, tmp_path, made(sentences=(0,) * 5 + (1,) * 3))
    point(page, 6)
    marked = page.js(
        "Array.from(document.querySelectorAll('.r2g-text .r2g-word')).map("
        "(e) => e.classList.contains('r2g-sentence'))"
    )
    assert marked == [False] * 5 + [True] * 3
    told = page.js("document.querySelector('.r2g-readout').textContent")
    assert "sentence 2: all its words share this map" in told


def test_two_reports_have_overlays_of_their_own(page, tmp_path):
    both = side_by_side(made("first"), made("second", sentences=(0,) * 5 + (1,) * 3))
    opened(page, tmp_path, both)
    patches(page)
    point(page, 0)
    point(page, len(WORDS) + 3)
    assert [state(page, i)["word"] for i in (0, 1)] == [0, 3]
    for nth, word in ((0, 0), (1, 3)):
        view, row, column = average(word)
        assert hot_patch(heat(page, view, nth))[0] == (row, column)
    titles = page.js("Array.from(document.querySelectorAll('h2')).map((e) => e.textContent)")
    assert titles == ["first", "second"]
    tops = page.js(
        "Array.from(document.querySelectorAll('.r2g-report')).map("
        "(e) => e.getBoundingClientRect().top)"
    )
    assert tops[0] < tops[1]


def test_opacity_scale_and_outlines_are_followed(page, tmp_path):
    values = maps_with(average)
    values[3] = 1.0  # an even look: its strongest patch is 1.0 times the mean
    values[4] = np.where(np.arange(GRID) < 3, 1.0, 0.0)  # a broad one: 2.3 times
    report = ScrubberReport("reader", WORDS, {"average": values})
    opened(page, tmp_path, made(reports=(report,)))
    patches(page)
    point(page, 3)
    assert heat(page, 0)[..., 3].max() == 0
    told = page.js("document.querySelector('.r2g-readout').textContent")
    assert "strongest patch 1.0 × an even look (nearly everywhere alike)" in told
    point(page, 4)
    assert heat(page, 0)[..., 3].max() == round(255 * OPACITY)
    page.click(".r2g-shared")  # on the scale of the report, a broad look is weak
    top = 98 / (0.02 * 97 + 1)  # of the words that look at one patch
    want = round(255 * OPACITY * np.sqrt(round(255 * (7 / 3) / top) / 255))
    assert abs(heat(page, 0)[..., 3].max() - want) <= 1
    page.click(".r2g-shared")
    page.js(
        "(() => { const s = document.querySelector('.r2g-opacity'); s.value = 20;"
        "s.dispatchEvent(new Event('input')); })()"
    )
    assert heat(page, 0)[..., 3].max() == round(255 * 0.2)
    shown = "getComputedStyle(document.querySelector('.r2g-drawn')).display"
    assert page.js(shown) != "none"
    assert page.js("document.querySelectorAll('.r2g-drawn').length") == 1  # one view has it
    page.click(".r2g-outlines")
    assert page.js(shown) == "none"


def test_no_text_is_markup_and_the_page_asks_for_nothing(page, tmp_path):
    report = ScrubberReport(
        title=HOSTILE,
        words=(HOSTILE, "a&b", "\u2028"),
        maps={"average": normalised(np.ones((3, 2, 2, 2))), HOSTILE: np.zeros((3, 2, 2, 2))},
        about={"average": HOSTILE},
        numbers={"average": HOSTILE},
        findings=(FindingMark(0, 1, HOSTILE, "positive"),),
    )
    data = made(
        title=HOSTILE, reports=(report,), view_names=(HOSTILE, "b"), notes=(HOSTILE,), masks={}
    )
    opened(page, tmp_path, data)
    point(page, 0)
    assert page.js("window.hacked === undefined")
    assert page.js("document.scripts.length") == 2
    assert page.js("document.querySelector('h1').textContent") == HOSTILE
    assert page.js("document.querySelector('.r2g-text [data-word]').firstChild.data") == HOSTILE
    asked = [e for e in page.events if e["method"] == "Network.requestWillBeSent"]
    schemes = {event["params"]["request"]["url"].split(":")[0] for event in asked}
    assert schemes <= {"file", "data"}  # of its own it asks for nothing


def received(server):
    """What has been sent on any connection, some time after it was opened."""
    callers, sent = [], b""
    with contextlib.suppress(BlockingIOError):
        while True:
            callers.append(server.accept()[0])
    for caller in callers:
        with caller, contextlib.suppress(TimeoutError):
            caller.settimeout(1)
            sent += caller.recv(4096)
    return sent


def test_nothing_can_leave_the_page(page, tmp_path):
    """Every door out is shut by the policy: code that tries reaches no listening server."""
    opened(page, tmp_path, made())
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        refused = page.js(
            """(async (address) => {
            const seen = [];
            document.addEventListener('securitypolicyviolation',
                (e) => seen.push(e.effectiveDirective));
            let fetched = false;
            try { await fetch(`http://${address}/x`); fetched = true; } catch { /* refused */ }
            try { new WebSocket(`ws://${address}/x`); } catch { /* refused */ }
            navigator.sendBeacon(`http://${address}/x`, 'x');
            const image = new Image();
            const over = new Promise((done) => { image.onerror = done; image.onload = done; });
            image.src = `http://${address}/x.png`;
            await over;
            for (const [tag, text] of [['script', 'window.hacked = 1'],
                                       ['style', 'body { display: none }']]) {
                const node = document.createElement(tag);
                node.textContent = text;
                document.body.append(node);
            }
            const frame = document.createElement('iframe');
            frame.src = `http://${address}/x.html`;
            document.body.append(frame);
            await new Promise((done) => setTimeout(done, 200));
            return { fetched, seen, hacked: window.hacked !== undefined };
            })("""
            + f"'{address}')"
        )
        # Chromium opens an empty connection ahead of a frame that the policy then refuses; what
        # counts is that no byte comes through.
        assert received(server) == b""
        # The server would have noticed: the same page without its policy reaches it.
        bare = tmp_path / "bare.html"
        bare.write_text(
            re.sub("<meta http-equiv[^>]*>", "", scrubber_html(made())), encoding="utf-8"
        )
        page.open(bare)
        page.js(f"fetch('http://{address}/open', {{ mode: 'no-cors' }}).catch(() => 0); 0")
        limit = time.monotonic() + 60
        while not (came := received(server)):
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert came.startswith(b"GET /open")
    assert not refused["fetched"] and not refused["hacked"]
    assert {"connect-src", "img-src", "frame-src"} <= set(refused["seen"])
    assert any(name.startswith("script-src") for name in refused["seen"])
    assert any(name.startswith("style-src") for name in refused["seen"])


def test_the_widget_host_runs_the_same_front_end(page, tmp_path):
    """What anywidget does with the module, with a model that remembers what it is told."""
    data = made()
    script, style = FRONT.script, FRONT.style
    page("Page.navigate", url="about:blank")
    page.window(1200)
    page.js(
        f"""(async () => {{
        document.head.append(Object.assign(document.createElement('style'),
            {{ textContent: {json.dumps(style)} }}));
        const url = URL.createObjectURL(new Blob([{json.dumps(script)}],
            {{ type: 'text/javascript' }}));
        const front = (await import(url)).default;
        const traits = {{ data: {json.dumps(payload(data))}, told: {{}}, answers: false }};
        window.told = []; window.hooks = {{}}; window.traits = traits;
        const model = {{
            get: (name) => traits[name],
            set: (name, value) => {{ traits[name] = value; }},
            save_changes: () => told.push(traits.told.pinned),
            on: (event, call) => {{ hooks[event] = call; }},
            off: (event) => {{ delete hooks[event]; }},
        }};
        const el = document.createElement('div');
        document.body.append(el);
        window.leave = front.render({{ model, el }});
        window.r2genkit = el.firstChild.r2genkit;
        }})()"""
    )
    page.click(".r2g-smooth")
    point(page, 3)
    assert_hot(page, average(3))
    assert page.js("told") == []  # pointing does not reach the kernel
    page.click(".r2g-text .r2g-word", 6)
    page.key("Escape")
    assert page.js("told") == [[0, 6], [0, -1]]
    page.js("traits.data = {...traits.data, title: 'changed'}; hooks['change:data'](); 0")
    assert page.js("Array.from(document.querySelectorAll('h1')).map((e) => e.textContent)") == [
        "changed"
    ]
    page.js("leave()")
    assert page.js("Object.keys(hooks)") == []


def test_a_hover_is_painted_at_once(page, tmp_path, record_property):
    opened(page, tmp_path, made())
    places = [page.centre(".r2g-text .r2g-word", word) for word in range(len(WORDS))]
    times = [
        page.painted_ms(lambda x=x, y=y: page.mouse("mouseMoved", x, y))
        for x, y in places[1:] + places
    ]
    record_property("hover_ms", sorted(round(one, 1) for one in times))
    print(f"hover to painted frame: median {np.median(times):.1f} ms, worst {max(times):.1f} ms")
    # The aim is 50 ms; machines that run other work beside the test get room.
    assert np.median(times) < 1000


def test_inside_jupyterlab(lab, tmp_path):
    """A live kernel, the real widget manager: pointing repaints, a pin reaches the kernel."""
    tab = lab(
        """
import numpy as np
from IPython.display import display
from r2genkit.study import Hypothesis
from r2genkit.viz.widgets.scrubber import scrubber_data, scrubber_widget

rng = np.random.default_rng(0)
text = "small right effusion . no pneumothorax ."
trace = {"attention": rng.random((7, 2, 49), dtype=np.float32) ** 8}
films = [rng.integers(0, 255, (112, 112), dtype=np.uint8) for _ in range(2)]
words = Hypothesis("one", text, trace=trace)
scrubber = scrubber_widget(scrubber_data(words, films, synthetic=True))
heard = lambda change: setattr(scrubber, "data", scrubber.data | {"title": str(change["new"])})
scrubber.observe(heard, "told")
display(scrubber)
"""
    )
    before = tab.pixels(".r2g-heat")
    tab.hover(".r2g-text .r2g-word", 5)
    figure = "document.querySelector('.r2g').r2genkit"
    assert tab.js(f"{figure}.state().reports[0].word") == 5
    assert (tab.pixels(".r2g-heat") != before).any()
    tab.click(".r2g-text .r2g-word", 5)
    tab.wait("document.querySelector('.r2g h1').textContent === \"{'pinned': [0, 5]}\"")
    print(f"screenshot: {tab.screenshot(tmp_path / 'scrubber_in_jupyterlab.png')}")


@pytest.mark.parametrize("width", [1200, 360])
def test_it_fits_the_window(page, tmp_path, width):
    both = side_by_side(
        made("R2Gen", title="Where two models look"),
        made("MRNA with sentence memory", sentences=(0,) * 5 + (1,) * 3),
    )
    opened(page, tmp_path, both, width)
    point(page, 3)
    page.click(".r2g-text .r2g-word", len(WORDS) + 6)
    size = page.js("[document.documentElement.scrollWidth, window.innerWidth]")
    assert size == [width, width]  # nothing to scroll sideways
    wide = page.js(
        "Array.from(document.querySelectorAll('.r2g-film img')).map("
        "(e) => e.getBoundingClientRect().width)"
    )
    assert len(wide) == 4 and min(wide) > 130
    shot = page.screenshot(tmp_path / f"scrubber_{width}.png")
    assert Image.open(io.BytesIO(shot.read_bytes())).size[0] == width
    print(f"screenshot: {Path(shot)}")
