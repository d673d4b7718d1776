"""Numbers for maps, against loops over patches and known answers."""

import math

import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.metrics.faithfulness import (
    centre_map,
    curve_area,
    energy,
    energy_chance,
    entropy,
    pointing,
    pointing_chance,
    ranks,
    steps_of,
    study_means,
    unchanged_share,
    unchanged_words,
)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    values = rng.random((6, 18))
    cover = np.clip(rng.random((6, 18)) * 2 - 1, 0, 1)
    mask = np.ones((6, 18), bool)
    mask[3, 9:] = False  # a study with one view
    return values, cover, mask


def test_pointing_looks_at_the_heaviest_patch_that_is_there(case):
    values, cover, mask = case
    for row in range(6):
        best = max((values[row, s], s) for s in range(18) if mask[row, s])[1]
        there = cover[row] * mask[row]
        hit = there[best] >= 0.1 or there[best] == there.max()
        assert pointing(values, cover, mask)[row] == hit


def test_a_small_finding_is_shown_where_most_of_it_lies():
    cover = np.array([0.02, 0.05, 0.0])
    assert pointing([0.1, 0.8, 0.1], cover) == 1
    assert pointing([0.8, 0.1, 0.1], cover) == 0


def test_ties_are_shared_and_an_even_map_is_chance(case):
    _, cover, mask = case
    assert pointing([1, 1, 0, 0], [0.5, 0, 0, 0]) == 0.5
    for row in range(6):
        own = (cover * mask)[row][mask[row]]
        assert pointing_chance(cover, mask)[row] == pytest.approx(np.mean(own >= 0.1))
        assert energy_chance(cover, mask)[row] == pytest.approx(own.mean())


def test_energy_is_a_weighted_mean_of_the_cover(case):
    values, cover, mask = case
    for row in range(6):
        total = sum(values[row, s] for s in range(18) if mask[row, s])
        inside = sum(values[row, s] * cover[row, s] for s in range(18) if mask[row, s])
        assert energy(values, cover, mask)[row] == pytest.approx(inside / total)


def test_without_a_finding_or_a_map_there_is_no_answer():
    nothing, something = np.zeros(4), np.array([0.5, 0, 0, 0])
    assert math.isnan(pointing(something, nothing))
    assert math.isnan(energy(something, nothing))
    assert math.isnan(energy(nothing, something))
    assert math.isnan(entropy(nothing))


def test_entropy_of_one_patch_is_0_and_of_all_alike_1():
    mask = np.array([True] * 4 + [False] * 4)
    assert entropy([0, 3, 0, 0, 9, 9, 9, 9], mask) == 0
    assert entropy([2, 2, 2, 2, 9, 9, 9, 9], mask) == pytest.approx(1)
    half = entropy([1, 1, 0, 0, 0, 0, 0, 0], mask)
    assert half == pytest.approx(math.log(2) / math.log(4))


def test_ranks_put_absent_patches_last():
    values = np.array([0.2, 0.9, 0.5, 0.9])
    assert ranks(values).tolist() == [3, 0, 2, 1]
    assert ranks(values, np.array([True, False, True, True])).tolist() == [2, 3, 1, 0]


def test_steps_cover_all_patches():
    assert steps_of(98, 7).tolist() == [0, 14, 28, 42, 56, 70, 84, 98]
    assert steps_of(5, 2).tolist() == [0, 2, 5]
    for wrong in ((0, 3), (3, 0)):
        with pytest.raises(KitError, match="at least 1"):
            steps_of(*wrong)


def test_areas_of_straight_and_of_stepped_curves():
    assert curve_area([1, 0]) == 0.5
    assert curve_area([[1, 1, 1], [1, 0, 0]]).tolist() == [1.0, 0.25]
    with pytest.raises(KitError, match="two points"):
        curve_area([1.0])


def test_the_centre_map_is_symmetric_and_alike_in_both_views():
    one = centre_map(7, 2).reshape(2, 7, 7)
    assert np.array_equal(one[0], one[1])
    assert np.allclose(one[0], one[0].T) and np.allclose(one[0], one[0][::-1])
    assert one[0].argmax() == 24


def test_unchanged_words_count_runs_in_order():
    assert unchanged_words("a b c d", "a b c d") == 1
    assert unchanged_words("a b c d", "x y") == 0
    assert unchanged_words("the heart is large", "the heart is normal") == 0.75
    assert unchanged_words("a b", "b a") == 0.5
    assert math.isnan(unchanged_words("", "a"))
    assert unchanged_share({"s": "a b"}, {"s": "a"}) == {"s": 0.5}
    with pytest.raises(KitError, match="same studies"):
        unchanged_share({"s": "a"}, {"t": "a"})


def test_means_over_the_words_of_a_study():
    values = [1.0, 0.0, np.nan, 0.5, np.nan]
    assert study_means(values, ["s", "s", "s", "t", "u"]) == {"s": 0.5, "t": 0.5}
    with pytest.raises(KitError, match="one study each"):
        study_means([1.0], [])


@pytest.mark.parametrize(
    "values, cover, message",
    [
        ([1.0, 2.0], [1.0], "one number per patch"),
        ([1.0, -2.0], [1.0, 0.0], "not negative"),
        ([1.0, np.nan], [1.0, 0.0], "finite"),
        ([1.0, 2.0], [1.0, 1.5], r"\[0, 1\]"),
    ],
)
def test_nonsense_is_refused(values, cover, message):
    for measure in (pointing, energy):
        with pytest.raises(KitError, match=message):
            measure(values, cover)
