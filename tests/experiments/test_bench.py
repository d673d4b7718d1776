"""The bench: what stays of a patient when one finding is changed, and what a tiny model reads."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from r2genkit.errors import KitError
from r2genkit.experiments import bench as bench_module
from r2genkit.experiments import bench_follow, run
from r2genkit.experiments.bench import (
    ONE_SIZE,
    Bench,
    BenchPatient,
    answers,
    bench_patient,
    choices,
    pick_study,
    uncoded,
)
from r2genkit.experiments.bench_follow import (
    Rate,
    follow_rates,
    follow_trials,
    rates_table,
    side_rates,
)
from r2genkit.metrics.faithfulness import energy
from r2genkit.phantom import (
    RENDERED_TYPES,
    Patient,
    PlacedFinding,
    finding_masks,
    render_patient,
)
from r2genkit.phantom.findings import _TRAITS, OBJECT_TYPES
from r2genkit.phantom.projection import own_integral
from r2genkit.study import Study, View
from r2genkit.viz.widgets.bench import (
    Statement,
    bench_figure,
    follow,
    patch_cover,
    payload,
    statement,
)

SIZE = 112

pytestmark = pytest.mark.usefixtures("folders")


def placed(name, side="right", place="", severity=None, multiple=False):
    return PlacedFinding(name, side, place, severity, multiple, f"{name}/x", "code", "code")


def on_bench(*findings, study="CXR1"):
    return bench_patient(study_of(Patient(study, findings, 3)))


def study_of(patient):
    from r2genkit.phantom import PhantomView

    views = [View(p, p, PhantomView(patient, p)) for p in ("frontal", "lateral")]
    return Study(patient.study_id, tuple(views), "", "")


def empty(study="CXR1"):
    return BenchPatient(Patient(study, (), 3), ())


# --- the patient --------------------------------------------------------------------------------

UNTOUCHED = [
    placed("effusion", "left", severity="mild"),
    placed("nodule", "right", "upper lobe", multiple=True),
    placed("cardiomegaly", "midline", severity="severe"),
    placed("atelectasis", "bilateral", "base"),
    placed("rib_fracture", "left"),
    placed("degen_spine", "midline"),
]


def test_an_untouched_patient_is_drawn_as_the_corpus_draws_it():
    """The bench brings its own streams; with those of the corpus it must give the same film."""
    own = on_bench(*UNTOUCHED)
    films = render_patient(own.patient, SIZE)
    for film, name in zip(own.films(SIZE), ("frontal", "lateral")):
        assert np.array_equal(film, films[name])
    masks = finding_masks(own.patient, SIZE)
    for key, mask in own.masks(SIZE).items():
        for view, name in enumerate(("frontal", "lateral")):
            assert np.array_equal(mask[view], masks[int(key), name])


def test_without_a_finding_it_is_the_patient_without_it():
    own = on_bench(*UNTOUCHED).without("2")
    films = render_patient(Patient("CXR1", tuple(UNTOUCHED[:2] + UNTOUCHED[3:]), 3), SIZE)
    assert np.array_equal(own.films(SIZE)[0], films["frontal"])


OBJECTS = sorted(OBJECT_TYPES - set(_TRAITS))


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_changes_its_surroundings_alone(kind):
    """Line integrals change nowhere but where the object is; the film not far from there.

    Scattered light and local contrast reach an eighth of the film's side. Where masks leave out
    thin parts (leads of a pacemaker) or the lung that falls together around air (pneumothorax),
    what is left is faint or small.
    """
    without = empty()
    own = without.with_added(kind)
    key = own.items[0].key
    before, after = without.prepared(), own.prepared()
    masks = own.masks(SIZE)[key]
    for view, name in enumerate(("frontal", "lateral")):
        frame = after.frame(name, SIZE)
        change = np.abs(after.attenuation(name, SIZE) - before.attenuation(name, SIZE))
        touched = np.abs(own_integral(after.parts[0], frame)) > 1e-6
        if kind != "pneumothorax" and kind != "effusion" and kind != "pleural_thick":
            # What is added is all: fluid and air move the lung's vessels besides.
            assert change[~touched].max(initial=0) < 1e-4
        films = [p.film(name, SIZE).astype(int) for p in (before, after)]
        far = ~binary_dilation(masks[view], iterations=SIZE // 7)
        if not masks[view].any():
            continue
        moved = np.abs(films[1] - films[0])
        if kind == "pacemaker":
            assert (moved[far] > 3).mean() < 0.01
        else:
            assert moved[far].max(initial=0) <= (8 if kind == "pneumothorax" else 3)
        assert moved[~far].max() > 3  # the finding itself is there


def test_an_organ_moves_the_exposure_of_the_whole_film():
    """A large heart is seen by the automatic exposure: far from it greys move, a little."""
    without = empty()
    own = without.with_added("cardiomegaly", severity="severe")
    mask = own.masks(SIZE)["+1"][0]
    films = [patient.films(SIZE)[0].astype(int) for patient in (without, own)]
    far = ~binary_dilation(mask, iterations=SIZE // 7)
    moved = np.abs(films[1] - films[0])[far]
    assert (moved > 1).mean() > 0.05 and moved.max() <= 20


def test_nothing_is_left_of_a_finding_that_comes_and_goes():
    own = on_bench(*UNTOUCHED[:2])
    again = own.with_added("effusion", "right", severity="large").without("+1")
    assert again == own
    assert own.change("1", side="left").change("1", side="right") == own


def test_a_resized_finding_stays_and_a_mirrored_one_goes_across():
    """Its own dice, too: centre of the mask, in shares of the film's side."""

    def centre(patient, view):
        rows, columns = np.nonzero(patient.masks(SIZE)["0"][view])
        return rows.mean() / SIZE, columns.mean() / SIZE

    small = on_bench(placed("nodule", "right", "middle lobe", "mild"))
    large = small.change("0", severity="severe")
    for view in (0, 1):
        assert np.allclose(centre(small, view), centre(large, view), atol=0.03)
    areas = [patient.masks(SIZE)["0"].sum() for patient in (small, large)]
    assert areas[1] > 1.3 * areas[0]
    other = small.mirrored("0")
    finding = other.item("0").finding
    assert (finding.side, finding.place) == ("left", "lingula")
    (row, column), (row_after, column_after) = centre(small, 0), centre(other, 0)
    assert column < 0.5 < column_after and abs(row - row_after) < 0.1
    assert finding.severity == "mild" and other.item("0").dice == small.item("0").dice


