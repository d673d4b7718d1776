"""Figures of a shared memory show what they are given."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from r2genkit.errors import KitError
from r2genkit.viz.memory import (
    SlotCard,
    alignment_figure,
    moved_figure,
    patch_crop,
    slot_figure,
    usage_figure,
)


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def test_usage_figure_counts_dead_slots_and_common_reading():
    patches = np.array([[0.5, 0.5, 0, 0], [0.25] * 4])
    words = np.array([[0.0, 0.25, 0.75, 0], [0.25] * 4])
    figure = usage_figure(patches, words, synthetic=True)
    shown = texts(figure)
    assert "25% of the reading in common" in shown and "100% of the reading in common" in shown
    assert shown.count("patches: 2 never read") == 1 and shown.count("words: 0 never read") == 1
    curve = figure.axes[0].lines[1]  # words, head 1
    assert curve.get_ydata().tolist() == [0.75, 0.25]
    assert len(figure.axes[2].collections[0].get_offsets()) == 4  # dead ones stand on the edge
    assert "synthetic phantom images" in shown
    assert len(usage_figure(patches, words, heads=1, synthetic=False).axes) == 2
    with pytest.raises(KitError, match=r"\[2, 4\] and of words \[1, 4\]"):
        usage_figure(patches, words[:1], synthetic=False)


def test_slot_figure_shows_words_crops_and_what_is_covered():
    crop = np.zeros((9, 9), np.uint8)
    cards = [
        SlotCard(
            "slot 1", [("heart", 4.0), ("size", 2.0)], [(crop, "s1", True), (crop, "s2", False)]
        ),
        SlotCard("slot 2", [], []),
    ]
    figure = slot_figure(cards, synthetic=False)
    shown = texts(figure)
    assert {"slot 1", "slot 2", "heart", "size", "s1", "s2", "no word above its rate"} <= set(shown)
    bars = [patch.get_width() for patch in figure.axes[0].patches]
    assert bars == [4.0, 2.0]
    frames = [p for axis in figure.axes[1:3] for p in axis.patches if isinstance(p, Rectangle)]
    assert [frame.get_xy()[0] for frame in frames] == pytest.approx([2.5, 2.5])
    assert frames[0].get_linewidth() > frames[1].get_linewidth()
    with pytest.raises(KitError, match="no slot"):
        slot_figure([], synthetic=False)


def test_patch_crop_is_the_patch_amid_its_neighbours():
    image = np.arange(1, 37).reshape(6, 6)
    assert patch_crop(image, 4, 3).tolist() == image.tolist()  # the middle patch of 3 x 3
    corner = patch_crop(image, 0, 3)
    assert corner[:2].sum() == 0 and corner[:, :2].sum() == 0
    assert corner[2:, 2:].tolist() == image[:4, :4].tolist()
    last = patch_crop(image, 5, 3)  # second row, third column
    assert last[2:4, 2:4].tolist() == image[2:4, 4:].tolist() and last[:, 4:].sum() == 0


def test_moved_figure_orders_findings_by_what_chance_leaves():
    others = np.array([[0.1, 0.3, 0.2], [0.2, 0.4, 0.2]])
    figure = moved_figure(
        ["a", "b", "c"], np.array([0.5, 0.35, 0.3]), others, counts=[7, 8, 9], synthetic=True
    )
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b (8)", "c (9)", "a (7)"]
    assert axis.lines[0].get_xdata().tolist() == [0.35, 0.3, 0.5]
    spans = [segment[:, 0].tolist() for segment in axis.collections[0].get_segments()]
    assert spans == [[0.3, 0.4], [0.2, 0.2], [0.1, 0.2]]


def test_alignment_figure_is_symmetric_in_colour_and_names_both_sides():
    cosines = np.array([[0.5, -0.1], [0.0, 0.2]])
    figure = alignment_figure(cosines, ["effusion", "nodule"], synthetic=False)
    mesh = figure.axes[0].collections[0]
    assert mesh.get_array().tolist() == cosines.tolist()
    assert mesh.get_clim() == (-0.5, 0.5)
    axis = figure.axes[0]
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["effusion", "nodule"]
    assert {"words of", "patches of"} <= set(texts(figure))
