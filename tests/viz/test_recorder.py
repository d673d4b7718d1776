"""The recorder's numbers, payload, page and static twin, of made data: no model."""

import base64
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt

from r2genkit.errors import KitError
from r2genkit.viz.widgets.microscope import BEGIN
from r2genkit.viz.widgets.parts import FindingMark
from r2genkit.viz.widgets.recorder import (
    Constant,
    RecorderData,
    payload,
    recorder_figure,
    recorder_html,
    recorder_widget,
    sentences,
    spread,
)

WORDS = ("small", "effusion", ".", "no", "pneumothorax", ".")
SLOTS, SIZE = 3, 10
PLACES = ("self-attention", "attention to patches", "feed-forward")


def made(**options):
    rng = np.random.default_rng(0)
    rows = len(WORDS) + 1
    memory = rng.normal(size=(rows, SLOTS, SIZE))
    held = Constant(
        (*WORDS[:2], ".", "no", "nodule", "."),
        (FindingMark(4, 5, "nodule", "negative", (3,)),),
        np.linspace(0.2, 0.4, len(WORDS)),
    )
    return RecorderData(
        **{
            "title": "Memory recorder",
            "system": "writer",
            "words": WORDS,
            "memory": memory,
            "gates": {"input": rng.random(memory.shape), "forget": rng.random(memory.shape)},
            "course": {
                "change": rng.random((rows, SLOTS)) + 0.5,
                "length": np.linalg.norm(memory, axis=-1),
            },
            "cosine": np.full((rows, 3), 0.95),
            "probability": np.linspace(0.5, 1, len(WORDS)),
            "sublayers": PLACES,
            "moving": {"gain": rng.random((rows, 3)), "bias": rng.random((rows, 3))},
            "constant": {"gain": np.array([0.3, 0.4, 0.5]), "bias": np.array([0.1, 0.1, 0.1])},
            "held": held,
            "findings": (FindingMark(1, 2, "effusion", "positive"),),
            "synthetic": True,
        }
        | options
    )


def without_norms():
    return made(sublayers=(), moving={}, constant={}, held=None)


def test_spread_is_mean_and_the_range_of_four_fifths():
    gate = np.arange(11.0)[None, None] / 10
    np.testing.assert_allclose(spread(gate)[0, 0], [0.5, 0.1, 0.9])


def test_sentences_say_the_numbers():
    data = made()
    told = sentences(data)
    assert told[0] == (
        "Cosine between its 3 slots over the report: 0.95 to 0.95; they hold nearly the same "
        "vector."
    )
    mean = data.gates["input"].mean()
    later = data.course["change"][3:].mean()
    assert f"input {mean:.2f}" in told[1] and f"by {later:.2f} of its length" in told[1]
    whole = np.sqrt((0.3**2 + 0.4**2 + 0.5**2) / 3)
    single = np.sqrt((data.moving["gain"] ** 2).mean())
    assert told[2].startswith("Change to the gain of the layer norms:")
    assert f"{whole:.3f} is the same for every word, {single:.3f} belongs" in told[2]
    assert f"{2 / 12:.0%} of the words change" in told[4] and "from 0.750 to 0.300" in told[4]
    assert len(sentences(without_norms())) == 2
    apart = sentences(made(cosine=np.full((7, 3), 0.2)))[0]
    assert "nearly" not in apart


def test_payload_holds_every_row_and_the_vectors():
    data = made()
    content = payload(data)
    assert content["readers"] == [BEGIN, *WORDS]
    groups = {group["name"]: group for group in content["groups"]}
    assert list(groups) == [
        "input gate", "forget gate", "change", "length", "layer-norm gain", "layer-norm bias",
        "probability of the next word",
    ]  # fmt: skip
    np.testing.assert_allclose(
        [row["values"] for row in groups["forget gate"]["rows"]],
        data.gates["forget"].mean(-1).T,
        atol=1e-3,
    )
    gain = groups["layer-norm gain"]
    assert [row["name"] for row in gain["rows"]] == list(PLACES)
    np.testing.assert_allclose(gain["rows"][2]["values"], data.moving["gain"][:, 2], atol=1e-4)
    assert gain["high"] == pytest.approx(data.moving["gain"].max(), abs=1e-4)
    said = groups["probability of the next word"]["rows"]
    assert said[0]["values"][-1] is None and said[0]["values"][0] == 0.5
    assert said[1]["values"][:-1] == pytest.approx(data.held.probability, abs=1e-3)
    stripes = np.frombuffer(base64.b64decode(content["memory"]), np.uint8).astype(float) - 128
    top = np.abs(data.memory).max()
    np.testing.assert_allclose(stripes / 127 * top, data.memory.ravel(), atol=top / 127)
    assert content["held"]["old_changed"] == [False] * 4 + [True, False]
    assert content["held"]["new_changed"] == [False] * 4 + [True, False]
    bare = payload(without_norms())
    assert bare["held"] is None and len(bare["groups"]) == 5
    assert len(bare["groups"][-1]["rows"]) == 1


def test_page_and_widget_have_the_same_content():
    data = made(title="</script><script>alert(1)</script>")
    page = recorder_html(data)
    assert page.count("<script") == 2
    widget = recorder_widget(data)
    assert widget.data == payload(data) and not widget.answers


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def test_figure_shows_the_same_numbers():
    data = made()
    figure = recorder_figure(data)
    change, gates, norms, last = figure.axes
    for slot in range(SLOTS):
        assert (change.get_lines()[slot].get_ydata() == data.course["change"][:, slot]).all()
    np.testing.assert_allclose(gates.get_lines()[0].get_ydata(), data.gates["input"][:, 0].mean(-1))
    drawn = {line.get_label(): line.get_ydata() for line in norms.get_lines()}
    assert (drawn["feed-forward: the word"] == data.moving["gain"][:, 2]).all()
    assert drawn["feed-forward: all words"][0] == 0.5
    with_memory, constants = (line.get_ydata() for line in last.get_lines())
    assert (with_memory == data.probability).all() and (constants == data.held.probability).all()
    assert [label.get_text() for label in last.get_xticklabels()] == [BEGIN, *WORDS]
    assert "synthetic phantom images" in texts(figure)
    assert len(recorder_figure(without_norms()).axes) == 3


def test_data_that_do_not_belong_together_are_refused():
    data = made()
    with pytest.raises(KitError, match="report is empty"):
        made(words=())
    with pytest.raises(KitError, match=r"memory is \[6, 3, 10\]; expected \[7, slots, size\]"):
        made(memory=data.memory[:-1])
    with pytest.raises(KitError, match="gate 'forget' is"):
        made(gates={"input": data.gates["input"]})
    with pytest.raises(KitError, match="course 'length' is"):
        made(course={"change": data.course["change"]})
    with pytest.raises(KitError, match="moving 'bias' is"):
        made(moving={"gain": data.moving["gain"]})
    with pytest.raises(KitError, match=r"probability is \[6\]; expected \[6\] without gaps"):
        made(probability=np.full(6, np.nan))
    with pytest.raises(KitError, match="cosine is"):
        made(cosine=np.zeros((7, 2)))


def test_no_torch_is_loaded():
    code = "import sys, r2genkit.viz.widgets.recorder; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
