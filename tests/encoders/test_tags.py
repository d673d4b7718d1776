"""The finding classifier: learning, attention, scores, thresholds, cross-fitting, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r2genkit.batches import Batch, ReportDataset
from r2genkit.encoders.networks import Encoder
from r2genkit.encoders.tags import (
    TagClassifier,
    TagConfig,
    Tags,
    _folds,
    auroc,
    choose_thresholds,
    class_weights,
    crossfit_tags,
    evaluate_tags,
    finding_matrix,
    fit_tags,
    predict_tags,
    train_tags,
)
from r2genkit.errors import KitError
from r2genkit.images import UNIT
from r2genkit.study import Finding, Study

TYPES = ("nodule", "effusion", "scar")
QUICK = TagConfig(epochs=8, batch_size=16, lr=1e-2, width=32, dropout=0.1)


class Planted:
    """Patch features in which a finding is a signature at one random place of one view."""

    def __init__(self, n: int, seed: int = 0, signal: float = 6.0) -> None:
        rng = np.random.default_rng(seed)
        self.study_ids = tuple(f"s{i}" for i in range(n))
        self.view_mask = np.ones((n, 2), dtype=bool)
        self.view_mask[::4, 1] = False
        self.labels = rng.random((n, 3)) < [0.4, 0.3, 0.2]
        self.values = rng.normal(0, 1, (n, 2, 9, 8)).astype(np.float32)
        self.place = rng.integers(0, 9, (n, 3))
        for f in range(3):
            rows = np.flatnonzero(self.labels[:, f])
            self.values[rows, 0, self.place[rows, f], f] += signal
        self.values *= self.view_mask[:, :, None, None]
        self.digest = "planted"

    def __len__(self) -> int:
        return len(self.study_ids)

    def row(self, study_id: str) -> int:
        return int(study_id[1:])

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.values[rows])


def part(features: Planted, rows: range) -> ReportDataset:
    ids = [features.study_ids[i] for i in rows]
    return ReportDataset(ids, features=features, labels=features.labels[list(rows)])


def test_finding_matrix():
    studies = [
        Study("a", (), "", "", findings=(Finding("scar"), Finding("nodule"), Finding("scar"))),
        Study("b", (), "", ""),
        Study("c", (), "", "", findings=(Finding("other"),)),
    ]
    assert finding_matrix(studies, TYPES).tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_classifier_learns_and_looks_at_the_finding():
    features = Planted(400)
    train, held = part(features, range(300)), part(features, range(300, 400))
    model, history = train_tags(TYPES, train, held, QUICK, progress=False)
    assert not model.training
    scores = auroc(predict_tags(model, held), held.labels)
    assert scores.min() > 0.95
    assert history[-1]["validation AUROC"] == pytest.approx(scores.mean())
    assert history[-1]["loss"] < history[0]["loss"] / 2
    rows = np.arange(300, 400)
    mask = torch.from_numpy(features.view_mask[rows])
    logits, attention = model(features.gather(rows), mask, trace=True)
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(100, 3))
    assert not attention[~mask[:, None].expand(-1, 3, -1)].any()
    hits = [
        int(attention[i, f].argmax()) == features.place[row, f]  # view 0 comes first
        for i, row in enumerate(rows)
        for f in range(3)
        if features.labels[row, f]
    ]
    # The summary carries part of the evidence; chance hits one place in nine to eighteen.
    assert np.mean(hits) > 0.5
    torch.testing.assert_close(logits, model(features.gather(rows), mask))


def test_training_is_seeded_and_leaves_the_callers_stream_alone():
    features = Planted(60)
    data, quick = part(features, range(60)), TagConfig(epochs=2, width=8)
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    one, _ = train_tags(TYPES, data, None, quick, seed=1, progress=False)
    assert torch.equal(torch.rand(3), want)
    two, _ = train_tags(TYPES, data, None, quick, seed=1, progress=False)
    other, _ = train_tags(TYPES, data, None, quick, seed=2, progress=False)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.adapter.weight, other.adapter.weight)


def test_the_best_epoch_can_be_kept():
    features = Planted(160, signal=2.0)
    train, held = part(features, range(100)), part(features, range(100, 160))
    # So high a rate that the last epoch is not the best.
    wild = TagConfig(epochs=6, batch_size=8, lr=0.3, width=16, dropout=0)
    last, history = train_tags(TYPES, train, held, wild, progress=False)
    best, same = train_tags(TYPES, train, held, wild, select=True, progress=False)
    assert history == same
    scores = [record["validation AUROC"] for record in history]
    assert auroc(predict_tags(last, held), held.labels).mean() == pytest.approx(scores[-1])
    assert auroc(predict_tags(best, held), held.labels).mean() == pytest.approx(max(scores))
    assert max(scores) > scores[-1]
    with pytest.raises(KitError, match="needs a validation set"):
        train_tags(TYPES, train, None, wild, select=True, progress=False)


def test_class_weights_are_roots_of_the_odds():
    labels = np.zeros((100, 3), dtype=bool)
    labels[:10, 0] = True
    labels[:80, 1] = True
    np.testing.assert_allclose(class_weights(labels), [3, 1, 10])


def test_images_train_the_encoder_and_nothing_else_does():
    class Pictures:
        """A bright square in the upper left corner is the finding."""

        study_ids = tuple(f"s{i}" for i in range(96))
        view_mask = np.ones((96, 1), dtype=bool)

        def pixels(self, row: int) -> list[np.ndarray]:
            image = np.random.default_rng(row).integers(0, 120, (16, 16), dtype=np.uint8)
            image[:8, :8] += np.uint8(100 * (row % 2))
            return [image]

    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.ReLU())
    names = {name: name for name in body.state_dict()}
    encoder = Encoder("tiny", body, UNIT, names, trainable=True)
    before = encoder.fingerprint
    labels = (np.arange(96) % 2 == 1)[:, None]
    data = ReportDataset(
        Pictures.study_ids, images=Pictures(), labels=labels, preprocess=encoder.preprocess
    )
    config = TagConfig(epochs=12, batch_size=16, lr=1e-2, encoder_lr=1e-2, width=16, dropout=0)
    model, history = train_tags(["x"], data, data, config, encoder=encoder, progress=False)
    assert history[-1]["validation AUROC"] > 0.98
    assert encoder.fingerprint != before
    assert model.encoder is encoder
    with pytest.raises(KitError, match="needs an encoder"):
        train_tags(["x"], data, None, config, progress=False)


# --- scores ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 60), levels=st.integers(2, 40))
def test_scores_equal_sklearns_with_ties(seed, n, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n, 1)) / levels
    labels = rng.random((n, 1)) < 0.4
    if labels.all() or not labels.any():
        assert np.isnan(auroc(scores, labels)[0])
        return
    table = evaluate_tags(scores, labels, ["x"], resamples=5)
    assert auroc(scores, labels)[0] == pytest.approx(roc_auc_score(labels, scores))
    assert table.loc["x", "AUROC"] == pytest.approx(roc_auc_score(labels, scores))
    assert table.loc["x", "AP"] == pytest.approx(average_precision_score(labels, scores))


def test_intervals_equal_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    labels = rng.random((80, 2)) < [0.3, 0.5]
    scores = labels * 0.4 + rng.random((80, 2))
    table = evaluate_tags(scores, labels, ["a", "b"], resamples=2000, seed=3)
    for f, name in enumerate("ab"):
        draws = []
        for _ in range(200):
            pick = rng.integers(0, 80, 80)
            if 0 < labels[pick, f].sum() < 80:
                truth, score = labels[pick, f], scores[pick, f]
                draws.append([roc_auc_score(truth, score), average_precision_score(truth, score)])
        low, high = np.percentile(draws, [2.5, 97.5], axis=0)
        for k, metric in enumerate(["AUROC", "AP"]):
            assert table.loc[name, f"{metric} low"] == pytest.approx(low[k], abs=0.04)
            assert table.loc[name, f"{metric} high"] == pytest.approx(high[k], abs=0.04)
    assert table.loc["macro", "AUROC"] == pytest.approx(table["AUROC"][:2].mean())
    assert table.loc["macro", "AUROC low"] > table["AUROC low"][:2].min()
    assert table["positives"].tolist() == [*labels.sum(0), labels.sum()]


def test_types_without_positives_stay_out_of_the_mean():
    labels = np.zeros((30, 2), dtype=bool)
    labels[:10, 0] = True
    scores = np.random.default_rng(0).random((30, 2))
    table = evaluate_tags(scores, labels, ["a", "b"], resamples=20, thresholds=np.full(2, 0.5))
    assert np.isnan(table.loc["b", "AUROC"])
    assert table.loc["macro", "AUROC"] == table.loc["a", "AUROC"]
    assert table.loc["a", "F1"] == pytest.approx(f1_score(labels[:, 0], scores[:, 0] >= 0.5))
    with pytest.raises(KitError, match="do not fit together"):
        evaluate_tags(scores, labels, ["a"])


def plain_f1(truth: np.ndarray, called: np.ndarray) -> float:
    return 2 * (truth & called).sum() / max(truth.sum() + called.sum(), 1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 40))
def test_thresholds_are_the_best_of_all(seed, n):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random((n, 2)), 1)
    labels = rng.random((n, 2)) < 0.4
    chosen = choose_thresholds(scores, labels)
    for f in range(2):
        if not labels[:, f].any():
            assert not (scores[:, f] >= chosen[f]).any() or scores[:, f].max() == 1
            continue
        tried = [plain_f1(labels[:, f], scores[:, f] >= t) for t in np.arange(0, 1.1, 0.05)]
        assert plain_f1(labels[:, f], scores[:, f] >= chosen[f]) == pytest.approx(max(tried))


# --- cross-fitting and files ----------------------------------------------------------------------


def test_folds_spread_rare_findings():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 3)) < [0.4, 0.2, 0.05]
    fold = _folds(labels, 5, seed=1)
    assert np.bincount(fold).tolist() == [40] * 5
    rare = np.bincount(fold[labels[:, 2]], minlength=5)
    assert rare.max() - rare.min() <= 1
    assert not np.array_equal(fold, _folds(labels, 5, seed=2))


def test_crossfit_probabilities_do_not_know_their_own_labels():
    features = Planted(120, signal=0.0)  # nothing to learn: only memorising helps
    ids = features.study_ids
    config = TagConfig(epochs=25, batch_size=16, lr=1e-2, width=64, dropout=0)
    data = part(features, range(120))
    model, _ = train_tags(TYPES, data, None, config, progress=False)
    seen = auroc(predict_tags(model, data), features.labels).mean()
    out = crossfit_tags(TYPES, features, ids, features.labels, 3, config, progress=False)
    unseen = auroc(out, features.labels).mean()
    assert seen > 0.9
    assert unseen < 0.65
    with pytest.raises(KitError, match=r"2\.\.120 folds"):
        crossfit_tags(TYPES, features, ids, features.labels, 1, config)


def test_fit_save_and_load(tmp_path):
    features = Planted(200)
    long = TagConfig(epochs=25, batch_size=16, lr=1e-2, width=32, dropout=0.1)
    train, validation = features.study_ids[:120], features.study_ids[120:160]
    plain = fit_tags(TYPES, features, features.labels, train, validation, long, progress=False)
    crossed = fit_tags(
        TYPES, features, features.labels, train, validation, long, crossfit=2, progress=False
    )
    np.testing.assert_array_equal(plain.of(features.study_ids[120:]), crossed.probabilities[120:])
    assert (plain.of(train) != crossed.of(train)).mean() > 0.9
    assert auroc(plain.of(features.study_ids[160:]), features.labels[160:]).min() > 0.9
    expected = choose_thresholds(plain.of(validation), features.labels[120:160])
    np.testing.assert_array_equal(plain.thresholds, expected)

    hidden = features.labels.copy()
    hidden[160:] = ~hidden[160:]  # labels of test studies must not matter
    again = fit_tags(TYPES, features, hidden, train, validation, long, progress=False)
    np.testing.assert_array_equal(again.probabilities, plain.probabilities)

    crossed.save(tmp_path / "tags")
    loaded = Tags.load(tmp_path / "tags")
    np.testing.assert_array_equal(loaded.of(train[::-1]), crossed.of(train[::-1]))
    np.testing.assert_array_equal(loaded.thresholds, crossed.thresholds)
    assert loaded.info == crossed.info
    assert loaded.types == TYPES
    data = part(features, range(160, 200))
    np.testing.assert_allclose(
        predict_tags(loaded.model, data), crossed.probabilities[160:], atol=1e-6
    )
    with pytest.raises(KitError, match="study x has no finding tags"):
        loaded.of(["x"])
    (tmp_path / "tags/tags.json").write_text("{")
    with pytest.raises(KitError, match="holds no finding tags"):
        Tags.load(tmp_path / "tags")


def test_bad_requests():
    features = Planted(20)
    data = part(features, range(20))
    with pytest.raises(KitError, match="3 columns for 2 finding types"):
        train_tags(["a", "b"], data)
    with pytest.raises(KitError, match="needs labels"):
        train_tags(TYPES, ReportDataset(["s0"], features=features))
    with pytest.raises(KitError, match=r"labels are \[19, 3\] for 20 studies"):
        fit_tags(TYPES, features, features.labels[1:], ["s0"], ["s1"])
    with pytest.raises(KitError, match="must be >= 1"):
        TagConfig(epochs=0)
    with pytest.raises(KitError, match="dropout"):
        TagConfig(dropout=1.0)
    model = TagClassifier(5, TYPES, width=4)
    with pytest.raises(KitError, match="8 numbers and the finding classifier expects 5"):
        predict_tags(model, data)


def test_placement_on_a_fake_gpu():
    with FakeTensorMode():
        with torch.device("cuda"):
            model = TagClassifier(8, TYPES, width=4)
        batch = Batch(
            study_ids=("a", "b"),
            images=None,
            features=torch.zeros(2, 2, 9, 8),
            view_mask=torch.ones(2, 2, dtype=torch.bool),
        ).to("cuda")
        logits, attention = model(batch.features, batch.view_mask, trace=True)
        assert logits.device.type == attention.device.type == "cuda"
        assert model.logits(batch).shape == (2, 3)
        assert attention.shape == (2, 3, 2, 9)
