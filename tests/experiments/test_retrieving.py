"""The retriever of a run, the runs that use it, and a data base that loses a finding."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from r2genkit.errors import KitError
from r2genkit.experiments import base_shift as shift
from r2genkit.experiments import load_recipe, run
from r2genkit.experiments import retrieving as made
from r2genkit.experiments.data import prepare_images, prepare_text, report_loader
from r2genkit.experiments.tagging import decoder_tags, prepare_tags, true_findings
from r2genkit.metrics.uncertainty import resample_weights
from tests.experiments.test_runner import TINY

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def folders(cache, monkeypatch):
    for name in ("CACHE", "RUNS", "RESULTS"):
        monkeypatch.setenv(f"R2GENKIT_{name}", str(cache / name.lower()))


@pytest.fixture
def tiny():
    recipe = load_recipe("09_retrieval", profile="smoke", overrides=TINY)
    text = prepare_text(recipe.data, recipe.text)
    prepared = prepare_images(recipe.data, recipe.text, recipe.encoder, None, False)
    return recipe, text, prepared


def changed(recipe, **settings):
    return recipe.model_copy(update={"retrieval": {**recipe.retrieval, **settings}})


def tags_of(recipe, text, prepared):
    return prepare_tags(recipe.tags, text, prepared.features, 0, progress=False)


def test_the_block_is_checked(tiny):
    recipe = tiny[0]
    assert made.retrieval_config(recipe).by == "both"
    with pytest.raises(KitError, match=r"09_retrieval: retrieval\.top: extra"):
        made.retrieval_config(changed(recipe, top=3))
    with pytest.raises(KitError, match="needs finding tags"):
        made.retrieval_config(recipe.model_copy(update={"tags": None}))
    with pytest.raises(KitError, match="has no retrieval block"):
        made.retrieval_config(recipe.model_copy(update={"retrieval": None}))


@pytest.mark.parametrize("by", ["image", "findings", "both"])
def test_neighbours_are_training_reports_of_others(tiny, by):
    recipe, text, prepared = tiny
    tags = tags_of(*tiny)
    retriever = made.prepare_retriever(changed(recipe, by=by), text, prepared, tags, 0)
    assert set(retriever.index.study_ids) == set(text.split.train)
    everyone = tuple(text.studies)
    found = retriever.found(everyone)
    for study_id, names in zip(everyone, found):
        assert len(names) == 5 and study_id not in names
        assert set(names) <= set(text.split.train)
        if study_id in text.split.train:
            assert all(text.texts[name] != text.texts[study_id] for name in names)
    tokens = retriever.neighbours(everyone)
    assert tokens.shape[:2] == (60, 5)
    want = text.vocabulary.truncated(text.texts[found[0][0]], 61)
    assert text.vocabulary.decode(tokens[0, 0, 1:]) == want
    figures = retriever.figures()
    assert set(figures) == {f"neighbours finding-F1, {part}" for part in ("train", "test")}
    assert all(0 <= value <= 1 for value in figures.values())


def test_training_studies_are_sought_with_tags_that_have_not_seen_them(tiny):
    recipe, text, prepared = tiny
    tags, train = tags_of(*tiny), text.split.train
    by = changed(recipe, by="findings", crossfit=2)
    honest = made.prepare_retriever(by, text, prepared, tags, 0)
    own = made.prepare_retriever(changed(by, crossfit=0), text, prepared, tags, 0)
    rows = [honest.study_ids.index(study_id) for study_id in train]
    assert not torch.allclose(honest.queries[rows], own.queries[rows])
    others = [n for n in range(len(honest.study_ids)) if n not in rows]
    assert torch.equal(honest.queries[others], own.queries[others])
    again = made.prepare_retriever(by, text, prepared, tags, 0)  # from the cache
    assert torch.equal(honest.queries, again.queries)
    # True findings stand in the index, whatever the classifier says.
    names = honest.index.study_ids
    truth = torch.from_numpy(true_findings(text, names, tags.types).astype(np.float32))
    assert torch.equal(honest.index.rows, made.finding_vectors(truth))


def test_reports_are_cut_after_the_words_asked_for(tiny):
    _, text, _ = tiny
    tokens = made.report_tokens(text, text.split.train[:4], 5)
    assert tokens.shape == (4, 6) and (tokens[:, 0] == 0).all()
    for study_id, row in zip(text.split.train, tokens):
        words = text.vocabulary.truncated(text.texts[study_id], 61).split()
        assert text.vocabulary.decode(row[1:]).split() == words[:5]


def test_patients_are_read_where_a_corpus_has_them(tiny):
    _, text, _ = tiny
    assert made.patients(text) == {}

    class Named:
        patient = 17

    other = dataclasses.replace(text, studies={"a": Named(), "b": object()})
    assert made.patients(other) == {"a": "17"}


@pytest.fixture(scope="module")
def trained(cache):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "RUNS", "RESULTS"):
            patch.setenv(f"R2GENKIT_{name}", str(cache / name.lower()))
        overrides = (*TINY, "training.epochs=1", "retrieval.crossfit=2")
        return run("09_retrieval", profile="smoke", overrides=overrides, progress=False)


def test_a_run_with_retrieval_leaves_a_system_for_new_images(trained):
    text, images, system = trained.text(), trained.images(), trained.system()
    assert "neighbours finding-F1, test" in trained.row.extra
    assert (trained.folder / "retrieval" / "retrieval.json").is_file()
    study_id = next(i for i in text.split.test if len(text.studies[i].views) == 2)
    views = list(images.images[study_id])
    batch = system.batch(views)
    assert batch.neighbours.shape[:2] == (1, 5)
    same = system.retriever.neighbours([study_id])[0]
    assert np.array_equal(batch.neighbours[0].numpy(), same)
    assert system.report_of(views).text == trained.hypotheses[study_id]
    one = system.report_of(views[:1], trace=True)
    assert one.trace["neighbours"].shape == (len(one.tokens), 5)
    assert one.trace["attention"].shape[:2] == (len(one.tokens), 2)
    assert (np.asarray(one.trace["attention"])[:, 1] == 0).all()


def test_a_lost_finding_is_lost_in_copies(trained):
    text, system = trained.text(), trained.system()
    (finding,) = shift.common_findings(text, "train", 1, least=2)
    ids = shift.studies_with(text, "train", finding)
    assert set(ids) <= shift.holders(text, finding)
    told = decoder_tags(system.recipe.tags, system.tags, text, "train")
    loader = report_loader(
        system.recipe, text, trained.images(), "train", seed=0, training=False, tags=told
    )
    table = shift.base_shift(system, text, loader, [finding], part="train", resamples=50)
    assert len(table) == 5 and set(table["studies"]) == {len(ids)}
    lines = table.set_index(["reports", "index"])
    copied = lines.loc[(shift.COPIED, shift.WITHOUT)]
    assert copied["recall"] == copied["low"] == copied["high"] == 0.0
    assert copied["difference"] == -lines.loc[(shift.COPIED, shift.FULL)]["recall"]
    assert set(lines.loc[shift.WRITTEN].index) == {shift.FULL, shift.WITHOUT, shift.EMPTY}
    with pytest.raises(KitError, match="no validation study states"):
        rare = next(
            f for f in text.labeler.findings if not shift.studies_with(text, "validation", f)
        )
        shift.base_shift(system, text, loader, [rare])
    system.retriever = None
    with pytest.raises(KitError, match="retrieves no reports"):
        shift.base_shift(system, text, loader, [finding])


def test_recalls_are_paired():
    stated = {"first": np.array([1, 1, 0, 1], bool), "second": np.array([0, 1, 0, 1], bool)}
    table = pd.DataFrame(shift.recalls(stated, resample_weights(4, resamples=200))).T
    assert table["recall"].tolist() == [0.75, 0.5]
    assert table["difference"].tolist() == [0.0, -0.25]
    assert table.loc["first", ["difference low", "difference high"]].tolist() == [0.0, 0.0]
    assert table.loc["second", "difference high"] <= 0.0  # it never gains in any resample


def test_copying_says_the_nearest_training_report():
    overrides = (*(o for o in TINY if "training" not in o and "batch_size" not in o),)
    result = run("09_copy_tags", profile="smoke", overrides=overrides, progress=False)
    text = result.text()
    assert result.row.kind == "baseline"
    assert set(result.hypotheses.values()) <= {text.references[i] for i in text.split.train}


def test_images_are_compared_by_the_weights_that_training_starts_from():
    overrides = (
        *(o for o in TINY if not o.startswith(("tags.", "encoder.pca"))),
        "tags=null",
        "encoder.trainable=true",
        "encoder.pca=null",
        "retrieval.by=image",
        "training.epochs=1",
        "data.limit_train=8",
        "sampling.batch_size=4",
    )
    result = run("09_retrieval", profile="smoke", overrides=overrides, progress=False)
    system, text = result.system(), result.text()
    assert system.retriever.encoder is not None and not system.retriever.encoder.trainable
    study_id = next(i for i in text.split.test if len(text.studies[i].views) == 2)
    batch = system.batch(list(result.images().images[study_id]))
    assert np.array_equal(batch.neighbours[0].numpy(), system.retriever.neighbours([study_id])[0])
