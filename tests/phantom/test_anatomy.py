"""One patient, two views: the projections of the same solids must agree."""

import dataclasses

import numpy as np
import pytest

from r2genkit.phantom import PROJECTIONS, Patient, PlacedFinding, Population, prepare
from r2genkit.phantom.anatomy import TRAITS, build, draw_habitus
from r2genkit.phantom.measure import MEASURES, cardiothoracic_ratio
from r2genkit.phantom.projection import (
    Solid,
    _lung_interval,
    gather,
    make_frame,
    organs,
    solid_path,
)
from r2genkit.phantom.shapes import Ellipsoid, free_length
from r2genkit.phantom.splat import balls
from r2genkit.seeds import numpy_rng


def still(**changes) -> Population:
    """A population without pose, so that both views share their heights."""
    pose = {"lean": 0.0, "yaw": 0.0, "zoom": 0.0, "shift_mm": 0.0, "tilt": 0.0}
    body = {"body_size": 0.0, "body_width": 0.0}
    return dataclasses.replace(Population(), **{**pose, **body, **changes})


def habitus(name: str, population: Population):
    drawn = draw_habitus(numpy_rng(0, f"phantom/{name}"), population)
    drawn.numbers["lean_z"] = 0.0
    return drawn


def placed(name, side="midline", place="", severity=None, multiple=False):
    return PlacedFinding(name, side, place, severity, multiple, name, "code", "code")


def nominal_area(frame) -> float:
    return (frame.pixel / frame.scale_u) * (frame.pixel / frame.scale_v)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_lung_path_equals_sampling_along_the_ray(projection):
    anatomy = build(habitus("a", still()))
    frame = make_frame(anatomy, projection, 40)
    step = 0.5
    along = np.arange(-150, 150, step)
    for lung in anatomy.lungs.values():
        envelope, dome = _lung_interval(lung, frame, np.ones(40), (slice(0, 40), slice(0, 40)))
        path = free_length(envelope, dome)
        u = np.broadcast_to(frame.u[..., None], (40, 40, len(along)))
        v = np.broadcast_to(frame.v[..., None], u.shape)
        r = np.broadcast_to(along, u.shape)
        x, z = (u, r) if projection == "frontal" else (r, u)
        inside = lung.contains(np.stack([x.ravel(), v.ravel(), z.ravel()], 1), clearance=0.0)
        expected = inside.reshape(u.shape).sum(-1) * step
        assert expected.max() > 100
        np.testing.assert_allclose(path, expected, atol=4 * step)


def test_both_views_see_the_same_lungs():
    anatomy = build(habitus("b", still()))
    volume, height = {}, {}
    for projection in PROJECTIONS:
        frame = make_frame(anatomy, projection, 160)
        cut = organs(anatomy, frame)
        path = cut.lung["left"] + cut.lung["right"]
        # rows that both films show
        rows = (frame.v[:, 0] > -140) & (frame.v[:, 0] < 150)
        path = path[rows]
        volume[projection] = path.sum() * nominal_area(frame) / 1e6
        height[projection] = float((path.sum(1) * frame.v[rows, 0]).sum() / path.sum())
    assert 3.0 < volume["frontal"] < 8.0  # litres
    assert volume["frontal"] == pytest.approx(volume["lateral"], rel=0.06)
    assert height["frontal"] == pytest.approx(height["lateral"], abs=4.0)


def test_an_added_body_has_the_same_mass_and_height_in_both_views():
    anatomy = build(habitus("c", still()))
    solid = Solid(Ellipsoid((40, 35, 20), (14, 9, 11)), 0.02)
    for projection in PROJECTIONS:
        frame = make_frame(anatomy, projection, 224)
        image = solid_path(solid, frame)
        mass = image.sum() * nominal_area(frame)
        assert mass == pytest.approx(0.02 * 4 / 3 * np.pi * 14 * 9 * 11, rel=0.03)
        assert (image * frame.v).sum() / image.sum() == pytest.approx(35.0, abs=0.6)
        expected = 40.0 if projection == "frontal" else 20.0
        assert (image * frame.u).sum() / image.sum() == pytest.approx(expected, abs=0.6)


def test_points_fall_where_the_frame_says():
    prepared = prepare(Patient("d"))
    spot = np.array([[45.0, 30.0, -20.0]])
    prepared.scene.points = [balls(spot, 2.1, 50.0)]
    for projection in PROJECTIONS:
        frame = prepared.frame(projection, 224)
        image = gather(prepared.scene, frame, own_only=True)
        row, column = np.unravel_index(image.argmax(), image.shape)
        np.testing.assert_allclose([column, row], frame.to_pixels(spot)[0], atol=0.75)


def test_left_is_right_on_the_film_and_front_is_left():
    prepared = prepare(Patient("e"))
    columns = {
        p: prepared.frame(p, 224).to_pixels([[60, 20, 60], [-60, 20, -60]])[:, 0]
        for p in PROJECTIONS
    }
    assert columns["frontal"][0] > columns["frontal"][1]
    assert columns["lateral"][0] < columns["lateral"][1]


def test_habitus_makes_the_same_draws_whatever_the_population():
    one = draw_habitus(numpy_rng(3, "x"), Population())
    rng = numpy_rng(3, "x")
    other = draw_habitus(rng, Population(female=0.0, fat_mm=20.0, trait_spread=0.5))
    for name in one.arrays:
        np.testing.assert_array_equal(one.arrays[name], other.arrays[name])
    for trait in TRAITS:
        assert other.traits[trait] == pytest.approx(0.5 * one.traits[trait])


def measured(kind: str, severity: str | None, count: int = 60) -> np.ndarray:
    measure, _ = MEASURES[kind]
    values = []
    for index in range(count):
        found = () if severity is None else (placed(kind, "left", severity=severity),)
        values.append(measure(prepare(Patient(f"m{index}", found)).scene.anatomy))
    return np.array(values)


@pytest.mark.parametrize("kind", sorted(MEASURES))
def test_severity_moves_the_measurement_and_overlaps_with_normals(kind):
    direction = MEASURES[kind][1]
    count = 24
    normal = measured(kind, None, count) * direction
    groups = [measured(kind, s, count) * direction for s in ("borderline", "moderate", "severe")]
    means = [normal.mean(), *[g.mean() for g in groups]]
    assert means == sorted(means)
    # the healthy overlap with the borderline, the borderline with the severe
    assert np.mean(groups[0] < np.quantile(normal, 0.95)) > 0.2
    assert groups[0].max() > groups[2].min()
    assert np.mean(groups[2] > np.quantile(normal, 0.9)) > 0.7


def test_cardiothoracic_ratio_is_human():
    ratios = measured("cardiomegaly", None, 40)
    assert 0.40 < ratios.mean() < 0.50
    assert 0.015 < ratios.std() < 0.05
    assert cardiothoracic_ratio(build(habitus("z", still()))) < 0.6


@pytest.mark.parametrize("side", ["left", "right"])
def test_scoliosis_bends_to_the_side_it_is_coded_for(side):
    y = np.linspace(100, -60, 40)
    for index in range(12):
        found = (placed("scoliosis", side, severity="mild"),)
        bend = prepare(Patient(f"sc{index}", found)).scene.anatomy.spine_x(y)
        peak = bend[np.argmax(np.abs(bend))]
        assert (peak > 0) == (side == "left")