def test_the_others_keep_their_place():
    own = on_bench(*UNTOUCHED[:2])
    moved = own.mirrored("0")
    before, after = own.masks(SIZE), moved.masks(SIZE)
    assert not np.array_equal(before["0"], after["0"])
    assert np.array_equal(before["1"], after["1"])


@pytest.mark.parametrize("kind", RENDERED_TYPES)
def test_every_choice_changes_the_film(kind):
    """Nothing is offered that would do nothing; what is not offered does nothing."""
    allowed = choices(kind)
    base = empty().with_added(kind)

    def differ(options):
        films = [base.change("+1", **one).films(64) for one in options]
        return all(
            any((a != b).any() for a, b in zip(first, second))
            for first, second in itertools.pairwise(films)
        )

    start = base.items[0].finding
    assert differ([{"severity": one} for one in allowed.severities])
    assert differ([{"place": one} for one in allowed.places[start.side]])
    sides = [
        {"side": side, "place": allowed.places[side][0]}
        for side in allowed.sides
        if allowed.places[side]
    ]
    assert differ(sides)
    (item,) = base.items
    if kind not in ONE_SIZE:
        none = replace(item, finding=replace(item.finding, severity=None))
        bare = BenchPatient(base.patient, (none,)).films(64)
        for severity in allowed.severities:
            films = base.change("+1", severity=severity).films(64)
            same = all(np.array_equal(a, b) for a, b in zip(bare, films))
            assert same == (severity == uncoded(kind))
    else:
        severe = replace(item, finding=replace(item.finding, severity="severe"))
        same = BenchPatient(base.patient, (severe,))
        assert all(np.array_equal(a, b) for a, b in zip(base.films(64), same.films(64)))


