"""The two hosts of every front end: questions to the kernel, and what they say when it fails."""

import json
import sys
from types import SimpleNamespace

import pytest
import traitlets

from r2genkit.errors import KitError
from r2genkit.viz.widgets.host import FrontEnd, answered, live, page_html

DRAW = """
function draw(root, data, ask, tell) {
  const said = make("output", {}, "");
  const button = make("button", { type: "button", class: "r2g-action", disabled: !ask }, "ask");
  const talk = async (n) => {
    try {
      const answer = await ask({ n });
      said.append(answer === null ? `[${n} replaced]` : `[${n}: ${answer.double}]`);
    } catch (error) {
      said.append(`[${n}: ${error.message}]`);
    }
  };
  button.addEventListener("click", () => { for (const n of data.questions) talk(n); });
  const other = make("button", { type: "button" }, "tell");
  other.addEventListener("click", () => tell({ chosen: 3 }));
  root.append(make("h1", {}, data.title), button, other, said);
  return { state: () => said.textContent };
}
"""
FRONT = FrontEnd("double", DRAW, ".r2g-double button { color: #a80000; }\n")


def double(question):
    if question["n"] == 3:
        raise KitError("3 is too many: ask for less.")
    return {"double": 2 * question["n"]}


def test_an_answer_or_one_sentence(caplog):
    assert answered(double, {"n": 4}) == {"double": 8}
    assert answered(double, {"n": 3}) == {"error": "3 is too many: ask for less."}
    assert not caplog.records
    assert answered(double, {}) == {"error": "KeyError: 'n'"}
    (record,) = caplog.records  # where it failed is not lost
    assert record.exc_info[0] is KeyError


@pytest.fixture
def anywidget(monkeypatch):
    """Its traits without its front end."""

    class AnyWidget(traitlets.HasTraits):
        pass

    monkeypatch.setitem(sys.modules, "anywidget", SimpleNamespace(AnyWidget=AnyWidget))


def test_questions_and_answers_bear_the_same_number(anywidget):
    widget = live(FRONT, {"title": "x"}, double)
    assert widget.answers and widget.data == {"title": "x"}
    widget.question = {"n": 5, "number": 7}
    assert widget.answer == {"double": 10, "number": 7}
    widget.question = {"n": 3, "number": 8}
    assert widget.answer == {"error": "3 is too many: ask for less.", "number": 8}


def test_without_an_answer_nothing_is_asked(anywidget):
    widget = live(FRONT, {"title": "x"})
    widget.question = {"n": 5, "number": 7}
    assert not widget.answers and widget.answer == {}


def test_page_and_widget_run_the_same_text(anywidget):
    widget = live(FRONT, {})
    page = page_html(FRONT, {}, title="x")
    assert widget._esm in page and widget._css in page
    assert "export default { render }" in widget._esm


def test_rules_of_one_figure_touch_no_other():
    from r2genkit.viz.widgets import scrubber

    for front in (FRONT, scrubber.FRONT):
        heads = [line.split("{")[0] for line in front.rules.splitlines() if "{" in line]
        own = f".r2g-{front.name}"
        assert heads and all(own in head or head.startswith("@") for head in heads)


@pytest.mark.slow
def test_a_page_has_no_kernel(page, tmp_path):
    path = tmp_path / "double.html"
    path.write_text(
        page_html(FRONT, {"title": "<b>x</b>", "questions": []}, title="<b>x</b>"), encoding="utf-8"
    )
    page.open(path)
    assert page.js("document.querySelector('button').disabled")
    assert page.js("[document.title, document.querySelector('h1').textContent]") == ["<b>x</b>"] * 2


@pytest.mark.slow
def test_inside_jupyterlab_the_newest_question_waits(lab):
    """Of three questions at once only the last one counts, and its refusal is told."""
    tab = lab(
        f"""
import time
from IPython.display import display
from r2genkit.errors import KitError
from r2genkit.viz.widgets.host import FrontEnd, live

def double(question):
    time.sleep(0.2)
    if question["n"] == 3:
        raise KitError("3 is too many: ask for less.")
    return {{"double": 2 * question["n"]}}

first = {{"title": "x", "questions": [1, 2, 3]}}
figure = live(FrontEnd("double", {json.dumps(DRAW)}, ""), first, double)
more = {{"questions": [4]}}
heard = lambda change: setattr(figure, "data", more | {{"title": str(change["new"])}})
figure.observe(heard, "told")
display(figure)
"""
    )
    tab.click(".r2g-double button")
    tab.key("m")  # elsewhere in a notebook this makes text of the cell
    state = "document.querySelector('.r2g').r2genkit.state()"
    tab.wait(f"{state}.includes('[3:')")
    assert tab.js(state) == "[2 replaced][1 replaced][3: 3 is too many: ask for less.]"
    # What was told comes back as new data, which draw the figure anew.
    tab.click(".r2g-double button", 1)
    tab.wait("document.querySelector('.r2g h1').textContent === \"{'chosen': 3}\"")
    assert tab.js(state) == ""
    tab.click(".r2g-double button")
    tab.wait(f"{state} === '[4: 8]'")
    kinds = "jupyterapp.shell.currentWidget.content.widgets.map((cell) => cell.model.type)"
    assert tab.js(kinds) == ["code"]


@pytest.mark.slow
def test_inside_jupyterlab_every_figure_keeps_its_style(lab):
    """Two figures in one notebook, the second drawn after the first."""
    tab = lab(
        f"""
from IPython.display import display
from r2genkit.viz.widgets.host import FrontEnd, live

for name, colour in (("double", "#a80000"), ("other", "#0b63a0")):
    front = FrontEnd(name, {json.dumps(DRAW)}, f".r2g-{{name}} button {{{{ color: {{colour}}; }}}}")
    display(live(front, {{"title": name, "questions": []}}))
"""
    )
    tab.wait("Boolean(document.querySelector('.r2g-other button'))")
    seen = (
        "(name) => getComputedStyle(document.querySelector(`.r2g-${name} button + button`)).color"
    )
    assert tab.js(f"['double', 'other'].map({seen})") == ["rgb(168, 0, 0)", "rgb(11, 99, 160)"]
