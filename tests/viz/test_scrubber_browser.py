"""The scrubber's page in a real browser: mouse, keyboard, heads, pins, network, narrow windows.

Headless Chromium is driven over its DevTools protocol. Data are made by hand: no model, no torch.
"""

import base64
import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import websocket
from PIL import Image

from r2genkit.viz.widgets.scrubber import (
    OPACITY,
    FindingMark,
    ScrubberData,
    ScrubberReport,
    normalised,
    payload,
    scrubber_html,
    side_by_side,
)
from r2genkit.viz.widgets.scrubber_front import SCRIPT, STYLE

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
    pytest.mark.slow,
]

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


class Page:
    """One tab: commands go out, their answers and all events come in."""

    def __init__(self, address):
        self.socket = websocket.create_connection(address, timeout=120, suppress_origin=True)
        self.number, self.events = 0, []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, path):
        self.events.clear()
        self("Page.navigate", url=path.as_uri())
        limit = time.monotonic() + 120
        while not self.js("Boolean(window.r2genkitScrubber) && document.readyState === 'complete'"):
            assert time.monotonic() < limit, [e for e in self.events if "Entry" in e["method"]]
            time.sleep(0.05)

    def js(self, expression):
        answer = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def mouse(self, kind, x, y, **more):
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def centre(self, selector, nth=0):
        place = self.js(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{nth}];"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return place

    def hover(self, word):
        self.mouse("mouseMoved", *self.centre(".r2g-text .r2g-word", word))

    def click(self, selector, nth=0):
        x, y = self.centre(selector, nth)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def key(self, name):
        text = {"text": "\r"} if name == "Enter" else {}
        self("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, **text)
        self("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)

    def state(self, report=0):
        return self.js("window.r2genkitScrubber.state()")["reports"][report]

    def heat(self, view, nth=0):
        """The overlay of a view as RGBA ``[H, W, 4]``."""
        width, data = self.js(
            "(() => { const c = document.querySelectorAll('.r2g-report')"
            f"[{nth}].querySelectorAll('.r2g-heat')[{view}];"
            "const i = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            "return [c.width, btoa(Array.from(i.data, (b) => String.fromCharCode(b)).join(''))];"
            "})()"
        )
        pixels = np.frombuffer(base64.b64decode(data), np.uint8)
        return pixels.reshape(-1, width, 4).astype(int)

    def window(self, width, height=900):
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def screenshot(self, path):
        whole = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(whole["data"]))
        return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    profile = tmp_path_factory.mktemp("chromium")
    # No sandbox: containers run as root. Its own profile: no settings of the user's.
    browser = subprocess.Popen(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-extensions", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--hide-scrollbars", "--remote-debugging-port=0",
            f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port, limit = profile / "DevToolsActivePort", time.monotonic() + 120
        while not (port.is_file() and port.read_text().strip().count("\n")):
            assert browser.poll() is None, "the browser ended"
            assert time.monotonic() < limit, "the browser did not start"
            time.sleep(0.1)
        number, path = port.read_text().split()
        control = websocket.create_connection(
            f"ws://127.0.0.1:{number}{path}", timeout=120, suppress_origin=True
        )
        control.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        while "result" not in (answer := json.loads(control.recv())):
            pass
        target = next(t for t in answer["result"]["targetInfos"] if t["type"] == "page")
        tab = Page(f"ws://127.0.0.1:{number}/devtools/page/{target['targetId']}")
        tab.window(1200)
        yield tab
        tab.socket.close()
        control.close()
    finally:
        browser.terminate()
        browser.wait(30)


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
    found, colour = hot_patch(page.heat(view))
    assert found == (row, column)
    # Read back from premultiplied bytes: a step or two may be lost.
    assert np.abs(colour - np.array([*YELLOW, round(255 * OPACITY)])).max() <= 2
    other = page.heat(1 - view)
    assert other[..., 3].max() < 60  # faint: this word looks at one view


def test_pointing_at_a_word_lights_up_its_patch(page, tmp_path):
    opened(page, tmp_path, made())
    assert page.state()["word"] == 2  # starts at the first finding
    patches(page)
    before = page.heat(0)
    for word in (0, 3, 6):
        page.hover(word)
        assert page.state()["word"] == word
        assert_hot(page, average(word))
    assert (page.heat(0) != before).any()
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
    page.hover(3)
    pixels = page.heat(1)
    values = upsample(maps_with(average)[3, 1], *pixels.shape[:2])
    want = 255 * OPACITY * np.sqrt(values)
    assert np.abs(pixels[..., 3] - want).max() <= 3


def test_keyboard_steps_pins_and_lets_go(page, tmp_path):
    opened(page, tmp_path, made())
    patches(page)
    page.click(".r2g-text .r2g-word", 0)
    assert page.state()["pinned"] == 0
    page.hover(5)
    assert page.state()["word"] == 0  # pinned: pointing does not move it
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
        assert (page.state()["word"], page.state()["pinned"]) == (word, word), name
    page.key("ArrowRight")
    assert_hot(page, average(1))
    focused = "document.activeElement"
    assert page.js(f"{focused}.dataset.word") == "1"
    assert page.js(f"{focused}.getAttribute('aria-pressed')") == "true"
    assert page.js(f"{focused}.tabIndex") == 0
    # One tab stop in the text: from it, Tab leaves.
    assert page.js("document.querySelectorAll('.r2g-text [tabindex=\"0\"]').length") == 1
    page.key("Escape")
    assert page.state()["pinned"] == -1
    page.key("Enter")
    assert page.state()["pinned"] == 1
    page.key("Enter")
    assert page.state()["pinned"] == -1
    page.hover(6)
    assert page.state()["word"] == 6
    assert page.js(
        "document.querySelectorAll('.r2g-text .r2g-word')[6].getAttribute('aria-label')"
    ) == ("pneumothorax, word 7 of 8; pneumothorax: denied or stated normal")


def test_heads_switch_by_grid_and_by_list(page, tmp_path):
    opened(page, tmp_path, made())
    patches(page)
    page.hover(3)
    page.click(".r2g-heads button", 2)  # rows are layers
    assert page.state()["map"] == "layer 2 head 1"
    assert_hot(page, head(5)(3))
    assert page.js("document.querySelector('.r2g-choice select').value") == "3"
    page.js(
        "(() => { const s = document.querySelector('.r2g-choice select'); s.value = '2';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert page.state()["map"] == "layer 1 head 2"
    assert_hot(page, head(4)(3))
    assert page.js("document.querySelector('.r2g-number').hidden") is True
    page.click(".r2g-heads button", 1)  # the chosen one again: back to the average
    assert page.state()["map"] == "average"
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
    page.hover(6)
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
    page.hover(0)
    page.hover(len(WORDS) + 3)
    assert [page.state(i)["word"] for i in (0, 1)] == [0, 3]
    for nth, word in ((0, 0), (1, 3)):
        view, row, column = average(word)
        assert hot_patch(page.heat(view, nth))[0] == (row, column)
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
    page.hover(3)
    assert page.heat(0)[..., 3].max() == 0
    told = page.js("document.querySelector('.r2g-readout').textContent")
    assert "strongest patch 1.0 × an even look (nearly everywhere alike)" in told
    page.hover(4)
    assert page.heat(0)[..., 3].max() == round(255 * OPACITY)
    page.click(".r2g-shared")  # on the scale of the report, a broad look is weak
    top = 98 / (0.02 * 97 + 1)  # of the words that look at one patch
    want = round(255 * OPACITY * np.sqrt(round(255 * (7 / 3) / top) / 255))
    assert abs(page.heat(0)[..., 3].max() - want) <= 1
    page.click(".r2g-shared")
    page.js(
        "(() => { const s = document.querySelector('.r2g-opacity'); s.value = 20;"
        "s.dispatchEvent(new Event('input')); })()"
    )
    assert page.heat(0)[..., 3].max() == round(255 * 0.2)
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
    page.hover(0)
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
    script, style = SCRIPT, STYLE
    page("Page.navigate", url="about:blank")
    page.window(1200)
    page.js(
        f"""(async () => {{
        document.head.append(Object.assign(document.createElement('style'),
            {{ textContent: {json.dumps(style)} }}));
        const url = URL.createObjectURL(new Blob([{json.dumps(script)}],
            {{ type: 'text/javascript' }}));
        const front = (await import(url)).default;
        const traits = {{ data: {json.dumps(payload(data))}, pinned: [0, -1] }};
        window.told = []; window.hooks = {{}}; window.traits = traits;
        const model = {{
            get: (name) => traits[name],
            set: (name, value) => {{ traits[name] = value; }},
            save_changes: () => told.push(traits.pinned),
            on: (event, call) => {{ hooks[event] = call; }},
            off: (event) => {{ delete hooks[event]; }},
        }};
        const el = document.createElement('div');
        document.body.append(el);
        window.leave = front.render({{ model, el }});
        window.r2genkitScrubber = el.firstChild.r2genkitScrubber;
        }})()"""
    )
    page.click(".r2g-smooth")
    page.hover(3)
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
    times = []
    for x, y in places[1:] + places:
        page.js(
            "window.painted = new Promise((done) => document.addEventListener('mouseover',"
            "(e) => requestAnimationFrame(() => { const c = new MessageChannel();"
            "c.port1.onmessage = () => done(performance.now() - e.timeStamp);"
            "c.port2.postMessage(0); }), { once: true })); 0"
        )
        page.mouse("mouseMoved", x, y)
        times.append(page.js("window.painted"))
    record_property("hover_ms", sorted(round(one, 1) for one in times))
    print(f"hover to painted frame: median {np.median(times):.1f} ms, worst {max(times):.1f} ms")
    # The aim is 50 ms; machines that run other work beside the test get room.
    assert np.median(times) < 1000


@pytest.mark.parametrize("width", [1200, 360])
def test_it_fits_the_window(page, tmp_path, width):
    both = side_by_side(
        made("R2Gen", title="Where two models look"),
        made("MRNA with sentence memory", sentences=(0,) * 5 + (1,) * 3),
    )
    opened(page, tmp_path, both, width)
    page.hover(3)
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