def test_rules_of_the_phantom_hold_on_the_bench():
    own = on_bench(
        placed("nodule", "right", "middle lobe"), placed("effusion", "left", "costophrenic angle")
    )
    for call, told in (
        (lambda: own.change("0", side="left"), "place 'middle lobe'"),
        (lambda: own.change("0", side="midline"), "side 'midline'"),
        (lambda: own.change("0", severity="huge"), "severity 'huge'"),
        (lambda: own.change("7", side="left"), "no finding '7'"),
        (lambda: own.without("7"), "no finding '7'"),
        (lambda: own.with_added("osteopenia"), "cannot draw 'osteopenia'"),
        (lambda: own.with_added("nodule", "left", "middle lobe"), "place 'middle lobe'"),
        (lambda: own.with_added("nodule", "right", "middle lobe"), "two findings 'nodule'"),
        (lambda: own.with_added("nodule", key="0"), "cannot be called '0'"),
        (lambda: empty().with_added("cardiomegaly").mirrored("+1"), "no other side"),
    ):
        with pytest.raises(KitError, match=told):
            call()
    # A blunted angle keeps its place on the other side, as its code alone can give it.
    assert own.mirrored("1").item("1").finding.place == "costophrenic angle"


def test_only_a_phantom_can_be_changed():
    with pytest.raises(KitError, match="not of the phantom"):
        bench_patient(Study("s", (View("s", "frontal", None),), "", ""))


# --- reading ------------------------------------------------------------------------------------

TINY = (
    "data.limit_train=26",
    "data.limit_validation=9",
    "data.limit_test=12",
    "encoder.image_size=96",
    "encoder.pca=16",
    "tags.epochs=1",
    "tags.min_positives=2",
    "training.epochs=1",
    "sampling.batch_size=8",
    "scoring.bootstrap=40",
    "scoring.meteor=false",
    "scoring.swap=1",
    "decoding.max_length=12",
)
_KEPT: dict = {}


@pytest.fixture
def finished(folders):
    if "run" not in _KEPT:
        _KEPT["run"] = run("06_base", profile="smoke", overrides=TINY, progress=False)
        _KEPT["system"] = _KEPT["run"].system()
    return _KEPT["run"]


@pytest.fixture
def bench(finished):
    studies = [finished.text().studies[one] for one in finished.text().split.test]
    study = max(studies, key=lambda one: len({finding.name for finding in one.findings}))
    return Bench(_KEPT["system"], study, name="tiny")


def asked(patient):
    names = ("side", "place", "severity")
    return [
        {"key": item.key, "kind": item.finding.name}
        | {name: getattr(item.finding, name) for name in names}
        for item in patient.items
    ]


def test_the_unchanged_study_is_read_as_the_run_read_it(finished, bench):
    from r2genkit.experiments.private_set import pixels_of

    reading = bench.read(bench.original)
    assert reading.hypothesis.text == finished.hypotheses[bench.study.id]
    seen = pixels_of(bench.study, bench.system.recipe.encoder)
    assert all(np.array_equal(a, b) for a, b in zip(reading.films, seen))
    attention = reading.attention()
    assert attention.shape[:2] == (len(reading.words), 2) and attention.max() <= 1
    assert set(reading.seconds) == {"render", "masks", "encode", "decode"}
    assert bench.read(bench.original) is reading  # remembered
    told = reading.batch.tags[0].numpy()
    assert [other for _, other in reading.tags.values()] == pytest.approx(told.tolist(), abs=1e-6)


