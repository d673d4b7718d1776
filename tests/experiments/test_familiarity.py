"""Which images are called unlike the training images, on toy vectors with known answers."""

import numpy as np
import pytest
import torch

from r2genkit.batches import Batch
from r2genkit.errors import KitError
from r2genkit.experiments.familiarity import (
    Familiarity,
    far_views,
    fit_familiarity,
    pooled_features,
    warning,
)


def cloud(number, seed=0, spread=(1.0, 5.0), shift=(0.0, 0.0)):
    """Two views of two numbers each; the second number varies five times as much."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(number, 2, 2)) * np.array(spread) + np.array(shift)
    return vectors + np.array([[0.0, 0.0], [30.0, 0.0]]), np.ones((number, 2), bool)


@pytest.fixture(scope="module")
def fitted():
    held_out = {"validation": cloud(400, 1), "test": cloud(400, 2)}
    return fit_familiarity(cloud(4000), held_out, quantile=0.95)


def test_distance_counts_in_standard_deviations(fitted):
    points = np.zeros((3, 2, 2))
    points[:, 1, 0] = 30.0
    points[1, 0, 0] = 2.0  # two standard deviations along the narrow direction
    points[2, 0, 1] = 10.0  # and along the wide one
    found = fitted.distances(points, np.ones((3, 2), bool))
    assert found[0] == pytest.approx([0, 0], abs=0.15)
    assert found[1:, 0] == pytest.approx([2, 2], abs=0.15)


def test_limits_come_from_validation_and_false_alarms_are_counted_on_test(fitted):
    distances = fitted.held_out["validation"]
    assert (distances > fitted.limits).mean(axis=0) == pytest.approx([0.05, 0.05], abs=0.003)
    # Either of two views may raise the alarm: 1 - .95^2.
    assert fitted.false_alarms() == pytest.approx(0.0975, abs=0.04)
    moved = fit_familiarity(
        cloud(4000),
        {"validation": cloud(400, 1), "test": cloud(400, 2, shift=(9.0, 0.0))},
        quantile=0.95,
    )
    assert np.array_equal(moved.limits, fitted.limits)  # no test study touches them
    assert moved.false_alarms() > 0.99


def test_swapped_views_are_unlike_and_absent_views_never(fitted):
    points, mask = cloud(5, 3)
    swapped = fitted.distances(points[:, ::-1], mask)
    assert fitted.unfamiliar(swapped).all()
    mask[:, 1] = False
    alone = fitted.distances(points, mask)
    assert np.isnan(alone[:, 1]).all() and not fitted.unfamiliar(alone)[:, 1].any()
    assert far_views(fitted, np.array([np.nan, 99.0])) == [1]


def test_warning_is_one_sentence_and_empty_for_the_familiar(fitted):
    assert warning(fitted, np.zeros(2), "study a") == ""
    told = warning(fitted, fitted.limits * [3.0, 0.5], "study a")
    assert told.startswith("study a is unlike the training images (first view, 3.0 times")
    assert "second" not in told and "\n" not in told


def test_more_dimensions_than_studies_still_give_a_distance():
    rng = np.random.default_rng(0)
    mask = np.ones((20, 2), bool)
    train = (rng.normal(size=(20, 2, 64)), mask)
    found = fit_familiarity(train, {"validation": (rng.normal(size=(20, 2, 64)), mask)})
    assert np.isfinite(found.limits).all()
    far = found.distances(rng.normal(size=(20, 2, 64)) + 5, mask)
    assert found.unfamiliar(far).all()


def test_file_holds_everything(fitted, tmp_path):
    path = tmp_path / "familiarity.safetensors"
    fitted.save(path)
    again = Familiarity.load(path)
    points, mask = cloud(5, 4)
    assert np.array_equal(again.distances(points, mask), fitted.distances(points, mask))
    assert again.false_alarms() == fitted.false_alarms()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_bytes(b"damaged")
    with pytest.raises(KitError, match="delete it, it is made again"):
        Familiarity.load(path)


def test_a_view_without_images_is_named():
    points, mask = cloud(10)
    mask[:, 1] = False
    with pytest.raises(KitError, match="view 2: 0 training images"):
        fit_familiarity((points, mask), {"validation": (points, mask)})


def test_pooling_is_the_mean_over_patches():
    features = torch.arange(24.0).reshape(1, 2, 4, 3)
    batch = Batch(("a",), None, features, torch.tensor([[True, True]]))
    assert pooled_features(None, batch) == pytest.approx(features.mean(2).numpy())
