"""Tag pre-training on a handful of phantom studies, and recipes that use its encoder."""

import re
import shutil

import numpy as np
import pytest
import torch

from r2genkit.encoders.features import ids_fingerprint
from r2genkit.encoders.networks import encoder_names
from r2genkit.errors import KitError
from r2genkit.experiments import load_recipe, pretraining, run
from r2genkit.experiments.data import prepare_images, prepare_text
from r2genkit.experiments.pretraining import (
    SUMMARY_COLUMNS,
    pretrain,
    pretraining_baselines,
    pretraining_caption,
    pretraining_table,
    read_pretraining,
    read_pretraining_rows,
)
from r2genkit.experiments.recipe import (
    PRETRAINING,
    PROFILES,
    load_pretraining,
    pretraining_names,
)
from r2genkit.experiments.tagging import true_findings
from tests.command import call

DATA = ("data.limit_train=24", "data.limit_validation=8", "data.limit_test=10")
TINY = (
    *DATA,
    *("image_size=64", "packed_size=64", "epochs=2", "studies=null", "min_positives=2"),
    *("width=16", "bootstrap=20", "augment=none"),
)
RECIPE = (
    *DATA,
    *("encoder.name=resnet18", "encoder.weights=tags", "encoder.pca=16"),
    *(f"encoder.pretraining.{text}" for text in TINY[3:]),
    *("tags.epochs=1", "tags.min_positives=2", "training.epochs=1", "sampling.batch_size=8"),
    *("scoring.bootstrap=20", "scoring.meteor=false", "scoring.swap=1"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture(autouse=True)
def folders(place, monkeypatch):
    for name in ("cache", "runs", "results"):
        monkeypatch.setenv(f"R2GENKIT_{name.upper()}", str(place / name))
    prepare_images.cache_clear()


def tiny(*more, name="resnet18", **options):
    return pretrain(name, profile="smoke", overrides=(*TINY, *more), progress=False, **options)


def small_text(recipe=None):
    recipe = recipe or load_recipe("03_show_attend_tell", profile="smoke", overrides=RECIPE)
    return prepare_text(recipe.data, recipe.text)


def test_one_pretraining_leaves_a_complete_folder_and_row():
    done = tiny()
    text = small_text()
    assert read_pretraining_rows("smoke") == [done.row]
    assert read_pretraining(done.folder) == done
    assert done.row.split_fingerprint == text.split.fingerprint
    assert done.row.studies == {"train": 24, "validation": 8, "test": 10}
    scores = [record["validation AUROC"] for record in done.history]
    assert done.row.best_epoch == int(np.argmax(scores)) + 1
    assert done.row.validation == max(scores)
    tags = done.tags()
    assert tags.study_ids == (*text.split.validation, *text.split.test)
    assert tags.info["train"] == ids_fingerprint(text.split.train)
    # The stored classifier is the one of the chosen epoch.
    known = true_findings(text, text.split.validation, tags.types)
    assert pretraining._macro(tags.of(text.split.validation), known) == pytest.approx(max(scores))
    table = done.findings()
    assert list(table.index) == [*tags.types, "macro"]
    assert {"positives", "AUROC", "AP low", "AP high", "F1"} <= set(table)
    assert table.loc["macro", "AUROC"] == done.row.findings["macro"].AUROC.value
    missing = [key for key, value in done.row.findings.items() if not value.positives]
    assert all(done.row.findings[key].AUROC.reason for key in missing)


def test_the_weights_are_those_that_were_trained():
    done = tiny()
    encoder = done.encoder()
    assert encoder.fingerprint == done.encoder(trainable=True).fingerprint
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    norm = next(m for m in encoder.body.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
    assert tiny(seed=1).encoder().fingerprint != encoder.fingerprint


def test_a_finished_pretraining_is_read_and_an_equal_one_has_equal_numbers(monkeypatch, place):
    first = tiny()
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "_train", lambda *a: pytest.fail("trained again"))
        assert tiny() == first
    monkeypatch.setenv("R2GENKIT_RUNS", str(place / "elsewhere"))
    again = tiny()
    assert again.folder.name == first.folder.name
    assert again.row.numbers() == first.row.numbers() and again.history == first.history
    assert again.encoder().fingerprint == first.encoder().fingerprint


def test_a_failed_pretraining_leaves_no_folder(monkeypatch):
    def broken(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "evaluate_tags", broken)
        with pytest.raises(KeyboardInterrupt):
            tiny("epochs=1", "studies=8")
    config, data, rules = load_pretraining(
        "resnet18", profile="smoke", overrides=(*TINY, "epochs=1", "studies=8")
    )
    folder = pretraining.pretraining_folder(config, prepare_text(data, rules))
    assert not folder.exists()
    with pytest.raises(KitError, match="holds no finished pre-training"):
        read_pretraining(folder)
    done = tiny("epochs=1", "studies=8")
    assert done.folder == folder and done.row.studies["train"] == 8


def test_findings_of_test_studies_decide_nothing(monkeypatch, place):
    plain = tiny()
    test = set(small_text().split.test)

    def flipped(text, ids, types):
        labels = true_findings(text, ids, types)
        return ~labels if set(ids) <= test else labels

    monkeypatch.setattr(pretraining, "true_findings", flipped)
    monkeypatch.setenv("R2GENKIT_RUNS", str(place / "flipped"))
    other = tiny()
    assert other.encoder().fingerprint == plain.encoder().fingerprint
    assert other.row.best_epoch == plain.row.best_epoch
    macro = [done.row.findings["macro"].AUROC.value for done in (plain, other)]
    assert macro[0] != macro[1]


def test_a_recipe_trains_on_a_pretrained_encoder(place, monkeypatch):
    monkeypatch.setattr("r2genkit.experiments.runner._constant", lambda job: None)  # not at issue
    done = tiny()
    result = run("03_show_attend_tell", profile="smoke", overrides=RECIPE, progress=False)
    assert done.note in result.row.notes
    assert result.recipe.encoder.image_size == 64  # that of the pre-training
    images = result.images()
    assert images.pretraining == done  # the very same, not a second one
    assert images.features.info["weights"] == done.encoder().fingerprint
    # Its folder is enough to write reports.
    shutil.rmtree(place / "runs" / "pretraining")
    system = result.system()
    for study_id in list(result.hypotheses)[:3]:
        assert system.report_of(list(images.images[study_id])).text == result.hypotheses[study_id]


def test_fine_tuning_starts_from_the_pretrained_weights():
    overrides = (*RECIPE, "encoder.trainable=true", "encoder.pca=null", "tags=null")
    recipe = load_recipe("03_show_attend_tell", profile="smoke", overrides=overrides)
    prepared = prepare_images(recipe.data, recipe.text, recipe.encoder, None, False)
    assert prepared.features is None and prepared.encoder.trainable
    assert prepared.encoder.fingerprint == prepared.pretraining.encoder().fingerprint


def test_baselines_come_first_and_chance_is_chance():
    done = tiny()
    rows = pretraining_baselines(profile="smoke", overrides=DATA, image_size=64, progress=False)
    assert [row.name for row in rows] == ["chance", "linear_probe", "frozen_attention"]
    chance = rows[0]
    for name, scores in chance.findings.items():
        if scores.AUROC.value is not None:
            assert scores.AUROC.value == 0.5
            if name != "macro":
                assert scores.AP.value == pytest.approx(scores.positives / 10)
    kept = [row for row in read_pretraining_rows("smoke") if row.seed == 0]
    assert kept[:3] == rows
    # The baselines keep the recipes' rule of how many studies a finding needs.
    table = pretraining_table([done.row, *rows])
    assert list(table.columns[: len(SUMMARY_COLUMNS)]) == SUMMARY_COLUMNS
    assert "share of positive studies" in table["classifier"][0]
    assert "resnet18" in table["classifier"][3] and "[" in table["AUROC"][3]
    assert "synthetic" in pretraining_caption(rows)
    with pytest.raises(KitError, match="cannot share a table"):
        pretraining_table([chance, chance.model_copy(update={"profile": "lab"})])
    with pytest.raises(KitError, match="only those of data"):
        pretraining_baselines(profile="smoke", overrides=("epochs=3",))


def test_incomplete_rows_are_left_out_with_a_warning(place, monkeypatch):
    tiny()
    source = place / "results" / "pretraining" / "phantom.jsonl"
    copy = place / "damaged" / "pretraining" / "phantom.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text(source.read_text().replace('"parameters"', '"weight"'))
    monkeypatch.setenv("R2GENKIT_RESULTS", str(place / "damaged"))
    with pytest.warns(UserWarning, match="left out until"):
        assert read_pretraining_rows("smoke") == []


def test_the_command_prints_the_table(monkeypatch, capsys):
    settings = [word for text in TINY for word in ("--set", text)]
    code, out, _ = call(
        monkeypatch, capsys, "pretrain", "resnet18", "--profile", "smoke", *settings
    )
    assert code == 0 and "validation AUROC" in out and "synthetic" in out and "files:" in out
    assert re.search(r"[a-z_]+ \(\d+\)", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a pre-training (densenet121"),
        (["vgg"], "no pre-training 'vgg'"),
        (["resnet18", "--profile", "fast"], "unknown profile 'fast'"),
        (["resnet18", "--set", "epoch=3"], "epoch"),
        (["resnet18", "--set", "packed_size=64"], "packed_size must be at least image_size"),
        (["resnet18", "--set", "weights=tags"], "starts from none"),
        (["resnet18", "--set", "data.limit=3"], "data: limit"),
        (["resnet18", "--corpus", "mimic"], "unknown corpus 'mimic'"),
        (["resnet18", "--profile", "smoke", "--set", "min_positives=9999"], "no finding has 9999"),
        (["resnet18", "--profile", "smoke", "--set", "encoder=lenet"], "unknown encoder 'lenet'"),
    ],
)
def test_wrong_words_are_told_not_thrown(monkeypatch, capsys, arguments, message):
    code, _, err = call(monkeypatch, capsys, "pretrain", *arguments)
    assert code == 2 and message in err and "Traceback" not in err


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pretraining_names())
@pytest.mark.parametrize("profile", PROFILES)
def test_shipped_pretrainings_are_valid(name, profile):
    config, data, _ = load_pretraining(name, profile=profile, seed=3)
    assert config.name == name and config.profile == profile and config.seed == 3
    assert config.encoder == name and name in encoder_names()
    assert data.corpus == "phantom" and data.split == "grouped"


@pytest.mark.parametrize("name", pretraining_names())
def test_every_key_of_a_shipped_pretraining_is_commented(name):
    lines = (PRETRAINING / f"{name}.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"^\s*\w+:\s*\S", line):
            assert lines[number - 1].lstrip().startswith("#"), f"line {number + 1}"


def test_a_recipe_that_names_tags_says_every_setting():
    base = load_recipe("03_show_tell")
    assert base.encoder.pretraining is None
    spelt = load_recipe("03_show_tell", overrides=["encoder.weights=tags"])
    shipped, data, _ = load_pretraining("efficientnet_lite0")
    assert spelt.encoder.pretraining == shipped and spelt.data == data
    assert spelt.encoder.image_size == shipped.image_size
    own = load_recipe(
        "03_show_tell",
        overrides=[
            *("encoder.name=resnet18", "encoder.weights=tags", "encoder.image_size=224"),
            "encoder.pretraining.epochs=9",
        ],
    )
    assert own.encoder.pretraining.epochs == 9 and own.encoder.image_size == 224
    assert len({base.fingerprint(), spelt.fingerprint(), own.fingerprint()}) == 3
    assert type(own).model_validate_json(own.model_dump_json()) == own


def test_a_recipe_may_name_a_pretraining_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("encoder: resnet34\nepochs: 1\n")
    overrides = ["encoder.name=resnet34", f"encoder.weights='tags:{path}'"]
    config = load_recipe("03_show_tell", overrides=overrides).encoder.pretraining
    assert (config.name, config.encoder, config.weights) == ("mine", "resnet34", "none")
    with pytest.raises(KitError, match="trains resnet34 and not resnet50"):
        load_recipe("03_show_tell", overrides=["encoder.name=resnet50", overrides[1]])
    with pytest.raises(KitError, match="no pre-training 'resnet50'"):
        load_recipe("03_show_tell", overrides=["encoder.name=resnet50", "encoder.weights=tags"])
    with pytest.raises(KitError, match="need one another"):
        load_recipe(
            "03_show_tell",
            overrides=["encoder.pretraining={name: x, encoder: resnet18, epochs: 1}"],
        )
