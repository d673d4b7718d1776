"""Learning rates side by side, on a handful of phantom studies."""

import json

import pytest
import torch

from r2genkit import cli
from r2genkit.errors import KitError
from r2genkit.experiments import load_recipe, rate_sweep, run
from r2genkit.experiments.data import prepare_images, prepare_text
from r2genkit.experiments.many import run_many
from r2genkit.experiments.rate_sweep import (
    RateRow,
    choose,
    rate,
    rate_table,
    read_rate_rows,
    sweep,
    train_at,
)

NAME = "08_differential_rates"
TINY = (
    *("data.limit_train=16", "data.limit_validation=6", "data.limit_test=6"),
    *("encoder.name=resnet18", "encoder.image_size=64", "encoder.packed_size=72"),
    *(
        f"encoder.pretraining.{text}"
        for text in (
            *("image_size=64", "packed_size=72", "epochs=1", "min_positives=2", "width=8"),
            *("bootstrap=10", "augment=none", "studies=null"),
        )
    ),
    *("model.settings.size=16", "model.settings.heads=2", "model.settings.slots=8"),
    *("model.settings.read_slots=2", "model.settings.feed_forward_size=16"),
    *("sampling.epoch_studies=8", "training.warmup_steps=0", "text.max_length=12"),
)
QUICK = ("scoring.bootstrap=10", "scoring.meteor=false", "scoring.swap=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("rates")


@pytest.fixture(autouse=True)
def folders(place, monkeypatch):
    for name in ("cache", "runs", "results"):
        monkeypatch.setenv(f"R2GENKIT_{name.upper()}", str(place / name))
    prepare_images.cache_clear()


def tiny(encoder_lr, decoder_lr=1e-3, **options):
    return train_at(NAME, encoder_lr, decoder_lr, profile="smoke", overrides=TINY, **options)


def test_a_row_says_epoch_by_epoch_what_the_rate_does():
    row = tiny(1e-2)
    assert [entry.epoch for entry in row.epochs] == [0, 1, 2]
    start, end = row.epochs[0], row.last
    assert (start.train_loss, start.distance) == (None, 0.0)
    assert start.cosine == pytest.approx(1) and start.cka == pytest.approx(1)
    assert end.train_loss > 0 and end.distance > 0.01 and end.cka < 0.999
    assert row.best.loss == min(entry.loss for entry in row.epochs)
    assert (row.minibatches, row.studies) == (2, {"train": 16, "validation": 6})
    # At the start the classifier of the pre-training sees exactly what it was trained on.
    recipe = load_recipe(NAME, profile="smoke", overrides=TINY)
    prepared = prepare_images(recipe.data, recipe.text, recipe.encoder, None, False)
    assert start.recognised == pytest.approx(prepared.pretraining.row.validation)
    assert row.encoder_parameters == prepared.encoder.parameter_count
    assert read_rate_rows("smoke") == [row]


def test_an_encoder_that_rests_does_not_move():
    resting = tiny(0.0)
    assert [entry.distance for entry in resting.epochs] == [0.0, 0.0, 0.0]
    assert resting.last.loss != resting.epochs[0].loss  # everything else learns
    assert resting.last.recognised == resting.epochs[0].recognised
    thawed = tiny(1e-2, frozen=1)
    distances = [entry.distance for entry in thawed.epochs]
    assert distances[:2] == [0.0, 0.0] and distances[2] > 0.01
    # Until it thaws, nothing differs from one that rests for good.
    assert thawed.epochs[1].loss == pytest.approx(resting.epochs[1].loss)


def test_finished_points_are_read_and_equal_seeds_give_equal_numbers(monkeypatch, place):
    first = tiny(1e-2)
    with monkeypatch.context() as patch:
        patch.setattr(rate_sweep, "_train", lambda *a: pytest.fail("trained again"))
        assert tiny(1e-2) == first
    # Also when other points have trained an encoder in this process since.
    assert tiny(1e-2, fresh=True).numbers() == first.numbers()
    monkeypatch.setattr(rate_sweep, "code_hash", lambda *modules: "f" * 16)
    assert tiny(1e-2).code_hash == "f" * 16  # other code: trained again, the old row replaced
    kept = [row for row in read_rate_rows("smoke") if row.encoder_lr == 1e-2 and not row.frozen]
    assert [row.code_hash for row in kept] == ["f" * 16]


def test_test_studies_are_not_read(monkeypatch, place):
    texts = []

    def watching(*arguments, **options):
        loader = report_loader(*arguments, **options)
        texts.append(arguments[3])
        return loader

    report_loader = rate_sweep.report_loader
    monkeypatch.setattr(rate_sweep, "report_loader", watching)
    tiny(3e-3)
    assert sorted(texts) == ["train", "validation"]


def test_the_lowest_validation_loss_is_chosen_of_comparable_rows():
    rows = sweep(NAME, [0.0, 1e-2], [1e-3], profile="smoke", overrides=TINY)
    assert [row.encoder_lr for row in rows] == [0.0, 1e-2]
    chosen = choose(rows)
    assert chosen.best.loss == min(row.best.loss for row in rows)
    table = rate_table(rows)
    assert table["encoder rate"].tolist() == ["0", "1e-2"]
    assert table["distance"].tolist()[0] == "0.00"
    other = rows[0].model_copy(update={"split_fingerprint": "9" * 64})
    with pytest.raises(KitError, match="cannot be compared"):
        choose([rows[1], other])
    with pytest.raises(KitError, match="no row to choose from"):
        choose([])


def test_incomplete_rows_are_left_out_with_a_warning(place, monkeypatch):
    row = tiny(1e-2)
    content = row.model_dump(mode="json")
    for damage in (
        {"epochs": content["epochs"][:1]},
        {"epochs": content["epochs"][::2]},
        {"epochs": [{**content["epochs"][0], "loss": float("nan")}, content["epochs"][1]]},
        {"epochs": [content["epochs"][0], {**content["epochs"][1], "train_loss": None}]},
        {"extra": 1},
    ):
        folder = place / "damaged" / "rates"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "phantom.jsonl").write_text(json.dumps({**content, **damage}) + "\n")
        monkeypatch.setenv("R2GENKIT_RESULTS", str(place / "damaged"))
        with pytest.warns(UserWarning, match=f"left out until {NAME} is trained at rates"):
            assert read_rate_rows("smoke") == []


