"""Point clouds: mass is kept, balls have the profile of balls."""

import numpy as np
import pytest

from r2genkit.phantom.splat import (
    BALL_RADII,
    balls,
    gaussians,
    hollow_tube,
    polyline,
    project_points,
    tube,
)

PIXEL, SIZE = 0.5, 128
ORIGIN = (-PIXEL * (SIZE - 1) / 2, PIXEL * (SIZE - 1) / 2)


def image_of(points):
    return project_points(
        points.xyz[:, 0], points.xyz[:, 1], points.mass, points.kind, ORIGIN, PIXEL, SIZE
    )


def grid():
    steps = ORIGIN[0] + PIXEL * np.arange(SIZE)
    return np.meshgrid(steps, -steps)


@pytest.mark.parametrize("radius", [2.9, 6.2, 8.0])
def test_ball_has_the_chord_lengths_of_a_ball(radius):
    mu = 0.05
    image = image_of(balls([[1.0, -2.0, 30.0]], radius, mu * 4 / 3 * np.pi * radius**3))
    x, y = grid()
    distance = np.hypot(x - 1.0, y + 2.0)
    expected = mu * 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))
    away = np.abs(distance - radius) > 1.5  # the rim is band-limited
    assert np.abs(image - expected)[away].max() < 0.04 * expected.max()


@pytest.mark.parametrize("make", [lambda p: balls(p, 2.1, 3.0), lambda p: gaussians(p, 3.6, 3.0)])
def test_mass_is_kept(make):
    points = make(np.random.default_rng(0).uniform(-12, 12, (40, 3)))
    assert image_of(points).sum() * PIXEL**2 == pytest.approx(120.0, rel=1e-3)


def test_points_outside_the_picture_leave_no_trace():
    image = image_of(balls([[500.0, 0, 0], [0, -500.0, 0]], 3.9, 100.0))
    assert not image.any()


def test_tube_has_the_mass_of_a_cylinder_and_the_profile_of_a_chain_of_balls():
    path = np.stack([np.linspace(-25, 25, 90), np.zeros(90), np.zeros(90)], axis=1)
    points = tube(path, 5.0, 0.03)
    assert points.mass.sum() == pytest.approx(0.03 * np.pi * 25 * 50, rel=1e-3)
    middle = image_of(points)[:, SIZE // 2]
    height = -grid()[0][0]
    expected = 0.375 * np.pi * 0.03 * 10 * np.maximum(1 - (height / 5.0) ** 2, 0)
    np.testing.assert_allclose(middle, expected, atol=0.02)


def test_hollow_tube_has_bright_edges():
    path = np.stack([np.linspace(-25, 25, 120), np.zeros(120), np.zeros(120)], axis=1)
    outer, inner = hollow_tube(path, 6.2, 0.03, marrow=0.94)
    profile = image_of(outer)[:, SIZE // 2] + image_of(inner)[:, SIZE // 2]
    assert profile.max() > 1.2 * profile[SIZE // 2]


def test_radius_classes_are_found_by_nearest_logarithm():
    assert [int(balls([[0, 0, 0]], r, 1.0).kind[0]) for r in BALL_RADII] == list(
        range(len(BALL_RADII))
    )


def test_polyline_passes_through_its_knots():
    knots = np.array([[0, 0, 0], [10, 5, -3], [25, -4, 8], [30, 20, 1.0]])
    path = polyline(knots, 0.5)
    for knot in knots:
        assert np.linalg.norm(path - knot, axis=1).min() < 0.3
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 1.5
