"""Maps of tiny trained models: read, followed, differentiated and put to the test by loops."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from r2genkit import cli
from r2genkit.errors import KitError
from r2genkit.experiments import faithfulness as module
from r2genkit.experiments import run
from r2genkit.experiments.faithfulness import (
    find_units,
    gradient_maps,
    map_scores,
    maps_table,
    measure_run,
    measure_units,
    models_table,
    patch_cover,
    read_faithfulness_rows,
    read_material,
    rollout_maps,
    sentence_of,
    sentences_of,
    study_score,
    swap_test,
    word_scores,
)
from r2genkit.experiments.slots import covered_patches
from r2genkit.metrics.faithfulness import energy
from r2genkit.models.attention import DotAttention
from r2genkit.models.transformer import MultiHeadAttention
from r2genkit.viz.faithfulness import finding_maps_figure

# Fewer studies than worker processes are started for.
TINY = (
    "data.limit_train=26",
    "data.limit_validation=9",
    "data.limit_test=12",
    "encoder.image_size=128",
    "encoder.pca=16",
    "training.epochs=1",
    "tags.epochs=1",
    "tags.min_positives=2",
    "scoring.bootstrap=40",
    "scoring.meteor=false",
    "scoring.swap=1",
)
NAMES = ("06_base", "03_show_attend_tell", "04_co_attention")
every_model = pytest.mark.parametrize("name", NAMES)


pytestmark = pytest.mark.usefixtures("folders")


_KEPT: dict = {}


@pytest.fixture
def case(folders, request):
    """Run, system, material and units of a model, for reports that state what is drawn."""

    def make(name):
        if name not in _KEPT:
            result = run(name, profile="smoke", overrides=TINY, progress=False)
            system, text = result.system(), result.text()
            # The tiny model has learned nothing: its test references stand in for its reports.
            reports = {one: text.references[one] for one in text.split.test}
            material = read_material(system, text, result.images(), reports)
            grid = round(material.features.shape[2] ** 0.5)
            units = find_units(reports, text.studies, grid=grid)
            _KEPT[name] = (result, system, material, units, reports)
        return _KEPT[name]

    return make


def test_sentences_leave_full_stops_out():
    assert sentences_of("a b . . c .") == [[0, 1], [4]]
    assert sentences_of("a b") == [[0, 1]]
    assert sentences_of("") == []


def test_covers_are_those_of_the_slots_chapter(case):
    result, _, material, units, _ = case("06_base")
    studies = result.text().studies
    grid = round(material.features.shape[2] ** 0.5)
    for unit in units[:4]:
        shown = covered_patches([studies[unit.study]], [unit.finding], grid=grid)[0, :, 0].numpy()
        own = unit.cover
        parts = own.reshape(2, -1)
        for view, part in enumerate(parts):
            flags = (part >= 0.1) | ((part == part.max()) & (part > 0))
            assert (shown.reshape(2, -1)[view] >= flags).all()
        assert own.max() > 0 and own.max() <= 1


def test_only_the_phantom_knows_places(case):
    result, *_ = case("06_base")
    study = next(iter(result.text().studies.values()))
    view = dataclasses.replace(study.views[0], image=None)
    with pytest.raises(KitError, match="not of the phantom"):
        patch_cover(dataclasses.replace(study, views=(view,)), "cardiomegaly", 3)


def test_units_are_stated_and_drawn(case):
    result, _, _, units, reports = case("06_base")
    studies, labeler = result.text().studies, result.text().labeler
    assert units
    for unit in units:
        words = reports[unit.study].split()
        assert " ".join(words[place] for place in unit.places) == unit.words
        sentence = sentences_of(reports[unit.study])[unit.sentence]
        assert [sentence[i] for i in unit.within] == list(unit.places)
        assert unit.finding in {finding.name for finding in studies[unit.study].findings}
        stated = labeler.label(" ".join(words[i] for i in sentence))
        assert stated[unit.finding] == "positive"
    grid = round((len(units[0].cover) / 2) ** 0.5)
    limited = find_units(reports, studies, grid=grid, limit=1)
    assert len({unit.study for unit in limited}) == 1


@every_model
def test_word_scores_are_log_probabilities_of_teacher_forcing(case, name):
    _, system, material, units, _ = case(name)
    model, chosen = system.model.eval(), units[:3]
    batch = material.batch([unit.row for unit in chosen], model)
    scores, maps = word_scores(model, batch, chosen, trace=True)
    present = material.present[[unit.row for unit in chosen]]
    assert torch.allclose((maps * present).sum(1), torch.ones(len(chosen)), atol=1e-4)
    for row, unit in enumerate(chosen):
        # Without the unit's words the rest of the report scores what the whole lacks.
        if batch.sentences is None:
            logs = model.log_probs(batch)[row]
            own = [logs[at, batch.tokens[row, at + 1]] for at in unit.places]
        else:
            logs = model.unroll(batch).log_probs()[row, unit.sentence]
            own = [logs[at, batch.sentences[row, unit.sentence, at + 1]] for at in unit.within]
        assert scores[row].item() == pytest.approx(torch.stack(own).mean().item(), abs=1e-6)


def explicit(self, x, keys, values, *, mask=None, causal=False, trace=False):
    """Multi-head attention written out, with weights that keep their gradient."""
    queries = self.split(self.query(x))
    scores = queries @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5
    if causal:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1) if mask is not None else (
        scores.softmax(-1))  # fmt: skip
    if weights.requires_grad:
        weights.retain_grad()
    self.seen = weights
    heads = (weights @ values).transpose(1, 2).flatten(2)
    return self.output(heads), (weights.detach() if trace else None)


def test_the_gradient_of_a_transformer_is_that_of_attention_written_out(case, monkeypatch):
    _, system, material, units, _ = case("06_base")
    model, chosen = system.model.eval(), units[:3]
    batch = material.batch([unit.row for unit in chosen], model)
    found = gradient_maps(model, batch, chosen)
    monkeypatch.setattr(MultiHeadAttention, "forward", explicit)
    leaf = batch.features.clone().requires_grad_(True)
    scores, _ = word_scores(model, dataclasses.replace(batch, features=leaf), chosen)
    scores.sum().backward()
    wanted = 0
    for layer in model.decoder.layers:
        weights = layer.cross_attention.seen
        wanted = wanted + (weights.detach() * weights.grad).clamp_min(0).mean(1).sum(1)
    model.zero_grad(set_to_none=True)
    assert found.abs().max() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_the_gradient_of_a_recurrent_model_by_differences(case, monkeypatch):
    _, system, material, units, _ = case("03_show_attend_tell")
    model, unit = system.model.eval().double(), units[0]
    try:
        batch = material.batch([unit.row], model)
        double = {"features": batch.features.double(), "tags": batch.tags.double()}
        batch = dataclasses.replace(batch, **double)
        found = gradient_maps(model, batch, [unit])[0]
        patch, step = int(found.argmax()), 1e-5

        def moved(sign):
            def forward(self, query, keys, features, mask):
                scores = torch.bmm(self.query(query) * self.scale, keys.transpose(1, 2))
                weights = scores.masked_fill(~mask.unsqueeze(1), -math.inf).softmax(-1)
                # Every reading of this patch, times its weight: the sum that the map holds.
                shift = torch.zeros_like(weights)
                shift[..., patch] = sign * step * weights[..., patch]
                return torch.bmm(weights + shift, features), weights

            monkeypatch.setattr(DotAttention, "forward", forward)
            with torch.no_grad():
                return float(word_scores(model, batch, [unit])[0][0])

        slope = (moved(1) - moved(-1)) / (2 * step)
        # The map adds positive contributions only, the slope all of them.
        assert 0 < slope <= float(found[patch]) + 1e-8
        if len(unit.places) == 1:
            assert slope == pytest.approx(float(found[patch]), rel=1e-4)
    finally:
        model.float()


def test_rollout_is_half_residual_half_attention(case):
    _, system, material, units, _ = case("06_base")
    model, chosen = system.model.eval(), units[:2]
    batch = material.batch([unit.row for unit in chosen], model)
    with torch.no_grad():
        _, attention = word_scores(model, batch, chosen, trace=True)
    flow = rollout_maps(model, batch, attention)
    seen = model.patch_traces(batch)["patch_attention"]  # [P, layers, h, L, L]
    for row in range(2):
        total = torch.eye(seen.shape[-1])
        for layer in range(seen.shape[1]):
            total = (0.5 * seen[row, layer].mean(0) + 0.5 * torch.eye(len(total))) @ total
        torch.testing.assert_close(flow[row], attention[row] @ total)


@every_model
def test_curves_take_patches_away_in_the_order_of_the_map(case, name):
    _, system, material, units, _ = case(name)
    model, chosen = system.model.eval(), units[:2]
    found = measure_units(model, material, chosen, steps=3)
    assert set(found.maps) == set(module.MAPS) - (set() if name == "06_base" else {"rollout"})
    for row, unit in enumerate(chosen):
        batch = material.batch([unit.row], model)
        there = np.flatnonzero(found.present[row])
        order = sorted(there, key=lambda s: -found.maps["gradient"][row, s])
        for step in range(4):
            count = round(step * len(there) / 3)
            for gone, curve in (
                (order[:count], found.deletion),
                (order[count:], found.insertion),
            ):
                features = batch.features.flatten(1, 2).clone()
                features[0, gone] = material.mean
                features = features.view_as(batch.features)
                features = features * batch.view_mask[:, :, None, None]
                changed = dataclasses.replace(batch, features=features)
                with torch.no_grad():
                    score = word_scores(model, changed, [unit])[0][0].exp()
                assert curve["gradient"][row, step] == pytest.approx(float(score), abs=1e-5)
    assert (found.deletion["random"][:, 0] == found.probability).all()
    scores = map_scores(found, "gradient")
    assert set(scores) == set(module.WHERE)
    assert np.allclose(
        scores["deletion"],
        [np.trapezoid(curve, dx=1 / 3) for curve in found.deletion["gradient"]],
    )


def test_the_figure_draws_every_map_over_both_views_with_the_outline(case):
    result, system, material, units, _ = case("06_base")
    found = measure_units(system.model, material, units[:2], steps=2)
    grid = round(material.features.shape[2] ** 0.5)
    figure = finding_maps_figure(found, result.text().studies, [0, 1], grid=grid)
    axes = np.array(figure.axes).reshape(2, -1)  # rows of units
    assert axes.shape[1] == 2 * (len(found.maps) - 1)  # all kinds but the random one, two views
    inside = energy(found.maps["attention"][0], units[0].cover, found.present[0])
    assert axes[0, 0].get_title(loc="left").startswith(f"attention: {inside:.2f}")
    assert all(len(axis.images) == 2 for axis in axes[0])  # the film and the map
    outlined = [bool(axis.collections) for axis in axes[0, :2]]
    assert outlined == [part.any() for part in units[0].cover.reshape(2, -1)]
    with pytest.raises(KitError, match="choose at least one"):
        finding_maps_figure(found, result.text().studies, [], grid=grid)


def test_without_its_tag(case):
    _, system, material, units, _ = case("06_base")
    model, unit = system.model.eval(), next(u for u in units)
    found = measure_units(model, material, [unit], steps=2)
    batch = material.batch([unit.row], model)
    if unit.finding not in material.types:
        assert math.isnan(found.without_tag[0])
        return
    tags = batch.tags.clone()
    tags[0, material.types.index(unit.finding)] = 0
    with torch.no_grad():
        score = word_scores(model, dataclasses.replace(batch, tags=tags), [unit])[0].exp()
    assert found.without_tag[0] == pytest.approx(float(score[0]), abs=1e-6)


def test_equal_images_change_no_word(case):
    _, system, material, _, reports = case("06_base")
    same = dataclasses.replace(
        material,
        features=material.features[:1].expand_as(material.features).clone(),
        mask=material.mask[:1].expand_as(material.mask).clone(),
        tags=material.tags[:1].expand_as(material.tags).clone(),
    )
    written = swap_test(system, same, reports)
    # All studies look alike: whatever is exchanged, the same report comes out for each.
    assert written["image"] == written["tags"] == written["both"]


def test_a_mean_over_studies_has_an_interval():
    score = study_score({"s": 0.0, "t": 1.0, "u": 0.5}, seed=0, resamples=200)
    assert score.value == 0.5 and score.low <= 0.5 <= score.high
    assert study_score({}, seed=0).reason


@every_model
def test_rows_of_a_run(case, name, monkeypatch):
    result, _, _, _, reports = case(name)
    stated = dataclasses.replace(result, hypotheses=reports)
    rows = measure_run(stated, limit=6, steps=2)
    kinds = [kind for kind in module.MAPS if kind != "rollout" or name == "06_base"]
    assert [row.map for row in rows] == [*kinds, "model"]
    for row in rows[:-1]:
        assert set(row.scores) == set(module.WHERE)
        for score in row.scores.values():
            assert 0 <= score.low <= score.value <= score.high <= 1
        assert ("deletion" in row.against) == (row.map != "random")
    assert set(rows[-1].scores) == set(module.WHOLE)
    kept = [row for row in read_faithfulness_rows("smoke") if row.run == name]
    assert [row.map for row in kept] == [row.map for row in rows]
    table = maps_table(kept)
    assert list(table["map"]) == kinds and "deletion" in table
    assert len(models_table(kept)) == 1
    measured = []
    monkeypatch.setattr(module, "measure_units", lambda *_, **__: measured.append(1))
    assert measure_run(stated, limit=6, steps=2) == kept and not measured  # read, not measured
    with pytest.raises(AttributeError):  # other settings are measured
        measure_run(stated, limit=5, steps=2)
    assert measured
    assert "pointing" in sentence_of(rows[0]) and "chance" in sentence_of(rows[0])


def test_a_map_needs_a_finding_word_and_an_attention(case):
    _, system, material, units, _ = case("06_base")
    with pytest.raises(KitError, match="no map to measure"):
        measure_units(system.model, material, [])
    tell = run("03_show_tell", profile="smoke", overrides=TINY, progress=False)
    model = tell.system().model
    batch = material.batch([units[0].row], model)
    with pytest.raises(KitError, match="no attention over patches"):
        gradient_maps(model, batch, units[:1])


def test_a_sentence_beyond_the_layout_is_named(case):
    _, system, material, units, _ = case("04_co_attention")
    far = dataclasses.replace(units[0], sentence=99)
    batch = material.batch([far.row], system.model)
    with pytest.raises(KitError, match="sentence 100 is beyond"):
        word_scores(system.model, batch, [far])


def test_the_command_measures_and_prints(case, monkeypatch, capsys):
    case("06_base")
    asked = []

    def measured(result, *, limit, fresh):
        asked.append((result, limit))
        return []

    monkeypatch.setattr(module, "measure_run", measured)
    monkeypatch.setattr("r2genkit.experiments.run", lambda name, **_: name)
    with pytest.raises(SystemExit) as stopped:
        cli.app(["faithfulness", "06_base", "--profile", "smoke", "--limit", "5"])
    assert not stopped.value.code and asked == [("06_base", 5)]
    assert "what is left of it" in capsys.readouterr().out
