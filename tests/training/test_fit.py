"""The loop: resuming, selection, stopping, precision. Interruptions are real exceptions."""

import copy
import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from r2genkit.batches import Batch, ReportDataset, collate, make_loader
from r2genkit.errors import KitError
from r2genkit.models import build_model
from r2genkit.text.vocabulary import Vocabulary
from r2genkit.training import TrainingConfig, fit, load_vocabulary, load_weights
from r2genkit.training import checkpoints as checkpoints_module

torch.set_num_threads(1)

VOCABULARY = Vocabulary(("<unk>", "clear", "heart", "lungs", "normal"))


class Interrupted(Exception):
    pass


class ToyLoader:
    """Fourteen studies in minibatches of two, shuffled by epoch; raises at a given minibatch."""

    def __init__(self, fail_at=None, count=14, size=2):
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(3, 7, (count,), generator=generator).tolist()
        tokens = [[0, *torch.randint(1, 6, (n,), generator=generator).tolist(), 0] for n in lengths]
        self.all = collate(
            [f"s{i}" for i in range(count)],
            torch.ones(count, 2, dtype=torch.bool),
            features=torch.randn(count, 2, 4, 8, generator=generator),
            tokens=tokens,
        )
        self.size, self.fail_at, self.served, self.epoch, self._skip = size, fail_at, 0, 0, 0

    def __len__(self):
        return len(self.all) // self.size

    def set_epoch(self, epoch):
        self.epoch = epoch

    def skip(self, n):
        self._skip = n

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(len(self.all))
        groups, self._skip = order.reshape(-1, self.size)[self._skip :], 0
        for group in groups:
            if self.served == self.fail_at:
                raise Interrupted
            self.served += 1
            yield self.all.select(group.tolist())


def small_model(seed=1, **options):
    options = {"embedding_size": 8, "hidden_size": 8, "attention_size": 8, **options}
    return build_model(
        "show_attend_tell", options, vocabulary_size=len(VOCABULARY), feature_dim=8, seed=seed
    )


