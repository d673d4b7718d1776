"""Figures of encoders and learning rates show what they are given."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from r2genkit.errors import KitError
from r2genkit.experiments.pretraining import PretrainingRow
from r2genkit.experiments.rate_sweep import RateRow
from r2genkit.viz.encoders import (
    as_colours,
    components,
    finding_auroc_figure,
    patch_colour_figure,
    rate_course_figure,
    rate_figure,
    separability_figure,
)

MEASURED = {
    "train_seconds": 1.0,
    "total_seconds": 2.0,
    "peak_memory_mb": 3.0,
    "device": "cpu",
    "versions": {},
    "git_revision": "abc",
    "date": "2026-01-01",
}


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def rates(encoder_lr, decoder_lr, losses, recognised=(0.7, 0.6)):
    epochs = [
        {
            "epoch": number,
            "train_loss": 3.0 if number else None,
            "loss": loss,
            "finding_F1": 0.1,
            "distinct_percent": 50.0,
            "distance": 0.5 * number,
            "cosine": 1 - 0.1 * number,
            "cka": 1 - 0.2 * number,
            "recognised": recognised and recognised[number],
        }
        for number, loss in enumerate(losses)
    ]
    return RateRow(
        recipe="08_differential_rates",
        corpus="phantom",
        synthetic=True,
        protocol="grouped",
        profile="lab",
        seed=0,
        encoder="densenet121",
        encoder_lr=encoder_lr,
        decoder_lr=decoder_lr,
        frozen=0,
        recipe_hash="0" * 16,
        code_hash="1" * 16,
        split_fingerprint="2" * 64,
        studies={"train": 10, "validation": 4},
        minibatches=2,
        epochs=epochs,
        encoder_parameters=5,
        decoder_parameters=6,
        command="r2genkit rates",
        measured=MEASURED,
    )


def classifier(encoder, values, split="2"):
    def score(value):
        ends = {"low": max(value - 0.1, 0), "high": min(value + 0.1, 1)}
        return {"AUROC": {"value": value, **ends}, "AP": {"value": value, **ends}}

    return PretrainingRow(
        name=encoder,
        title=encoder,
        order=50,
        kind="pretraining",
        encoder=encoder,
        weights="none",
        image_size=80,
        corpus="phantom",
        synthetic=True,
        protocol="grouped",
        profile="lab",
        seed=0,
        settings_hash="0" * 16,
        code_hash="1" * 16,
        split_fingerprint=split * 64,
        studies={"train": 10, "validation": 2, "test": 30},
        selected_on="validation macro AUROC",
        best_epoch=1,
        validation=0.6,
        findings={name: {"positives": n, **score(v)} for name, (n, v) in values.items()},
        parameters=7,
        command="r2genkit pretrain",
        measured=MEASURED,
    )


def test_components_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(50, 4)) * [4, 2, 1, 0.1] + 7
    scores = components(x, 2)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    want = (x - x.mean(0)) @ vectors[:, ::-1][:, :2]
    assert np.allclose(np.abs(scores), np.abs(want))
    assert np.allclose(scores.var(0, ddof=1), values[::-1][:2])
    assert all(scores[np.abs(scores[:, i]).argmax(), i] > 0 for i in range(2))
    with pytest.raises(KitError, match=r"\[1, 4\] have no 3"):
        components(x[:1], 3)


def test_alike_patches_have_alike_colours():
    maps = np.zeros((2, 2, 2, 5))
    maps[:, 0] = np.random.default_rng(1).normal(size=(2, 2, 5))
    colours = as_colours(maps)
    assert colours.shape == (2, 2, 2, 3) and colours.min() >= 0 and colours.max() <= 1
    lower = colours[:, 1].reshape(-1, 3)
    assert np.allclose(lower, lower[0])
    assert not np.allclose(colours[0, 0, 0], lower[0])


def test_patch_colours_stand_below_their_radiographs():
    images = [np.full((8, 8), level, np.uint8) for level in (10, 200)]
    maps = {"A": np.random.default_rng(0).random((2, 3, 3, 4)), "B": np.ones((2, 2, 2, 6))}
    maps["B"][0, 0, 0] = [3, 1, 4, 1, 5, 9]
    figure = patch_colour_figure(images, ["first", "second"], maps, synthetic=True)
    shown = texts(figure)
    assert {"first", "second", "A\n3 x 3 patches", "B\n2 x 2 patches"} <= set(shown)
    assert "synthetic phantom images" in shown
    assert figure.axes[1].images[0].get_array()[0, 0] == 200
    assert figure.axes[2].images[0].get_array().shape == (3, 3, 3)
    with pytest.raises(KitError, match="A has features of 2 images, not of 1"):
        patch_colour_figure(images[:1], ["first"], maps, synthetic=False)


def test_separability_shows_every_study_and_the_score():
    features = {name: np.random.default_rng(2).random((9, 5)) for name in ("A", "B")}
    abnormal = np.arange(9) < 3
    figure = separability_figure(features, abnormal, {"A": 0.75, "B": 0.5}, synthetic=False)
    assert "A: abnormal found with AUROC 0.75" in texts(figure)
    normal, other = figure.axes[0].collections
    assert (len(normal.get_offsets()), len(other.get_offsets())) == (6, 3)
    assert "synthetic phantom images" not in texts(figure)


def test_auroc_leaves_out_rare_findings_and_other_splits():
    values = {"large": (20, 0.7), "rare": (3, 0.9), "small": (12, 0.6), "macro": (35, 0.65)}
    rows = [classifier("resnet101", values), classifier("densenet121", values)]
    figure = finding_auroc_figure(rows)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["small (12)", "large (20)", "mean of all types"]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["resnet101", "densenet121"]
    with pytest.raises(KitError, match="one and the same split"):
        finding_auroc_figure([rows[0], classifier("densenet121", values, split="3")])


def test_rates_stand_in_order_and_equal_ones_are_ringed():
    rows = [
        rates(1e-3, 1e-3, (5.0, 4.0)),
        rates(0.0, 1e-3, (5.0, 4.5)),
        rates(1e-4, 3e-4, (5.0, 4.8)),
    ]
    figure = rate_figure(rows)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1e-4", "1e-3"]
    lines = {line.get_label(): line for line in axis.lines}
    assert list(lines["rest 1e-3"].get_xdata()) == [0, 2]
    assert list(lines["rest 1e-3"].get_ydata()) == [4.5, 4.0]
    rings = [line for line in axis.lines if line.get_markersize() == 11]
    assert [(ring.get_xdata()[0], ring.get_ydata()[0]) for ring in rings] == [(2, 4.0)]
    assert len(figure.axes) == 4
    without = [rates(0.0, 1e-3, (5.0, 4.5), recognised=None)]
    assert len(rate_figure(without).axes) == 3  # an encoder that was not pre-trained on tags
    with pytest.raises(KitError, match="no rates to draw"):
        rate_figure([])


def test_course_starts_before_training():
    figure = rate_course_figure([rates(1e-3, 1e-3, (5.0, 4.0)), rates(0.0, 1e-3, (5.0, 4.5))])
    first, second = figure.axes[0].lines
    assert first.get_ydata().tolist() == [5.0, 4.0] and second.get_ydata().tolist() == [5.0, 4.5]
    assert first.get_label() == "encoder 1e-3, rest 1e-3"
    with pytest.raises(KitError, match="no rates to draw"):
        rate_course_figure([])
