"""What the decoder is told of findings."""

from types import SimpleNamespace

import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.experiments import load_recipe
from r2genkit.experiments.recipe import TagsConfig
from r2genkit.experiments.tagging import decoder_tags, sharpen


def test_sharpening_scales_the_log_odds():
    p = np.array([0.0, 0.1, 0.5, 0.8, 1.0])
    np.testing.assert_allclose(sharpen(p, 1.0), p, atol=1e-7)
    got = sharpen(p, 2.0)
    inner = slice(1, 4)
    log_odds = np.log(p[inner] / (1 - p[inner]))
    np.testing.assert_allclose(got[inner], 1 / (1 + np.exp(-2 * log_odds)), rtol=1e-6)
    assert got[0] == 0 and got[-1] == 1 and got.dtype == np.float32
    moved = sharpen(np.array([0.2, 0.4, 0.8]), 3.0, called_at=0.4)
    assert moved[1] == pytest.approx(0.5)
    want = 3 * (np.log(4) - np.log(0.4 / 0.6))
    assert np.log(moved[2] / (1 - moved[2])) == pytest.approx(want, rel=1e-5)


def test_only_training_studies_are_told_the_truth(monkeypatch):
    parts = {"train": ("a", "b"), "validation": ("c",), "test": ("d",)}
    text = SimpleNamespace(part=parts.get)
    predicted = {"a": [0.9, 0.2], "b": [0.6, 0.4], "c": [0.7, 0.1], "d": [0.3, 0.8]}
    tags = SimpleNamespace(types=("x", "y"), of=lambda ids: np.array([predicted[i] for i in ids]))
    asked = []

    def truth(_, ids, types):
        asked.extend(ids)
        return np.array([[True, False]] * len(ids))

    monkeypatch.setattr("r2genkit.experiments.tagging.true_findings", truth)
    forced = TagsConfig(teacher_forcing=True, sharpness=2.0, called_at=0.3)
    assert decoder_tags(forced, tags, text, "train").tolist() == [[1, 0], [1, 0]]
    for part, ids in list(parts.items())[1:]:
        want = sharpen([predicted[i] for i in ids], 2.0, 0.3)
        np.testing.assert_array_equal(decoder_tags(forced, tags, text, part), want)
    assert asked == ["a", "b"]
    plain = decoder_tags(TagsConfig(), tags, text, "train")
    np.testing.assert_allclose(plain, [predicted["a"], predicted["b"]], rtol=1e-6)
    assert asked == ["a", "b"]


def test_two_sources_of_training_tags_are_refused():
    overrides = ("tags.teacher_forcing=true", "tags.crossfit=3")
    with pytest.raises(KitError, match="one of the two"):
        load_recipe("03_show_tell", overrides=overrides)