def likelihood(loader=None):
    """Validation by minus the loss on the same studies: a score that changes every epoch."""
    batch = (loader or ToyLoader()).all

    def validate(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        torch.rand(3)  # a careless callback must not move the random numbers of training
        return {"score": -model.loss(batch)["token_ce"].item(), "other": 1.0}

    return validate


def config(**options):
    return TrainingConfig(
        **{"epochs": 3, "lr": 0.02, "select": "score", "device": "cpu", **options}
    )


def run(folder, settings, loader=None, model=None, validate=None, **options):
    model = model or small_model()
    result = fit(
        model,
        loader or ToyLoader(),
        config=settings,
        validate=validate or likelihood(),
        folder=folder,
        seed=5,
        progress=False,
        vocabulary=VOCABULARY,
        **options,
    )
    return model, result


def timeless(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def assert_same_run(one, other):
    """Bit for bit: weights and history."""
    (model_a, result_a), (model_b, result_b) = one, other
    for (name, a), (_, b) in zip(
        model_a.state_dict().items(), model_b.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert timeless(result_a.history) == timeless(result_b.history)
    assert (result_a.best_epoch, result_a.best_score) == (result_b.best_epoch, result_b.best_score)


SETTINGS = {
    "one_cycle": {"schedule": "one_cycle", "clip_norm": 1.0, "optimizer": "adamw"},
    "plateau": {"schedule": "plateau", "plateau_patience": 0, "amsgrad": True, "lr": 0.3},
    "by value": {"schedule": "step", "step_epochs": 1, "gamma": 0.5, "clip_value": 0.1},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path, name):
    settings = config(checkpoint_steps=3, **SETTINGS[name])
    whole = run(tmp_path / "whole", settings)
    steps = random.Random(name).sample(range(1, 3 * len(ToyLoader())), 3)
    for step in steps:
        folder = tmp_path / f"cut-{step}"
        with pytest.raises(Interrupted):
            run(folder, settings, ToyLoader(fail_at=step))
        # Another initialisation: everything must come from the checkpoint (if one was written).
        torch.manual_seed(step)
        model = small_model(seed=1 if step < 3 else 99)
        assert_same_run(run(folder, settings, model=model), whole)
        lines = (folder / "history.jsonl").read_text().splitlines()
        want = (tmp_path / "whole/history.jsonl").read_text().splitlines()
        assert timeless(map(json.loads, lines)) == timeless(map(json.loads, want))


def test_the_comparison_would_notice_a_difference(tmp_path):
    """Dropout acts and one repeated or lost minibatch shows, else the test above is empty."""
    settings = config(epochs=1)
    whole = run(tmp_path / "a", settings)

    class Lossy(ToyLoader):
        def __iter__(self):
            return iter(list(super().__iter__())[:-1])

    lossy = run(tmp_path / "b", settings, Lossy())
    assert not torch.equal(whole[0].output.weight, lossy[0].output.weight)
    undropped = run(tmp_path / "c", settings, model=small_model(dropout=0.0))
    assert not torch.equal(whole[0].output.weight, undropped[0].output.weight)


def test_interrupted_many_times(tmp_path):
    settings = config(checkpoint_steps=2)
    whole = run(tmp_path / "whole", settings)
    for _ in range(20):
        try:
            cut = run(tmp_path / "cut", settings, ToyLoader(fail_at=4), small_model())
            break
        except Interrupted:
            continue
    else:
        pytest.fail("the run made no headway between interruptions")
    assert_same_run(cut, whole)


def test_interrupted_while_validating(tmp_path):
    settings = config()
    whole = run(tmp_path / "whole", settings)
    calls = []

    def failing(model):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted
        return likelihood()(model)

    with pytest.raises(Interrupted):
        run(tmp_path / "cut", settings, validate=failing)
    assert_same_run(run(tmp_path / "cut", settings), whole)


@pytest.mark.parametrize("write", range(1, 7))
def test_interrupted_while_a_checkpoint_is_written(tmp_path, monkeypatch, write):
    """Best and last weights are written alternately; whichever breaks, the run can go on."""
    settings = config()
    whole = run(tmp_path / "whole", settings)
    original, calls = checkpoints_module.save_model, []

    def breaking(model, path):
        calls.append(path)
        if len(calls) == write:
            open(path, "wb").write(b"half")  # noqa: PTH123, SIM115
            raise Interrupted
        original(model, path)

    monkeypatch.setattr(checkpoints_module, "save_model", breaking)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", settings)
    monkeypatch.undo()
    assert_same_run(run(tmp_path / "cut", settings), whole)
    assert not list((tmp_path / "cut/checkpoints").glob(".*"))


def test_a_finished_run_is_not_repeated(tmp_path):
    settings = config()
    first = run(tmp_path, settings)
    loader = ToyLoader(fail_at=0)  # would raise if it were read
    second = run(tmp_path, settings, loader, small_model(seed=3))
    assert_same_run(first, second)
    assert second[1].seconds == pytest.approx(first[1].seconds)


def test_resume_false_starts_over(tmp_path):
    settings = config(epochs=1)
    first = run(tmp_path, settings)
    again = run(tmp_path, settings, resume=False)
    assert_same_run(first, again)
    moved = run(tmp_path, config(epochs=1, lr=0.001), resume=False)
    assert moved[1].history != first[1].history


@pytest.mark.parametrize(
    "changed", [{"lr": 0.01}, {"epochs": 4}, {"lr_groups": {"output": 0.1}}, {"patience": 2}]
)
def test_other_settings_are_not_resumed(tmp_path, changed):
    run(tmp_path, config(epochs=1))
    with pytest.raises(KitError, match=next(iter(changed))):
        run(tmp_path, config(**{"epochs": 1, **changed}))


def test_other_data_vocabulary_or_description_are_not_resumed(tmp_path):
    settings = config(epochs=1)
    run(tmp_path, settings)
    with pytest.raises(KitError, match="minibatches: 7 there, 2 here"):
        run(tmp_path, settings, ToyLoader(count=4))
    with pytest.raises(KitError, match=r"description\.model"):
        run(tmp_path, settings, description={"model": "x"})
    other = Vocabulary(("<unk>", "clear", "heart", "lungs", "tube"))
    with pytest.raises(KitError, match="vocabulary"):
        fit(
            small_model(),
            ToyLoader(),
            config=settings,
            validate=likelihood(),
            folder=tmp_path,
            seed=5,
            progress=False,
            vocabulary=other,
        )


def scripted(scores):
    values = iter(scores)
    return lambda model: {"score": next(values)}


def test_the_best_epoch_is_kept_and_loaded(tmp_path):
    seen = []

    def validate(model):
        seen.append(copy.deepcopy(model.state_dict()))
        return {"score": [0.1, 0.5, 0.2, 0.5][len(seen) - 1]}

    model, result = run(tmp_path, config(epochs=4), validate=validate)
    assert (result.best_epoch, result.best_score) == (2, 0.5)  # the tie goes to the earlier epoch
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert not torch.equal(seen[1]["output.weight"], seen[3]["output.weight"])
    (best,) = (tmp_path / "checkpoints").glob("best-*")
    fresh = small_model(seed=8)
    load_weights(fresh, best)
    assert torch.equal(fresh.output.weight, seen[1]["output.weight"])
    assert load_vocabulary(best).words == VOCABULARY.words


def test_lower_can_be_better(tmp_path):
    _, result = run(tmp_path, config(mode="min"), validate=scripted([0.3, 0.1, 0.2]))
    assert (result.best_epoch, result.best_score) == (2, 0.1)


def test_nan_is_never_the_best(tmp_path):
    _, result = run(tmp_path, config(), validate=scripted([math.nan, 0.1, math.nan]))
    assert result.best_epoch == 2


def test_patience_stops_the_run(tmp_path):
    scores = [0.1, 0.5, 0.4, 0.3, 0.9]
    _, result = run(tmp_path, config(epochs=5, patience=2), validate=scripted(scores))
    assert len(result.history) == 4
    assert result.best_epoch == 2
    _, same = run(tmp_path, config(epochs=5, patience=2), ToyLoader(fail_at=0))
    assert len(same.history) == 4


def test_validation_every_other_epoch_and_at_the_end(tmp_path):
    _, result = run(
        tmp_path, config(epochs=5, validate_every=2), validate=scripted([0.3, 0.2, 0.1])
    )
    assert ["validation" in row for row in result.history] == [False, True, False, True, True]


def test_without_validation_the_last_weights_stay(tmp_path):
    model = small_model()
    result = fit(
        model, ToyLoader(), config=config(), validate=None, folder=tmp_path, seed=5, progress=False
    )
    assert (result.best_epoch, result.best_score) == (3, None)
    (last,) = (tmp_path / "checkpoints").iterdir()
    fresh = small_model(seed=8)
    load_weights(fresh, last)
    assert torch.equal(fresh.output.weight, model.output.weight)


def test_history_holds_means_of_the_loss_parts(tmp_path):
    """At learning rate 0 (almost) and without dropout the parts can be computed from outside."""
    model = small_model(dropout=0.0)
    loader = ToyLoader()
    loader.set_epoch(0)
    with torch.no_grad():
        parts = [model.loss(batch) for batch in loader]
    _, result = run(tmp_path, config(epochs=1, lr=1e-12, weight_decay=0.0), model=model)
    for name in ("loss", "token_ce", "doubly_stochastic"):
        want = float(np.mean([part[name].item() for part in parts]))
        assert result.history[0]["train"][name] == pytest.approx(want, rel=1e-5)


def test_a_missing_score_is_named(tmp_path):
    with pytest.raises(KitError, match=r"finding-F1.*score, other"):
        run(tmp_path, config(select="finding-F1"))


def test_a_diverging_loss_is_reported(tmp_path):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, batch):
            return {"loss": (self.weight * math.inf).sum()}

    with pytest.raises(KitError, match="minibatch 1"):
        run(tmp_path, config(), model=Broken())


def test_fp16_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(KitError, match="fp16"):
        run(tmp_path, config(precision="fp16"))


def test_bf16_trains_and_leaves_the_model_as_it_was(tmp_path):
    """Two runs of different precision in one process; forward is unwrapped after each."""
    settings = config(epochs=2, precision="bf16", checkpoint_steps=3)
    model, result = run(tmp_path / "bf16", settings)
    assert result.history[-1]["train"]["token_ce"] < result.history[0]["train"]["token_ce"]
    assert "forward" not in vars(model)
    assert model.output.weight.dtype == torch.float32
    exact = run(tmp_path / "full", config(epochs=2, checkpoint_steps=3))[1]
    assert exact.history[0]["train"]["loss"] != result.history[0]["train"]["loss"]
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", settings, ToyLoader(fail_at=5))
    assert_same_run(run(tmp_path / "cut", settings), (model, result))


def test_tensorboard_is_optional(tmp_path):
    run(tmp_path / "with", config(epochs=1), tensorboard=True)
    assert list((tmp_path / "with/tensorboard").glob("events*"))
    run(tmp_path / "without", config(epochs=1))
    assert not (tmp_path / "without/tensorboard").exists()


def test_the_real_loader_fits_the_loop(tmp_path):
    class Store:
        def __init__(self, batch):
            self.study_ids, self.features = batch.study_ids, batch.features
            self.view_mask = batch.view_mask.numpy()

        def gather(self, rows):
            return self.features[torch.from_numpy(rows)]

    def loader(fail_at=None):
        batch = ToyLoader().all
        tokens = [
            row[:n].tolist() for row, n in zip(batch.tokens, batch.lengths.tolist(), strict=True)
        ]
        dataset = ReportDataset(batch.study_ids, features=Store(batch), tokens=tokens)
        made = make_loader(dataset, 3, seed=2)
        build, served = made.build, []

        def counted(*arguments):
            if len(served) == fail_at:
                raise Interrupted
            served.append(1)
            return build(*arguments)

        made.build = counted
        return made

    settings = config(checkpoint_steps=2)
    whole = run(tmp_path / "whole", settings, loader())
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", settings, loader(fail_at=8))
    assert_same_run(run(tmp_path / "cut", settings, loader()), whole)


def test_overfits_eight_studies(tmp_path):
    """The whole path learns: different images, different texts, remembered word for word."""
    generator = torch.Generator().manual_seed(0)
    loader = ToyLoader(count=8, size=8)
    loader.all.features = torch.randn(8, 2, 4, 8, generator=generator)
    model = build_model(
        "show_attend_tell",
        {"embedding_size": 32, "hidden_size": 64, "attention_size": 32, "dropout": 0.0},
        vocabulary_size=len(VOCABULARY),
        feature_dim=8,
        seed=0,
    )
    settings = config(epochs=120, lr=0.02, validate_every=120, clip_norm=1.0)
    fit(model, loader, config=settings, validate=None, folder=tmp_path, seed=1, progress=False)
    model.eval()
    batch: Batch = loader.all
    with torch.no_grad():
        hits = model.log_probs(batch).argmax(-1) == batch.tokens[:, 1:]
    used = batch.token_weights > 0
    assert hits[used].float().mean() > 0.95


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_trains_and_resumes_on_a_gpu(tmp_path, precision):
    settings = config(device="auto", precision=precision, checkpoint_steps=3)
    with pytest.raises(Interrupted):
        run(tmp_path, settings, ToyLoader(fail_at=8), validate=scripted([0.1, 0.2, 0.3]))
    model, result = run(tmp_path, settings, validate=scripted([0.2, 0.3]))
    assert result.device.type == "cuda"
    assert len(result.history) == 3
    assert next(model.parameters()).is_cuda


# --- starting weights, floors, frozen groups, single minibatches ------------------------------


def test_starting_weights_are_kept_where_no_epoch_beats_them(tmp_path):
    model = small_model()
    before = copy.deepcopy(model.state_dict())
    config = TrainingConfig(epochs=2, select="score", validate_first=True)
    options = {"config": config, "folder": tmp_path, "seed": 0, "progress": False}
    result = fit(model, ToyLoader(), validate=scripted([0.5, 0.4, 0.5]), **options)
    assert (result.best_epoch, result.best_score) == (0, 0.5)
    assert [row["epoch"] for row in result.history] == [0, 1, 2]
    assert "lr" in result.history[0] and result.history[0]["train"] == {}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    better = fit(
        small_model(), ToyLoader(), validate=scripted([0.5, 0.6, 0.1]), **options, resume=False
    )
    assert better.best_epoch == 1


def test_training_stops_where_a_score_falls_below_its_floor(tmp_path):
    config = TrainingConfig(epochs=5, select="score", stop_below={"distinct %": 10.0})
    calls = []

    def validate(model):
        calls.append(1)
        return {"score": float(len(calls)), "distinct %": 40.0 / len(calls) ** 2}

    _, result = run(tmp_path, config, validate=validate)
    assert len(result.history) == 3 and result.best_epoch == 3
    assert "epoch 3" in result.stopped and "4.444" in result.stopped and "10" in result.stopped
    _, again = run(tmp_path, config, validate=validate)
    assert again.stopped == result.stopped and len(calls) == 3  # a finished run stays finished


def test_an_unknown_floor_is_an_error(tmp_path):
    config = TrainingConfig(epochs=1, select="score", stop_below={"distinct": 10.0})
    with pytest.raises(KitError, match="stop_below names 'distinct'"):
        run(tmp_path, config, validate=scripted([0.1]))


def test_a_frozen_group_rests_and_then_learns(tmp_path):
    config = TrainingConfig(
        epochs=2, lr_groups={"embedding": 1e-3}, frozen_epochs={"embedding": 1}, select="score"
    )
    model = small_model()
    start = model.embedding.words.weight.detach().clone()
    output = model.output.weight.detach().clone()
    seen = []

    def validate(model):
        seen.append((model.embedding.words.weight.clone(), model.output.weight.clone()))
        return {"score": float(len(seen))}

    run(tmp_path, config, model=model, validate=validate)
    (frozen, moved), (free, _) = seen
    assert torch.equal(frozen, start) and not torch.equal(moved, output)
    assert not torch.equal(free, start)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_frozen_epochs_want_a_learning_rate():
    with pytest.raises(ValueError, match="frozen_epochs names encoder"):
        TrainingConfig(epochs=1, frozen_epochs={"encoder": 1})


def test_loss_parts_of_single_minibatches_survive_an_interruption(tmp_path):
    config = TrainingConfig(epochs=2, select="score", log_every=2, checkpoint_steps=3)
    options = {"config": config, "validate": likelihood(), "seed": 0, "progress": False}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(small_model(), ToyLoader(), folder=whole, **options)
    with pytest.raises(Interrupted):
        fit(small_model(), ToyLoader(fail_at=11), folder=broken, **options)
    fit(small_model(), ToyLoader(), folder=broken, **options)
    assert (whole / "steps.jsonl").read_text() == (broken / "steps.jsonl").read_text()
    rows = [json.loads(line) for line in (whole / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 14]
    assert all("token_ce" in row for row in rows)
