"""Films and masks: determinism, independence of nuisance and findings, sides, visibility."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from r2genkit.corpora.phantom import read_phantom
from r2genkit.errors import KitError
from r2genkit.phantom import (
    PROJECTIONS,
    RENDERED_TYPES,
    Patient,
    PhantomView,
    PlacedFinding,
    Population,
    finding_masks,
    prepare,
    render_patient,
)
from r2genkit.phantom.masks import dilated
from r2genkit.study import Renderable

STANDARD = Population()
QUIET = Population(noise=(0.0, 0.0))
SIDED = {"pacemaker": "left", "scoliosis": "right"}


def placed(name, side="", place="", severity=None, multiple=False):
    side = side or SIDED.get(name, "right")
    return PlacedFinding(name, side, place, severity, multiple, name, "code", "code")


@cache
def films(study_id, *findings, population=STANDARD, size=224):
    return render_patient(Patient(study_id, findings, 0, population), size)


def change(study_id, finding, projection, population=QUIET):
    with_it = films(study_id, finding, population=population)[projection].astype(float)
    return with_it - films(study_id, population=population)[projection]


def test_films_are_bit_identical_in_any_order():
    patients = [Patient("a"), Patient("b", (placed("nodule"),)), Patient("c")]
    first = [render_patient(p, 96) for p in patients]
    again = [render_patient(p, 96) for p in reversed(patients)][::-1]
    for one, other in zip(first, again):
        for projection in PROJECTIONS:
            np.testing.assert_array_equal(one[projection], other[projection])
    assert first[0]["frontal"].dtype == np.uint8
    assert first[0]["frontal"].shape == (96, 96)
    assert np.mean(first[0]["frontal"] != first[2]["frontal"]) > 0.5


def test_seed_and_population_make_other_films():
    base = render_patient(Patient("a"), 96)["frontal"]
    assert (render_patient(Patient("a", seed=1), 96)["frontal"] != base).mean() > 0.5
    other = dataclasses.replace(Population(), fat_mm=25.0)
    assert (render_patient(Patient("a", population=other), 96)["frontal"] != base).mean() > 0.5


def test_view_is_renderable_and_its_digest_covers_what_the_pixels_follow_from():
    finding = placed("nodule", "left", "upper lobe")
    patient = Patient("a", (finding,))
    view = PhantomView(patient, "frontal")
    assert isinstance(view, Renderable)
    np.testing.assert_array_equal(view.render(96), render_patient(patient, 96)["frontal"])
    others = [
        PhantomView(patient, "lateral"),
        PhantomView(Patient("b", (finding,)), "frontal"),
        PhantomView(Patient("a", (finding,), 1), "frontal"),
        PhantomView(Patient("a", ()), "frontal"),
        PhantomView(Patient("a", (dataclasses.replace(finding, side="right"),)), "frontal"),
        PhantomView(Patient("a", (dataclasses.replace(finding, severity="mild"),)), "frontal"),
        PhantomView(Patient("a", (finding,), 0, Population(fat_mm=13.0)), "frontal"),
    ]
    digests = {view.digest(), *(other.digest() for other in others)}
    assert len(digests) == 1 + len(others)
    assert PhantomView(Patient("a", (finding,)), "frontal").digest() == view.digest()
    # how a place was found out does not change a pixel
    told = dataclasses.replace(finding, side_from="sentence", place_from="random")
    assert PhantomView(Patient("a", (told,)), "frontal").digest() == view.digest()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: render_patient(Patient("a", (placed("osteopenia"),))), "osteopenia"),
        (lambda: render_patient(Patient("a", (placed("nodule", side="up"),))), "up"),
        (lambda: render_patient(Patient("a", (placed("nodule", severity="awful"),))), "awful"),
        (lambda: render_patient(Patient("a"), 20), "20"),
        (lambda: PhantomView(Patient("a"), "oblique"), "oblique"),
        (lambda: Population(noise=(0.02, 0.01)), "noise"),
        (lambda: Population(female=1.5), "female"),
        (lambda: Population(lean=-1.0), "lean"),
    ],
)
def test_bad_input_is_named(make, word):
    with pytest.raises(KitError, match=word):
        make()


def test_nuisance_does_not_depend_on_findings():
    """Far from a focal finding every pixel stays, noise included, and so do the other findings."""
    finding = placed("nodule", "right", "lower lobe")
    extra = placed("calc_granuloma", "left", "upper lobe")
    plain, one = films("n1"), films("n1", finding)
    both = films("n1", finding, extra)
    masks = finding_masks(Patient("n1", (finding, extra)))
    for projection in PROJECTIONS:
        near_one = dilated(masks[0, projection], 12)
        near_extra = dilated(masks[1, projection], 12)
        far = ~near_one
        difference = np.abs(one[projection].astype(int) - plain[projection])
        assert difference[far].max() <= 4
        assert np.mean(difference[far] > 0) < 0.05
        changed = np.abs(both[projection].astype(int) - one[projection])
        assert changed[~near_extra].max() <= 4
        assert changed[near_extra].max() > 5


def test_removing_a_finding_moves_no_other_of_its_type():
    first = placed("nodule", "right", "upper lobe")
    second = placed("nodule", "left", "lower lobe")
    alone = prepare(Patient("n2", (second,))).scene.solids
    together = prepare(Patient("n2", (first, second))).scene.solids
    for one, other in zip(alone, together[-len(alone) :]):
        np.testing.assert_allclose(one.ellipsoid.centre, other.ellipsoid.centre)


FOCAL = ("nodule", "calc_granuloma", "opacity", "consolidation", "effusion", "pacemaker", "bulla")


@pytest.mark.parametrize("name", FOCAL)
def test_masks_hold_the_change_that_a_focal_finding_makes(name):
    finding = placed(name, place="" if name in ("effusion", "pacemaker") else "upper lobe")
    masks = finding_masks(Patient("m1", (finding,)))
    seen = 0
    for projection in PROJECTIONS:
        mask = masks[0, projection]
        assert mask.shape == (224, 224)
        energy = change("m1", finding, projection) ** 2
        if mask.any():
            seen += 1
            assert energy[dilated(mask, 4)].sum() > 0.7 * energy.sum()
            assert energy[mask].mean() > 4 * energy[~mask].mean()
        else:
            assert np.sqrt(energy).max() < 8
    assert seen >= 1


def test_a_mask_is_empty_where_the_finding_cannot_be_seen():
    finding = placed("clips", "right", "hilum")
    patient = Patient("m2", (finding,))
    scene = prepare(patient).scene
    assert scene.points
    hidden = Patient("m2", (placed("scoliosis", severity="borderline"),))
    masks = finding_masks(hidden, 96)
    assert masks[0, "frontal"].any()  # the column, from the front
    far = placed("pleural_thick", "right", "apex", "borderline")
    for mask in finding_masks(Patient("m3", (far, finding)), 96).values():
        assert mask.mean() < 0.2


@pytest.mark.parametrize("name", ["nodule", "consolidation", "effusion", "pneumothorax", "bulla"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_sides_are_the_patients(name, side):
    finding = placed(name, side, severity="large")
    mask = finding_masks(Patient("s1", (finding,)), 112)[0, "frontal"]
    frame = prepare(Patient("s1")).frame("frontal", 112)
    middle = frame.to_pixels([[0.0, 20.0, 0.0]])[0, 0]
    columns = np.nonzero(mask)[1]
    assert len(columns) > 5
    share_right_of_middle = np.mean(columns > middle)
    assert share_right_of_middle > 0.9 if side == "left" else share_right_of_middle < 0.1


def test_places_are_where_they_are_called():
    rows = {}
    for place in ("apex", "upper lobe", "lower lobe"):
        masks = [
            finding_masks(Patient(f"p{i}", (placed("nodule", "left", place),)), 112)[0, "frontal"]
            for i in range(2)
        ]
        rows[place] = np.mean([np.nonzero(m)[0].mean() for m in masks])
    assert rows["apex"] < rows["upper lobe"] < rows["lower lobe"]


@pytest.mark.parametrize("name", RENDERED_TYPES)
def test_every_type_changes_the_film_beyond_its_noise(name):
    finding = placed(name)
    # the noise of a film has an SD of 1 to 2.5 grey levels
    changed = [np.abs(change("v1", finding, p)) > 6.0 for p in PROJECTIONS]
    assert max(mask.sum() for mask in changed) >= 8


def test_grey_values_elsewhere_do_not_give_a_finding_away():
    """The tone curve does not see focal findings: a large effusion leaves the other lung alone."""
    finding = placed("effusion", "right", "", "large")
    moved = np.abs(change("t1", finding, "frontal"))
    frame = prepare(Patient("t1")).frame("frontal", 224)
    left_lung = (frame.u > 45) & (frame.v > 0)
    assert np.median(moved[left_lung]) < 1.0
    assert moved.max() > 40


def test_nearly_every_abnormal_report_shows_something():
    studies = read_phantom()
    abnormal = [s for s in studies if s.normal is False and s.codes]
    shown = [bool(s.findings) for s in abnormal]
    assert len(abnormal) > 2300
    assert np.mean(shown) > 0.94
    assert all(not s.findings for s in studies if s.normal)
    assert len(RENDERED_TYPES) >= 22
    assert {"pneumothorax", "congestion"} <= set(RENDERED_TYPES)


@pytest.mark.parametrize("name", ["atelectasis", "rib_fracture", "hilar_prominence"])
def test_masks_of_objects_leave_out_what_they_drag_along(name):
    """A collapsed base lifts the diaphragm and every vessel; the mask is the streaks alone."""
    masks = finding_masks(Patient("m4", (placed(name, "right", "base"),)), 112)
    frame = prepare(Patient("m4")).frame("frontal", 112)
    assert masks[0, "frontal"].any()
    assert masks[0, "frontal"][frame.u > 15].sum() == 0


def test_the_mask_of_a_raised_dome_is_the_band_it_rose_through():
    finding = placed("elev_diaphragm", "left", severity="severe")
    mask = finding_masks(Patient("m5", (finding,)), 112)[0, "frontal"]
    well, ill = prepare(Patient("m5")), prepare(Patient("m5", (finding,)))
    low, high = (p.scene.anatomy.lungs["left"].dome_top for p in (well, ill))
    frame = well.frame("frontal", 112)
    x = np.full(2, 65.0)
    points = np.stack([x, [low + 0.3 * (high - low), high + 30.0], np.full(2, 20.0)], axis=1)
    inside = [mask[round(r), round(c)] for c, r in frame.to_pixels(points)]
    assert inside == [True, False]
    assert mask[frame.u < -15].mean() < 0.02
