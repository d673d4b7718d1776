"""The retrieval wall in a real browser: tiles, orders, K, seats, and a kernel that answers."""

import numpy as np
import pytest

from r2genkit.viz.widgets.wall import (
    EMPTY,
    SHARED,
    copied,
    copy_counts,
    copy_sentence,
    mean_findings,
    relation_counts,
    relations,
    wall_html,
)
from tests.viz.conftest import BROWSER
from tests.viz.test_wall import HOSTILE, SHOWS, TEXTS, hostile, made

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
    pytest.mark.slow,
]

KINDS = ("shared", "missing", "extra")


def opened(page, folder, data, width=1200):
    page.show(wall_html(data), folder, width)


def plain(page, selector):
    """The words of a text, without signs."""
    return page.js(
        f"(() => {{ const e = document.querySelector('{selector}').cloneNode(true);"
        "e.querySelectorAll('sup').forEach((s) => s.remove());"
        "return e.textContent.split(/\\s+/).filter(Boolean).join(' '); })()"
    )


def signed(page, selector, kind):
    """Words that bear the colour of a kind."""
    found = page.texts(f"{selector} .r2g-word.r2g-{kind}")
    return [text.rstrip("✓○✕") for text in found]


def test_a_click_shows_a_neighbour_beside_the_query(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    one = data.queries[0]
    hung = "Array.from(document.querySelectorAll('.r2g-tile'), (e) => e.dataset.study)"
    assert page.js(hung) == ["A", "B"]
    page.click(".r2g-tile", 1)
    assert (page.state()["study"], page.state()["tile"]) == ("B", 1)
    assert page.js("document.querySelectorAll('.r2g-tile')[1].getAttribute('aria-pressed')") == (
        "true"
    )
    both = ".r2g-compare .r2g-pair > div:nth-child({}) .r2g-text".format
    assert plain(page, both(1)) == " ".join(one.words)
    assert plain(page, both(2)) == TEXTS["B"]
    # Effusion is missing in B, the scar is shared, the large heart is extra.
    assert signed(page, both(1), "missing") == ["effusion"]
    assert signed(page, both(1), "shared") == signed(page, both(2), "shared") == ["scar"]
    assert signed(page, both(2), "extra") == ["heart"]
    assert "finding-F1 0.50, BLEU-4 0.10" in page.texts(".r2g-copy")[0]
    page.js("window.r2genkit.order('image'); 0")
    assert "finding-F1 –, BLEU-4 0.10" in page.texts(".r2g-copy")[0]  # C: nothing stated


@pytest.mark.parametrize("number", [0, 1])
def test_tiles_and_means_count_as_python_does(page, tmp_path, number):
    data = made()
    opened(page, tmp_path, data)
    page.js(
        "(() => { const s = document.querySelector('.r2g-query'); "
        f"s.value = '{number}'; s.dispatchEvent(new Event('change')); }})()"
    )
    one = data.queries[number]
    assert page.state()["query"] == one.id
    for nth, order in enumerate(data.orders):
        page.click(".r2g-orders button", nth)
        for k in (1, 2, 3):
            page.js(
                "(() => { const s = document.querySelector('.r2g-k');"
                f"s.value = {k}; s.dispatchEvent(new Event('input')); }})()"
            )
            hits = one.walls[order.key][:k]
            counts = page.texts(".r2g-tile .r2g-counts")
            assert counts == [
                relation_counts(one.findings, SHOWS[hit.study]).replace(" ", "") for hit in hits
            ]
            means = mean_findings(data, order.key, k, one)
            told = page.texts(".r2g-mean")[0]
            for kind, shown in zip(KINDS, page.texts(".r2g-mean .r2g-counts span")):
                assert shown.split()[1] == f"{means[kind]:.2f}"
            covered = {
                title for hit in hits for title in relations(one.findings, SHOWS[hit.study])[SHARED]
            }
            if one.findings:
                assert f"{len(covered)} of {len(one.findings)} findings" in told
            else:
                assert "the query has no finding" in told


def test_arrow_keys_walk_along_the_wall(page, tmp_path):
    opened(page, tmp_path, made())
    page.js("window.r2genkit.order('truth'); 0")
    page.js("(() => { const s = document.querySelector('.r2g-k'); s.value = 3;"
            "s.dispatchEvent(new Event('input')); })()")  # fmt: skip
    page.click(".r2g-tile", 0)
    for name, study in (
        ("ArrowRight", "A"),
        ("ArrowRight", "B"),
        ("ArrowRight", "B"),
        ("ArrowLeft", "A"),
        ("End", "B"),
        ("Home", "E"),
        ("ArrowLeft", "E"),
        ("ArrowDown", "B"),  # all stand in one row
        ("ArrowUp", "E"),
    ):
        page.key(name)
        assert page.state()["study"] == study, name
        assert page.js("document.activeElement.dataset.study") == study
    # One tab stop on the wall.
    assert page.js("document.querySelectorAll('.r2g-tile[tabindex=\"0\"]').length") == 1
    label = page.js("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("rank 1, training study E, likeness 1.00; shared: pleural effusion, s")


def seats_now(page):
    return [seat or EMPTY for seat in page.state()["seats"]]


def test_a_page_knows_what_was_written_in_advance(page, tmp_path):
    data = made()
    opened(page, tmp_path, data)
    one = data.queries[0]
    assert page.texts(".r2g-sums") == [copy_sentence(one)]
    page.click(".r2g-seats li:nth-child(1) [data-name^=out]")  # take A away
    assert seats_now(page) == ["", "B"]
    report = one.report(("", "B"))
    assert plain(page, ".r2g-written .r2g-text") == " ".join(report.words)
    assert page.js("document.activeElement.dataset.name") == "out 0"  # the keyboard stays there
    page.key("Enter")  # back
    assert seats_now(page) == ["A", "B"]
    # D was never tried: grey, with the reason beside it.
    page.js("window.r2genkit.order('image'); 0")
    page.js("(() => { const s = document.querySelector('.r2g-k'); s.value = 3;"
            "s.dispatchEvent(new Event('input')); })()")  # fmt: skip
    page.click(".r2g-tile", 2)
    assert page.js("document.querySelector('[data-name=\"put 0\"]').disabled")
    assert "this page has no kernel" in page.texts(".r2g-nokernel")[0]
    for nth, given in ((1, one.empty), (2, ("C", "A")), (3, ("E", "A")), (0, one.given)):
        page.click(".r2g-presets button", nth)
        assert tuple(seats_now(page)) == given
        counts = copy_counts(one, given)
        assert page.state()["counts"] == counts
        assert page.state()["report"] == " ".join(one.report(given).words)
        marks = page.texts(".r2g-written:first-child .r2g-ranks")
        held = [seats for seats in copied(one.report(given), given) if seats]
        assert marks == [",".join(str(seat + 1) for seat in seats) for seats in held]
        bare = {
            one.report(one.empty).words[s.first : s.end] for s in one.report(one.empty).sentences
        }
        new = page.texts(".r2g-written:first-child .r2g-sentence-new")
        report = one.report(given)
        assert len(new) == sum(report.words[s.first : s.end] not in bare for s in report.sentences)


def test_pointing_at_a_sentence_says_where_else_it_stands(page, tmp_path):
    opened(page, tmp_path, made())
    page.hover(".r2g-written .r2g-sentence-box", 0)
    told = page.texts(".r2g-sentence-info")[0]
    assert told.startswith(
        "small effusion . — word for word in the report on seat 1; in 20 training"
    )
    assert told.endswith("in this report only.")
    page.hover(".r2g-written .r2g-sentence-box", 1)
    assert page.texts(".r2g-sentence-info")[0].endswith("in both reports.")


def test_no_text_is_markup(page, tmp_path):
    opened(page, tmp_path, hostile())
    page.click(".r2g-tile", 1)
    page.hover(".r2g-written .r2g-sentence-box", 0)
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
    page.click(".r2g-tile", 1)
    assert page.js("[document.documentElement.scrollWidth, window.innerWidth]") == [width, width]
    wide = page.js(
        "Array.from(document.querySelectorAll('.r2g-tile'), (e) => e.getBoundingClientRect().width)"
    )
    assert min(wide) > 90


def test_a_click_is_painted_at_once(page, tmp_path, record_property):
    opened(page, tmp_path, made())
    times = []
    for nth in (1, 0) * 6:
        page.js(
            "window.painted = new Promise((done) => document.addEventListener('click',"
            "(e) => requestAnimationFrame(() => { const c = new MessageChannel();"
            "c.port1.onmessage = () => done(performance.now() - e.timeStamp);"
            "c.port2.postMessage(0); }), { once: true })); 0"
        )
        page.click(".r2g-tile", nth)
        times.append(page.js("window.painted"))
    record_property("click_ms", sorted(round(one, 1) for one in times))
    print(f"click to painted frame: median {np.median(times):.1f} ms, worst {max(times):.1f} ms")
    # The aim is 50 ms; machines that run other work beside the test get room.
    assert np.median(times) < 1000


def test_in_jupyterlab_the_model_writes_with_other_neighbours(lab):
    tab = lab(
        "from r2genkit.viz.widgets.wall import wall_widget\n"
        "from tests.viz.test_wall import answer, made",
        "wall = wall_widget(made(), answer)\nwall",
    )
    root = "document.querySelector('.jp-OutputArea .r2g')"
    tab.js(f"{root}.r2genkit.order('truth'); 0")
    tab.click(".r2g-tile", 0)  # E, which holds both findings
    assert tab.js(f"{root}.r2genkit.state().study") == "E"
    assert tab.js("document.querySelector('.r2g-nokernel')") is None
    tab.click('[data-name="put 0"]')
    tab.wait(f"{root}.r2genkit.state().report !== null")
    assert tab.js(f"{root}.r2genkit.state().seats") == ["E", "B"]
    assert plain(tab, ".r2g-written .r2g-text") == "small effusion . no scar ."
    assert "finding-F1 0.75" in tab.texts(".r2g-written .r2g-scores")[0]
    # What Python refuses is told in its words.
    tab.js(f"{root}.r2genkit.order('image'); 0")
    tab.js("(() => { const s = document.querySelector('.r2g-k'); s.value = 3;"
           "s.dispatchEvent(new Event('input')); })()")  # fmt: skip
    tab.click(".r2g-tile", 2)
    tab.click('[data-name="put 1"]')
    tab.wait("document.querySelector('.r2g-error') !== null")
    assert tab.texts(".r2g-error") == ["study D sits on no seat: choose another."]
    tab.click(".r2g-presets button", 0)
    assert tab.js(f"{root}.r2genkit.state().error") == ""