def test_what_cannot_be_swept_is_refused():
    with pytest.raises(KitError, match="07_cmn has no encoder that learns"):
        train_at("07_cmn", 1e-4, 1e-3, profile="smoke")


def test_rates_read_like_rates():
    assert [rate(value) for value in (0.0, 1e-4, 3e-4, 2.5e-3)] == ["0", "1e-4", "3e-4", "2.5e-3"]
    assert RateRow.model_fields.keys() >= set(rate_sweep.KEY)


def test_the_command_prints_the_table(monkeypatch, capsys):
    settings = [word for text in TINY for word in ("--set", text)]
    words = ["rates", NAME, "--encoder-lr", "1e-2", "--decoder-lr", "1e-3", "--profile", "smoke"]
    monkeypatch.setattr("sys.argv", ["r2genkit", *words, *settings])
    cli.main()
    out = capsys.readouterr().out
    assert "validation loss" in out and "lowest validation loss: encoder 1e-2, rest 1e-3" in out


def test_one_recipe_does_not_start_from_the_encoder_that_another_has_trained(monkeypatch):
    monkeypatch.setattr("r2genkit.experiments.runner._constant", lambda job: None)  # not at issue
    options = {"profile": "smoke", "overrides": (*TINY, *QUICK), "progress": False}
    first = run("08_equal_rates", **options)
    prepared = first.images()
    assert prepared.encoder.fingerprint == prepared.pretraining.encoder().fingerprint
    assert first.system().encoder.fingerprint != prepared.encoder.fingerprint
    frozen = run("08_unfreeze", **options)
    assert [entry["epoch"] for entry in frozen.history] == [1, 2]
    assert frozen.row.trainable_parameters == first.row.trainable_parameters


def test_encoders_are_pretrained_by_the_processes(monkeypatch, place):
    """Two recipes side by side: each one's pre-training is there before their images are made."""
    monkeypatch.setenv("R2GENKIT_RUNS", str(place / "many"))
    names = ["08_equal_rates", "08_unfreeze"]
    overrides = (*TINY, *QUICK, "training.epochs=1", "encoder.pretraining.seed=5")
    overrides = (*overrides, "training.frozen_epochs.encoder=0")
    done = run_many(names, [0], profile="smoke", overrides=overrides, jobs=2)
    assert [one.error for one in done] == ["", ""]
    made = [f for f in (place / "many" / "pretraining" / "phantom").iterdir() if f.is_dir()]
    assert len(made) == 1  # both wanted the same
    text = prepare_text(*_texts())
    assert done[0].row.split_fingerprint == text.split.fingerprint
    assert torch.get_num_threads() >= 1


def _texts():
    recipe = load_recipe(NAME, profile="smoke", overrides=TINY)
    return recipe.data, recipe.text
