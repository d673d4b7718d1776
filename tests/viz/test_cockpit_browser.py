"""The cockpit in a real browser: sliders, baselines, words, training, and a kernel that draws."""

import math

import numpy as np
import pytest

from r2genkit.viz.widgets.cockpit import (
    BASELINES,
    DOWN,
    UP,
    baseline_of,
    cockpit_html,
    mixed,
    smoothed,
    spread,
)
from tests.viz.conftest import BROWSER
from tests.viz.test_cockpit import HOSTILE, draw, hostile, made

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
    pytest.mark.slow,
]

MIXES = ({"cider_d": 1.0}, {"cider_d": 0.3, "bleu4": 1.2, "finding_f1": 2.0}, {})


def opened(page, folder, data, width=1200):
    page.show(cockpit_html(data), folder, width)


def set_value(page, selector, value, nth=0, event="input"):
    page.js(
        f"(() => {{ const s = document.querySelectorAll('{selector}')[{nth}];"
        f"s.value = {value}; s.dispatchEvent(new Event('{event}')); }})()"
    )


def assert_sums(got, own, weights, baseline, group):
    """What the page shows of a draw against the same sums in Python."""
    reward = mixed(own.parts(), weights)
    best = sum(own.greedy.rewards[name] * weight for name, weight in weights.items())
    assert got["reward"] == pytest.approx(reward, abs=1e-4)
    assert got["greedy"] == pytest.approx(best, abs=1e-4)
    base = baseline_of(reward, baseline, best)
    assert got["baseline"] == pytest.approx(base, abs=1e-4)
    assert got["advantage"] == pytest.approx(reward - base, abs=1e-4)
    for kind, value in got["spreads"].items():
        assert value == pytest.approx(spread(reward, own.gram, group, kind, best), rel=2e-3)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("number", range(len(MIXES)))
def test_sliders_and_baselines_do_the_sums_of_python(page, tmp_path, baseline, number):
    data, weights = made(), MIXES[number]
    opened(page, tmp_path, data)
    for nth, name in enumerate(("cider_d", "bleu4", "finding_f1")):
        set_value(page, ".r2g-weight", weights.get(name, 0), nth)
    page.click(f"[data-baseline={baseline}]")
    for group in (2, 7):
        set_value(page, ".r2g-group", group)
        for study in (0, 1):
            page.js(f"window.r2genkit.study({study})")
            found = page.state()
            assert (found["baseline"], found["group"]) == (baseline, group)
            assert list(BASELINES) == list(found["sides"][0]["spreads"])
            for side, got in enumerate(found["sides"]):
                assert_sums(got, data.draw(study, side), weights, baseline, group)
    hidden = page.js("document.querySelector('.r2g-nothing').hidden")
    assert hidden is bool(weights)  # without any weight nothing is pushed, and the page says so