def test_crossing_changes_one_road_at_a_time(bench):
    """Crossed with itself nothing changes; tags alone leave the patches alone, and vice versa."""
    before = bench.read(bench.original)
    assert set(bench.crossed(before, before)) == {before.hypothesis.text}
    after = bench.read(bench.original.with_added("pneumothorax", "left", severity="severe"))
    seen = []

    def record(batch, **options):
        seen.append((batch.features, batch.tags))
        return before.hypothesis

    bench._write = record
    bench.crossed(before, after)
    (tags_features, tags_tags), (patch_features, patch_tags) = seen
    assert tags_features is before.batch.features and tags_tags is after.batch.tags
    assert patch_features is after.batch.features and patch_tags is before.batch.tags
    assert not np.array_equal(before.batch.features, after.batch.features)


def test_an_answer_is_what_the_state_of_that_patient_is(bench):
    key = bench.main_finding()
    wanted = bench.original.without(key).with_added("effusion", "left", severity="large")
    answer = bench.answer({"findings": asked(wanted)[::-1], "title": "other"})
    data = bench.state(wanted, "other")
    assert answer["state"]["words"] == list(data.words)
    assert [one["key"] for one in answer["state"]["findings"]] == [i.key for i in wanted.items]
    first = bench.state(bench.original, "as it is")
    new = next(one for one in answer["pair"]["follows"] if one["key"] == "+1")
    found = follow(first, data, "+1")
    assert new["verdict"] == found.verdict and new["should"] == list(found.should)
    assert new["chance"] == [None, pytest.approx(found.chance[1], abs=1e-4)]
    assert answer["seconds"]["whole"] > 0
    assert bench.asked(asked(bench.original)).items == bench.original.items


def test_a_wrong_question_gets_one_sentence(bench):
    own = asked(bench.original)
    for findings, told in (
        (None, "list of findings"),
        ([{"key": "0"}], "needs key, kind"),
        ([{**own[0], "kind": "leads"}], "cannot become 'leads'"),
        ([{**own[0], "key": "99"}], "no finding '99'"),
        ([{**own[0], "side": "up"}], "side 'up'"),
        ([own[0], own[0]], "two findings"),
    ):
        with pytest.raises(KitError, match=told):
            bench.answer({"findings": findings})


def test_several_systems_answer_by_name(bench):
    other = Bench(bench.system, bench.study, name="other")
    answer = answers([bench, other])
    wanted = bench.original.with_added("pneumothorax", "right")
    question = {"findings": asked(wanted), "title": "more"}
    assert "first" not in answer(question | {"system": ""}) | answer(question | {"system": "tiny"})
    got = answer(question | {"system": "other"})
    assert got["first"]["words"] == list(other.read(other.original).words)
    assert got["called_at"] == bench.system.recipe.tags.called_at
    assert got["state"] == other.answer(question)["state"]
    with pytest.raises(KitError, match="called 'third': tiny, other are"):
        answer(question | {"system": "third"})
    for benches, told in (
        ([], "at least one system"),
        ([bench, bench], "different names"),
        ([bench, Bench(bench.system, study_of(Patient("x", (), 0)), name="x")], "one study"),
    ):
        with pytest.raises(KitError, match=told):
            answers(benches)
    assert payload(bench.data(systems=["tiny", "other"]))["systems"] == ["tiny", "other"]


def test_the_variants_stand_in_the_data(bench):
    data = bench.data(notes=("A note.",))
    assert data.states[0].title == "as it is" and data.states[0].roads is None
    assert all(state.roads is not None for state in data.states[1:])
    key = data.focus
    own = bench.original.item(key).finding
    assert data.states[1].finding(key) is None
    for state in data.states[2:]:
        changed = state.finding(key)
        assert (changed.side, changed.place, changed.severity) != (
            own.side,
            own.place,
            own.severity,
        )
    for state in data.states:  # the others are as they were
        others = [one for one in state.findings if one.key != key]
        assert [one.key for one in others] == [i.key for i in bench.original.items if i.key != key]
    content = payload(data)
    assert {kind["name"] for kind in content["kinds"]} == set(RENDERED_TYPES)
    assert {kind["name"] for kind in content["kinds"] if kind["tag"]} == set(
        bench.system.tags.types
    )
    figure = bench_figure(data)
    assert any("Had only the tags changed" in text.get_text() for text in figure.texts)


