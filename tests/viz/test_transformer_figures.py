"""Figures from inside a Transformer: heads over patches, memory over words, norms that it moves."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from r2genkit.batches import collate
from r2genkit.decoding import DecodingConfig, decode
from r2genkit.errors import KitError
from r2genkit.models import build_model
from r2genkit.phantom import Patient, PhantomView, PlacedFinding, finding_masks
from r2genkit.study import Study, View
from r2genkit.viz.transformer import (
    BEGIN,
    constant_and_moving,
    drawn_masks,
    effective_patches,
    head_attention_figure,
    head_summary_figure,
    mask_strength,
    memory_figure,
    memory_rows,
    norm_change_figure,
    norm_changes,
    words_read,
)

WORDS = ["heart", "is", "$5", "big", "."]


@pytest.fixture(autouse=True)
def closed_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(plt.Text))


def traced(variant="rm_mcln", layers=2):
    """A small model and the traces of one text of five words."""
    settings = {"size": 8, "feed_forward_size": 8, "heads": 2, "memory_heads": 2, "slots": 3}
    settings |= {"encoder_layers": 1, "decoder_layers": layers, "variant": variant}
    model = build_model("r2gen", settings, vocabulary_size=9, feature_dim=6, seed=0).eval()
    torch.manual_seed(0)
    batch = collate(["a"], torch.ones(1, 2, dtype=torch.bool), features=torch.randn(1, 2, 16, 6))
    rule = DecodingConfig(max_length=6, min_length=5)
    (hypothesis,) = decode(model, batch, rule, trace=True)[0]
    return model, {name: value[:5] for name, value in hypothesis.trace.items()}


def study_of(*findings, corpus="phantom"):
    patient = Patient("one", findings)
    views = [View(f"one_{p}", p, PhantomView(patient, p)) for p in ("frontal", "lateral")]
    return Study("one", tuple(views), "", "", corpus=corpus)


def placed(name, side, place, severity=None):
    return PlacedFinding(name, side, place, severity, False, name, "code", "code")


def test_words_are_read_one_step_after_they_are_written():
    assert words_read(["a", "b", "c"]) == [BEGIN, "a", "b"]
    assert words_read(["a"]) == [BEGIN] and words_read([]) == []


# --- attention over patches -----------------------------------------------------------------


def test_patches_in_use_are_counted():
    attention = np.zeros((3, 2, 4))
    attention[0] = 1 / 8
    attention[1, 1, 2] = 1.0
    attention[2, 0, :2] = 0.5
    np.testing.assert_allclose(effective_patches(attention), [8, 1, 2])


def test_masks_are_the_drawn_ones_and_findings_of_a_type_share_one():
    left, right = (placed("effusion", side, "", "large") for side in ("left", "right"))
    heart = placed("cardiomegaly", "midline", "", "severe")
    study = study_of(left, heart, right)
    masks = drawn_masks(study, 64)
    assert list(masks) == ["effusion", "cardiomegaly"]
    exact = finding_masks(study.views[0].image.patient, 64)
    for view, projection in enumerate(("frontal", "lateral")):
        want = exact[0, projection] | exact[2, projection]
        np.testing.assert_array_equal(masks["effusion"][view], want)
        np.testing.assert_array_equal(masks["cardiomegaly"][view], exact[1, projection])
    assert drawn_masks(study_of(), 64) == {}
    flipped = Study("one", study.views[::-1], "", "")
    np.testing.assert_array_equal(drawn_masks(flipped, 64)["effusion"], masks["effusion"][::-1])


def test_other_corpora_have_no_masks(tmp_path):
    view = View("x", "frontal", tmp_path / "x.png")
    assert drawn_masks(Study("x", (view,), "", ""), 64) == {}


def test_strength_is_one_where_attention_is_even():
    mask = np.zeros((2, 30, 32), dtype=bool)  # 30 rows do not fall evenly into a grid of 4
    mask[0, 3:17, 5:21] = True
    even = np.full((2, 16), 1 / 32)
    assert mask_strength(even, mask) == pytest.approx(1.0)
    assert mask_strength(even, mask, grid=(2, 8)) == pytest.approx(1.0)


def test_strength_by_hand():
    mask = np.zeros((1, 8, 8), dtype=bool)
    mask[0, :4, :2] = True  # half of the first of four patches: 8 of 64 pixels
    attention = np.zeros((2, 1, 4))
    attention[0, 0] = [0.6, 0.2, 0.1, 0.1]
    attention[1, 0, 3] = 1.0
    np.testing.assert_allclose(mask_strength(attention, mask), [0.6 * 0.5 / 0.125, 0.0])
    assert mask_strength(attention[:, None], mask).shape == (2, 1)


@pytest.mark.parametrize(
    ("mask", "grid", "message"),
    [
        (np.zeros((2, 8, 8), dtype=bool), None, "something in it"),
        (np.ones((1, 8, 8), dtype=bool), None, "2 views"),
        (np.ones((2, 8, 8), dtype=bool), (3, 3), "no 3 x 3 grid"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, grid, message):
    with pytest.raises(KitError, match=message):
        mask_strength(np.full((2, 16), 1 / 32), mask, grid)


def test_heat_stands_where_a_head_looks():
    images = np.random.default_rng(0).random((2, 32, 32))
    attention = np.full((5, 2, 2, 16), 1 / 32)
    attention[3, 1] = 0.0
    attention[3, 1, 1, 6] = 1.0  # fourth word, second head: second view, row 2, column 3 of 4 x 4
    outline = np.zeros((2, 32, 32), dtype=bool)
    outline[1, 4:20, 4:20] = True
    figure = head_attention_figure(
        images, attention, WORDS, indices=[2, 3], masks={"effusion": outline}, synthetic=True
    )
    alphas = [axis.images[1].get_alpha() for axis in figure.axes[:6]]  # 2 words x (mean, 2 heads)
    for place in (0, 1, 2, 4):
        assert not alphas[place].any()
    for place in (3, 5):  # the mean of the heads shows it, too
        row, column = np.unravel_index(alphas[place].argmax(), alphas[place].shape)
        assert 8 <= row < 16 and 48 <= column < 56
    assert alphas[5].max() >= alphas[3].max()
    shown = texts(figure)
    for part in ("3. \\$5", "4. big", "head 2\nfrontal | lateral", "effusion", "synthetic"):
        assert part in shown
    vertices = np.concatenate([p.vertices for p in figure.axes[0].collections[0].get_paths()])
    assert vertices[:, 0].min() > 32 and vertices[:, 1].max() < 21
    figure.canvas.draw()


def test_one_view_and_no_outline():
    attention = np.zeros((5, 2, 2, 16))
    attention[:, :, 0] = 1 / 16
    figure = head_attention_figure(np.zeros((1, 8, 8)), attention, WORDS, indices=[0])
    assert figure.axes[0].get_title() == "mean of the heads\nview 1"
    assert "synthetic" not in texts(figure) and not figure.legends
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": WORDS[:-1]}, "4 words"),
        ({"attention": np.full((5, 2, 16), 1 / 32)}, "expected"),
        ({"indices": []}, "at least one"),
        ({"indices": [5]}, "by position"),
        ({"grid": (3, 3)}, "no 3 x 3 grid"),
        ({"images": np.zeros((1, 8, 8))}, "do not belong together"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {
        "images": np.zeros((2, 8, 8)),
        "attention": np.full((5, 2, 2, 16), 1 / 32),
        "words": WORDS,
        "indices": [0],
        **change,
    }
    with pytest.raises(KitError, match=message):
        head_attention_figure(**given)


# --- heat maps over words -------------------------------------------------------------------


def maps_of(figure):
    """Title, rows and row names of each heat map."""
    found = []
    for axis in figure.axes:
        title = axis.get_title(loc="left")
        if title:
            names = [label.get_text() for label in axis.get_yticklabels()]
            values = np.asarray(axis.collections[0].get_array()).reshape(len(names), -1)
            found.append((title, values, names))
    return found


def test_every_head_of_every_layer_has_a_row():
    _, trace = traced("base")
    attention = trace["cross_attention"]
    figure = head_summary_figure(trace, WORDS, synthetic=True)
    (_, wide, names), (title, first, _) = maps_of(figure)
    assert names == [f"layer {i}, head {j}" for i in (1, 2) for j in (1, 2)]
    assert title == "share of attention on the frontal view"
    np.testing.assert_allclose(first[2], attention[:, 1, 0, 0].sum(-1))
    np.testing.assert_allclose(wide[1], effective_patches(attention[:, 0, 1]))
    bottom = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert bottom == ["heart", "is", "\\$5", "big", "."]
    assert "synthetic" in texts(figure)
    figure.canvas.draw()
    single = {"cross_attention": attention[:, :, :, :1]}
    assert len(maps_of(head_summary_figure(single, WORDS))) == 1


def test_memory_rows_by_hand():
    memory = np.zeros((2, 2, 3))
    memory[0] = [[2, 0, 0], [0, 3, 0]]  # start: unit vectors
    memory[1] = [[2, 0, 0], [3, 0, 0]]
    gate = np.arange(12.0).reshape(2, 2, 3)
    rows = memory_rows({"memory": memory, "input_gate": gate, "forget_gate": gate / 2})
    np.testing.assert_allclose(rows["input gate"], [[1, 4], [7, 10]])
    np.testing.assert_allclose(rows["forget gate"], [[0.5, 2], [3.5, 5]])
    np.testing.assert_allclose(rows["change"], [[1 / 2, 2 / 3], [0, math.sqrt(18) / 3]])
    np.testing.assert_allclose(rows["cosine"], [[0], [1]])
    one = {name: value[:, :1] for name, value in (("memory", memory), ("input_gate", gate))}
    assert memory_rows({**one, "forget_gate": gate[:, :1]})["cosine"].shape == (2, 0)


@pytest.mark.parametrize("variant", ["rm", "rm_mcln"])
def test_memory_figure_shows_words_as_they_are_read(variant):
    _, trace = traced(variant)
    figure = memory_figure(trace, WORDS, synthetic=True)
    shown = maps_of(figure)
    assert [names for *_, names in shown] == [
        *[["slot 1", "slot 2", "slot 3"]] * 3,
        ["slots 1, 2", "slots 1, 3", "slots 2, 3"],
    ]
    np.testing.assert_allclose(shown[0][1], trace["input_gate"].mean(-1).T, rtol=1e-6)
    bottom = [label.get_text() for label in figure.axes[3].get_xticklabels()]
    assert bottom == [BEGIN, "heart", "is", "\\$5", "big"]
    figure.canvas.draw()


def test_traces_that_are_missing_or_of_another_text_are_refused():
    model, trace = traced("base")
    with pytest.raises(KitError, match='none rows of "memory"'):
        memory_figure(trace, WORDS)
    with pytest.raises(KitError, match='5 rows of "cross_attention" for 4 words'):
        head_summary_figure(trace, WORDS[:4])
    with pytest.raises(KitError, match="for 0 words"):
        head_summary_figure(trace, [])
    with pytest.raises(KitError, match="rm_mcln"):
        norm_changes(model, np.zeros((5, 3, 8)))


# --- memory-driven layer norms --------------------------------------------------------------


def test_norm_changes_are_what_the_norms_add():
    model, trace = traced()
    changes = norm_changes(model, trace["memory"])
    assert changes["scale"].shape == changes["shift"].shape == (5, 6, 8)
    rows = torch.from_numpy(trace["memory"]).flatten(1)[None]  # [1, T, s*D]
    x = torch.randn(1, 5, 8)
    norm = model.decoder.layers[1].norms[2]
    scale = norm.scale + torch.from_numpy(changes["scale"][:, 5])
    shift = norm.shift + torch.from_numpy(changes["shift"][:, 5])
    plain = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
    with torch.no_grad():
        torch.testing.assert_close(norm(x, rows), scale * plain + shift)


def test_a_change_falls_into_a_constant_and_the_rest():
    change = np.zeros((2, 1, 4))
    change[0, 0], change[1, 0] = [3, 3, 3, 3], [1, 1, 1, 1]
    constant, moving = constant_and_moving(change)
    np.testing.assert_allclose(constant, [2])
    np.testing.assert_allclose(moving, [[1], [1]])


def test_norm_figure_tells_sublayers_and_constants():
    model, trace = traced(layers=1)
    changes = norm_changes(model, trace["memory"])
    figure = norm_change_figure(changes, WORDS, synthetic=True)
    (title, values, names), (below, _, _) = maps_of(figure)
    assert title.startswith("scale") and below.startswith("shift")
    constant, moving = constant_and_moving(changes["scale"])
    np.testing.assert_allclose(values, moving.T, rtol=1e-6)
    assert names[1] == f"attention to patches (constant {constant[1]:.2f})"
    two_layers = norm_change_figure(
        {name: np.concatenate([value, value], 1) for name, value in changes.items()}, WORDS
    )
    assert maps_of(two_layers)[0][2][3].startswith("2: self-attention")
    figure.canvas.draw()