def test_cards_tell_the_advantage_by_sign_and_word(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    own = data.draw(0, 0)
    reward = mixed(own.parts(), {"cider_d": 1.0})
    advantage = reward - baseline_of(reward, "leave_one_out", 0.0)
    shown = page.texts(".r2g-side:first-child .r2g-card .r2g-push")[1:]
    for value, text in zip(advantage, shown, strict=True):
        sign, word = (UP, "pushed up") if value > 0 else (DOWN, "pushed down")
        number = f"{abs(value):.2f}"
        assert text == f"{sign} {'+' if value > 0 else chr(0x2212)}{number} {word}"
    page.click(".r2g-sort")
    names = page.texts(".r2g-side:first-child .r2g-card strong")
    order = np.argsort(-advantage, kind="stable")
    assert names == ["greedy report", *(f"sample {i + 1}" for i in order)]
    # Bars stand on the side of their sign, the longest the largest.
    bars = page.js(
        "Array.from(document.querySelectorAll('.r2g-side:first-child .r2g-card rect'))"
        ".slice(1).map((r) => [Number(r.getAttribute('x')), Number(r.getAttribute('width'))])"
    )
    for place, (x, width) in zip(order, bars, strict=True):
        assert (x < 0) is bool(advantage[place] < 0) and x in (0, -width)
    lengths = [width for _, width in bars]
    assert np.argmax(lengths) == np.argmax(np.abs(advantage[order]))


def test_what_a_model_was_paid_is_one_click(page, tmp_path):
    opened(page, tmp_path, made())
    buttons = page.texts("fieldset:first-child .r2g-action")
    assert buttons == ["as CIDEr-D was paid", "as CIDEr-D + findings was paid"]
    page.click("fieldset:first-child .r2g-action", 1)
    assert page.state()["weights"] == [1, 0, 1]
    pressed = "document.querySelectorAll('fieldset:first-child .r2g-action')[{}].ariaPressed"
    assert [page.js(pressed.format(nth)) for nth in (0, 1)] == ["false", "true"]


def test_words_are_tinted_and_tell_their_probability(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    first = data.draw(0, 0).samples[0]
    cards = ".r2g-side:first-child .r2g-card:nth-child(2) .r2g-tinted"
    tints = page.js(
        f"Array.from(document.querySelectorAll('{cards}'))"
        ".map((e) => [e.style.background, e.classList.contains('r2g-rare')])"
    )
    for (colour, rare), value in zip(tints, first.log_probs, strict=True):  # and the end mark
        alpha = float(colour.rstrip(")").split(",")[-1])
        assert alpha == pytest.approx(0.55 * min(1, -value / 5), abs=3e-3)
        assert rare is (math.exp(value) < 0.05)
    page.hover(cards, 1)
    told = page.texts(".r2g-side:first-child .r2g-word-readout")[0]
    assert told.startswith("2. effusion — probability ")
    assert f"log {first.log_probs[1]:.2f}; whole report {sum(first.log_probs):.1f}" in told
    page.js("document.querySelector('.r2g-side .r2g-card:nth-child(2) .r2g-drawn-text').focus()")
    page.key("Home")
    assert page.texts(".r2g-side:first-child .r2g-word-readout")[0].startswith("1. small")
    page.key("End")
    assert page.texts(".r2g-side:first-child .r2g-word-readout")[0].startswith("end mark")
    page.key("ArrowLeft")
    assert page.texts(".r2g-side:first-child .r2g-word-readout")[0].startswith("3. .")
    ends = page.texts(".r2g-side:first-child .r2g-end")[1:]  # every second sample was cut
    assert ends == ["(end)", "(cut)", "(end)", "(cut)", "(end)"]


def test_the_comparison_can_be_of_any_two_models(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    set_value(page, ".r2g-system", 2, nth=0, event="change")
    found = page.state()
    assert [side["system"] for side in found["sides"]] == ["mixed", "cider"]
    assert_sums(found["sides"][0], data.draw(0, 2), {"cider_d": 1.0}, "leave_one_out", 4)
    heads = page.texts(".r2g-tablebox th")
    assert heads == ["5 samples", "CIDEr-D + findings", "CIDEr-D"]
    lines = {
        row[0]: row[1:]
        for row in page.js(
            "Array.from(document.querySelectorAll('.r2g-tablebox tbody tr'), (r) =>"
            "Array.from(r.children, (c) => c.textContent))"
        )
    }
    assert lines["distinct reports"] == ["0.80", "0.80"]
    reward = mixed(data.draw(0, 2).parts(), {"cider_d": 1.0})
    assert lines["mean reward of the samples"][0] == f"{reward.mean():.2f}"
    advantage = reward - baseline_of(reward, "leave_one_out", 0.0)
    assert lines["standard deviation of advantages"][0] == f"{advantage.std():.2f}"


def test_the_cursor_reads_the_training(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    timeline = data.systems[1].timeline
    smooth = smoothed(timeline["reward"], 4)
    set_value(page, ".r2g-cursor", 6)
    found = page.state()["timeline"]
    assert (found["system"], found["index"], found["step"]) == ("CIDEr-D", 6, timeline["step"][6])
    assert page.texts(".r2g-told") == [f"After {timeline['step'][6]} minibatches:"]
    assert f"reward {smooth[6]:.3f}, baseline {smooth[6]:.3f}" in found["captions"][0]
    x, y = page.centre(".r2g-charts svg", 1)  # pointing moves it, too: the middle of 20 numbers
    page.mouse("mouseMoved", x + 1, y)
    assert page.state()["timeline"]["index"] in (9, 10)
    set_value(page, ".r2g-timeline select", 1, event="change")
    assert page.state()["timeline"]["system"] == "CIDEr-D + findings"
    assert page.state()["timeline"]["index"] == 8


def test_a_page_says_what_needs_the_kernel(page, tmp_path):
    opened(page, tmp_path, made())
    assert page.js("document.querySelector('.r2g-again').disabled")
    assert page.js("document.querySelector('.r2g-temperature').disabled")
    assert "this page has no kernel" in page.texts(".r2g-nokernel")[0]


def test_no_text_is_markup(page, tmp_path):
    opened(page, tmp_path, hostile())
    page.hover(".r2g-card .r2g-tinted", 0)
    assert page.js("window.hacked === undefined")
    assert page.js("document.scripts.length") == 2
    assert page.texts("h1") == [HOSTILE]
    assert page.js("document.querySelectorAll('img[onerror], img[src=x]').length") == 0
    asked = [e for e in page.events if e["method"] == "Network.requestWillBeSent"]
    schemes = {event["params"]["request"]["url"].split(":")[0] for event in asked}
    assert schemes <= {"file", "data"}


@pytest.mark.parametrize("width", [1200, 360])
def test_it_fits_the_window(page, tmp_path, width):
    opened(page, tmp_path, made(), width)
    assert page.js("[document.documentElement.scrollWidth, window.innerWidth]") == [width, width]
    tops = page.js(
        "Array.from(document.querySelectorAll('.r2g-side'), (e) => e.getBoundingClientRect().top)"
    )
    assert (tops[0] == tops[1]) is (width == 1200)  # beside each other, or one above the other


def test_a_hover_is_painted_at_once(page, tmp_path, record_property):
    opened(page, tmp_path, made())
    count = page.js("document.querySelectorAll('.r2g-card .r2g-tinted').length")
    times = [
        page.painted_ms(lambda nth=nth: page.hover(".r2g-card .r2g-tinted", nth))
        for nth in range(0, min(count, 24), 2)
    ]
    slides = []
    for value in (0.1, 1.9) * 4:
        slides.append(
            page.js(
                "(() => { const s = document.querySelector('.r2g-weight');"
                "const t = performance.now();"
                f"s.value = {value}; s.dispatchEvent(new Event('input'));"
                "return new Promise((done) => requestAnimationFrame(() => { const c ="
                "new MessageChannel(); c.port1.onmessage = () => done(performance.now() - t);"
                "c.port2.postMessage(0); })); })()"
            )
        )  # fmt: skip
    record_property("hover_ms", sorted(round(one, 1) for one in times))
    print(f"hover to painted frame: median {np.median(times):.1f} ms, worst {max(times):.1f} ms")
    print(f"slider to painted frame: median {np.median(slides):.1f} ms, worst {max(slides):.1f} ms")
    # The aim is 50 ms; machines that run other work beside the test get room.
    assert np.median(times) < 1000 and np.median(slides) < 1000


def test_in_jupyterlab_the_models_draw_again(lab):
    tab = lab(
        "from r2genkit.viz.widgets.cockpit import cockpit_widget\n"
        "from tests.viz.test_cockpit import answer, made",
        "cockpit = cockpit_widget(made(), answer)\ncockpit",
    )
    found = "document.querySelector('.jp-OutputArea .r2g').r2genkit.state()"
    assert tab.js("document.querySelector('.r2g-nokernel')") is None
    before = tab.js(found)["sides"]
    set_value(tab, ".r2g-temperature", 0.5)
    set_value(tab, ".r2g-seed", 4)
    set_value(tab, ".r2g-samples", 3)
    tab.click(".r2g-again")
    tab.wait(f"{found}.sides.every((side) => side.samples === 3)")
    sides = tab.js(found)["sides"]
    assert [side["system"] for side in sides] == [side["system"] for side in before]
    for side in sides:  # what the made sampler gives for seed 4
        assert (side["temperature"], side["seed"]) == (0.5, 4)
        assert_sums(side, draw(54, 3, 0.5), {"cider_d": 1.0}, "leave_one_out", 4)
    assert "Training draws at temperature 1" in tab.texts(".r2g-side .r2g-about")[0]
    # What Python refuses is told in its words, and the draws stay.
    set_value(tab, ".r2g-samples", 12)
    tab.click(".r2g-again")
    tab.wait(f"{found}.error !== ''")
    assert tab.js(found)["error"] == "ask for at most 9 samples."
    assert [side["samples"] for side in tab.js(found)["sides"]] == [3, 3]