def test_a_patient_without_findings_gets_one(finished):
    study = study_of(Patient("nobody", (), 0))
    data = Bench(_KEPT["system"], study).data()
    assert data.focus == "+1" and data.states[1].finding("+1").kind == "effusion"


def test_a_model_that_does_not_look_is_refused(bench, monkeypatch):
    write = Bench._write
    monkeypatch.setattr(Bench, "_write", lambda self, batch, trace=False: write(self, batch))
    with pytest.raises(KitError, match="does not attend"):
        Bench(bench.system, bench.study)
    with pytest.raises(KitError, match="unknown decoding method"):
        Bench(bench.system, bench.study, method="guess")


def test_the_study_picked_states_what_can_be_moved(finished, monkeypatch):
    text = finished.text()
    studies = [text.studies[one] for one in text.split.test]

    def movable(study):
        patient = bench_patient(study)
        names = [item.finding.name for item in patient.items]
        return [
            item.finding.name
            for item in patient.items
            if item.finding.side in ("left", "right") and names.count(item.finding.name) == 1
        ]

    rich = max((study for study in studies if movable(study)), key=lambda s: len(s.findings))
    kind = movable(rich)[0]

    def only_of(words, name):
        return Statement("positive" if (words[0], name) == (rich.id, kind) else "absent")

    monkeypatch.setattr(bench_module, "statement", only_of)
    named = replace(finished, hypotheses={study.id: f"{study.id} ." for study in studies})
    assert pick_study(named, [kind]) is rich  # the only one that states it, whatever else it has
    silent = replace(finished, hypotheses={study.id: "clear ." for study in studies})
    assert kind in movable(pick_study(silent, [kind]))
    assert pick_study(silent, []) is studies[0]


# --- many studies -------------------------------------------------------------------------------


@pytest.fixture
def trials(finished):
    if "trials" not in _KEPT:
        text = finished.text()
        studies = [text.studies[one] for part in ("train", "test") for one in text.part(part)]
        _KEPT["studies"] = studies
        kinds = ("effusion", "cardiomegaly")
        _KEPT["trials"] = follow_trials(_KEPT["system"], studies, kinds=kinds, limit=2, seed=1)
    return _KEPT["trials"]


def test_trials_change_one_finding_of_the_right_studies(trials):
    studies = {study.id: study for study in _KEPT["studies"]}
    for change, has in (("remove", True), ("add", False)):
        for kind, own in trials[trials.change == change].groupby("kind"):
            assert 1 <= len(own) <= 2
            for study in own["study"]:
                assert any(f.name == kind for f in studies[study].findings) == has
    flips = trials[trials.change == "flip"]
    assert len(flips) >= 2 and set(flips["kind"]) == {"effusion"}  # a heart has no other side


def test_a_trial_reads_what_the_bench_reads(trials):
    """Many at once or one at a time: the same reports, tags, statements and roads."""
    studies = {study.id: study for study in _KEPT["studies"]}
    system = _KEPT["system"]
    called_at = system.recipe.tags.called_at
    for row in trials[trials.change == "remove"].itertuples():
        one = Bench(system, studies[row.study])
        key = next(i.key for i in one.original.items if i.finding.name == row.kind)
        before, after = one.read(one.original), one.read(one.original.without(key))
        for name, reading in (("before", before), ("after", after)):
            stated = statement(reading.words, row.kind).polarity == "positive"
            assert getattr(row, f"stated_{name}") == stated
            if row.kind in reading.tags:
                called = reading.tags[row.kind][0] >= called_at
                assert getattr(row, f"called_{name}") == called
        for name, text in zip(("tags", "patches"), one.crossed(before, after)):
            stated = statement(text.split(), row.kind).polarity == "positive"
            assert getattr(row, f"stated_{name}") == stated


