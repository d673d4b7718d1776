"""The attention figure: interpolation against torch, choice of words, what panels show."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from r2genkit.errors import KitError
from r2genkit.viz.attention import (
    attention_change,
    attention_figure,
    choose_words,
    upsample,
)

WORDS = ["the", "heart", "is", "enlarged", ".", "no", "effusion", "$", "3"]


@pytest.fixture(autouse=True)
def closed_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def random_attention(words=9, views=2, patches=49, seed=0):
    weights = np.random.default_rng(seed).random((words, views, patches))
    return weights / weights.sum((1, 2), keepdims=True)


def images(views=2):
    return np.random.default_rng(1).random((views, 32, 32))


@pytest.mark.parametrize(
    ("shape", "target"), [((7, 7), (224, 224)), ((2, 5), (9, 31)), ((1, 3), (4, 8))]
)
def test_upsampling_is_torchs_bilinear(shape, target):
    grid = np.random.default_rng(0).random(shape)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None, None], size=target, mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(upsample(grid, *target), want.numpy(), atol=1e-12)


def test_change_is_the_share_that_would_have_to_move():
    same = np.full((4, 2, 3), 1 / 6)
    np.testing.assert_allclose(attention_change(same), 0, atol=1e-12)
    halves = np.zeros((2, 1, 2))
    halves[0, 0, 0] = halves[1, 0, 1] = 1.0  # mean: half and half
    np.testing.assert_allclose(attention_change(halves), 0.5)


def test_content_words_with_the_largest_change_are_chosen():
    attention = np.full((len(WORDS), 1, 4), 0.25)
    attention[[0, 3, 4, 6], 0] = [1.0, 0, 0, 0]  # the, enlarged, ., effusion
    assert choose_words(attention, WORDS, 2) == [3, 6]
    assert choose_words(attention, WORDS, 99) == [1, 3, 5, 6]
    assert choose_words(attention[:2], ["the", "."], 5) == [0, 1]


def titles(figure):
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def test_panels_name_word_place_and_view_shares():
    attention = random_attention()
    attention[3, 0], attention[3, 1] = 0.75 / 49, 0.25 / 49
    figure = attention_figure(
        images(), attention, WORDS, indices=[3, -2], gate=np.linspace(0, 1, len(WORDS))
    )
    first, second, third = titles(figure)
    assert first == "frontal | lateral"
    assert second == "4. enlarged\n75% | 25%, gate 0.38"
    assert third.startswith("8. \\$")
    figure.canvas.draw()  # a bad formula or label would raise here


def test_heat_lies_where_the_attention_is():
    """One patch of the second view; the heat image spans both views side by side."""
    attention = np.zeros((1, 2, 16))
    attention[0, 1, 6] = 1.0  # second row, third column of a 4 x 4 grid
    figure = attention_figure(images(), attention, ["heart"])
    heat = figure.axes[1].images[1].get_array()  # [H, 2W, RGB], brighter = more
    alpha = figure.axes[1].images[1].get_alpha()
    row, column = np.unravel_index(np.argmax(alpha), alpha.shape)
    assert heat.shape[:2] == (32, 64)
    assert 8 <= row < 16
    assert 32 + 16 <= column < 32 + 24
    assert (alpha[:, :31] == 0).all()


def test_all_panels_share_one_scale():
    attention = random_attention()
    attention[1] *= 0.01
    attention[6] = 0
    attention[6, 0, 24] = 1
    figure = attention_figure(images(), attention, WORDS, indices=[1, 6])
    weak, strong = (figure.axes[k].images[1].get_alpha().max() for k in (1, 2))
    assert weak < 0.2 * strong


def test_about_thirty_words_make_five_rows():
    words = [f"word{chr(97 + i % 26)}{i}" for i in range(60)]
    figure = attention_figure(images(), random_attention(60), words)
    assert len(titles(figure)) == 30
    width, height = figure.get_size_inches()
    assert width / 6 > 1.5  # inches per panel: the captions of seven points fit
    assert height < 9


def test_one_view_and_an_absent_view():
    attention = random_attention(views=1)
    figure = attention_figure(images(1), attention, WORDS, indices=[1])
    assert titles(figure) == ["view 1", "2. heart"]
    slots = np.concatenate([attention, np.zeros_like(attention)], axis=1)  # no second view
    assert titles(attention_figure(images(1), slots, WORDS, indices=[1])) == titles(figure)
    blank = images()
    blank[1] = 0
    attention_figure(blank, random_attention(), WORDS, title="Study").canvas.draw()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": WORDS[:-1]}, "words of the hypothesis"),
        ({"images": images(1)}, "same V"),
        ({"attention": random_attention(patches=48)}, "grid"),
        ({"grid": (5, 5)}, "grid"),
        ({"indices": [99]}, "by position"),
        ({"indices": []}, "by position"),
        ({"gate": np.ones(2)}, "gate"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, message):
    arguments = {"images": images(), "attention": random_attention(), "words": WORDS, **change}
    with pytest.raises(KitError, match=message):
        attention_figure(
            arguments.pop("images"), arguments.pop("attention"), arguments.pop("words"), **arguments
        )