def test_rates_count_what_was_asked():
    import pandas as pd

    def row(change, before, after, tags=None, patches=None, called=(None, None), **more):
        content = {
            "kind": "effusion", "change": change, "study": "s", "stated_before": before,
            "stated_after": after, "stated_tags": tags, "stated_patches": patches,
            "called_before": called[0], "called_after": called[1], "side_before": None,
            "side_after": None, "others": 1, "others_called": 0,
        }  # fmt: skip
        places = ("old_before", "old_after", "new_before", "new_after")
        return content | dict.fromkeys(places, float("nan")) | more

    trials = pd.DataFrame(
        [
            row("remove", True, False, False, True, (True, False)),
            row("remove", True, True, True, True, (True, True)),
            row("remove", False, False, False, False, (True, False)),  # nothing to take back
            row("add", False, True, True, False, (False, True)),
            row("add", True, True, None, None, (None, None)),
            row("flip", True, True, side_before=True, side_after=True, old_before=0.3,
                old_after=0.1, new_before=0.1, new_after=0.2),
            row("flip", True, True, side_before=True, side_after=False, old_before=0.3,
                old_after=0.3, new_before=0.2, new_after=0.1),
            row("flip", True, False),
        ]
    )  # fmt: skip
    rates = follow_rates(trials).set_index(["change", "kind"])
    for kind in ("effusion", "all"):
        gone, new = rates.loc["remove", kind], rates.loc["add", kind]
        assert (gone["trials"], new["trials"]) == (3, 2)
        assert gone["report"] == Rate(1, 2) and new["report"] == Rate(1, 1)
        assert gone["only tags"] == Rate(1, 2) and gone["only patches"] == Rate(0, 2)
        assert gone["tag"] == Rate(2, 3) and new["tag"] == Rate(1, 1)
        assert new["only tags"] == Rate(1, 1) and new["only patches"] == Rate(0, 1)
    sides = side_rates(trials).set_index("kind").loc["all"]
    assert (sides["trials"], sides["stated"]) == (3, Rate(2, 3))
    assert (sides["right before"], sides["right after"]) == (Rate(2, 2), Rate(1, 2))
    assert (sides["right twice"], sides["attention"]) == (Rate(1, 2), Rate(1, 2))
    assert (sides["old"], sides["new"]) == (pytest.approx(-0.1), pytest.approx(0.0))
    table = rates_table(follow_rates(trials))
    assert table["finding"].tolist()[0] == "pleural effusion"
    assert table["report follows"].tolist()[0].startswith("1/2 = 50% [")


def test_attention_of_a_flip_is_measured_in_both_places(finished, monkeypatch):
    """With statements forced, the shares are those of the maps and masks of the bench."""

    def forced(words, kind):
        return Statement("positive", (0,), 0, ("left",)) if words else Statement("absent")

    monkeypatch.setattr(bench_follow, "statement", forced)
    text, system = finished.text(), _KEPT["system"]
    studies = [text.studies[one] for one in text.split.test]
    found = follow_trials(system, studies, kinds=("effusion",), limit=1, seed=2)
    row = found[found.change == "flip"].iloc[-1]
    study = text.studies[row["study"]]
    one = Bench(system, study)
    if any(f.name == "effusion" for f in study.findings):
        key = next(i.key for i in one.original.items if i.finding.name == "effusion")
        options = [one.original]
    else:
        key = "+1"
        options = [one.original.with_added("effusion", side) for side in ("left", "right")]
    wanted = [row[name] for name in ("old_before", "old_after", "new_before", "new_after")]
    assert np.isfinite(wanted).all()
    matches = []
    for patient in options:
        pair = patient, patient.mirrored(key)
        size = system.recipe.encoder.image_size
        got = []
        for where in pair:
            for seen in pair:
                maps = one.read(seen).attention()[0]
                cover = patch_cover(where.masks(size)[key], *maps.shape[1:])
                got.append(float(energy(maps.ravel(), cover)))
        matches.append(np.allclose(got, wanted, atol=1e-5))
    assert any(matches)


def test_nothing_to_try_is_said(finished):
    with pytest.raises(KitError, match="no study to change"):
        follow_trials(_KEPT["system"], [], kinds=("effusion",))


def test_a_rate_names_its_counts():
    assert str(Rate(0, 0)) == "0/0" and str(Rate(1, 2)).startswith("1/2 = 50% [")
