"""Closed-form intervals against brute-force sampling along the rays."""

import numpy as np
import pytest

from r2genkit.phantom.shapes import (
    Ellipsoid,
    empty,
    free_length,
    grow_hull,
    hull,
    length,
    overlap,
    paraboloid,
    rotation,
    superellipse,
)

STEP = 0.1
ALONG = np.arange(-160.0, 160.0, STEP)


def sampled(inside) -> np.ndarray:
    """Length by counting samples; ``inside(r)`` is broadcast over [..., samples]."""
    return inside(ALONG).sum(axis=-1) * STEP


@pytest.fixture
def rays():
    rng = np.random.default_rng(0)
    return rng.uniform(-70, 70, (12, 9)), rng.uniform(-70, 70, (12, 1))


@pytest.mark.parametrize("ray", [0, 2])
def test_rotated_ellipsoid_matches_sampling(rays, ray):
    u, v = rays
    solid = Ellipsoid((5, -8, 12), (60, 35, 48), rotation(0.6, -0.4, 0.3))
    point = np.zeros((*u.shape, len(ALONG), 3))
    point[..., 2 - ray], point[..., 1], point[..., ray] = u[..., None], v[..., None], ALONG
    offset = point - solid.centre
    axes = rotation(0.6, -0.4, 0.3)
    own = offset @ axes  # coordinates along the ellipsoid's own axes
    expected = ((own / np.array([60, 35, 48])) ** 2).sum(-1) <= 1
    np.testing.assert_allclose(
        length(solid.interval(ray, u, v)), expected.sum(-1) * STEP, atol=3 * STEP
    )


def test_superellipse_matches_sampling(rays):
    u, _ = rays
    low_high = superellipse(u, 4.0, 50.0, -10.0, 80.0, 2.5)
    expected = sampled(
        lambda r: np.abs((u[..., None] - 4) / 50) ** 2.5 + np.abs((r + 10) / 80) ** 2.5 <= 1
    )
    np.testing.assert_allclose(length(low_high), expected, atol=3 * STEP)


def test_paraboloid_matches_sampling(rays):
    u, v = rays
    interval = paraboloid(u, v, 20.0, 0.006, -5.0, 0.02, 15.0)
    expected = sampled(
        lambda r: v[..., None] < 15.0 - 0.006 * (u[..., None] - 20) ** 2 - 0.02 * (r + 5.0) ** 2
    )
    np.testing.assert_allclose(length(interval), expected, atol=3 * STEP)


def test_free_length_of_three_holes_matches_sampling():
    rng = np.random.default_rng(1)
    ends = np.sort(rng.uniform(-100, 100, (4, 40, 2)), axis=-1)
    ends[2, :5] = [1e6, -1e6]  # rays that miss a hole
    whole, *holes = [(e[:, 0], e[:, 1]) for e in ends]
    inside = (whole[0][:, None] <= ALONG) & (whole[1][:, None] >= ALONG)
    for low, high in holes:
        inside &= ~((low[:, None] <= ALONG) & (high[:, None] >= ALONG))
    np.testing.assert_allclose(free_length(whole, *holes), inside.sum(-1) * STEP, atol=6 * STEP)


def test_hull_and_overlap():
    one, two = (
        (np.array([0.0, 0.0]), np.array([4.0, 4.0])),
        (np.array([3.0, 6.0]), np.array([8.0, 9.0])),
    )
    assert overlap(one, two).tolist() == [1.0, 0.0]
    assert length(hull(one, two)).tolist() == [8.0, 9.0]


def test_growing_a_hull_on_a_window_equals_the_whole_grid():
    u, v = np.meshgrid(np.linspace(-90, 90, 41), np.linspace(80, -80, 37))
    u, v = u.astype(np.float32), v[:, :1].astype(np.float32)
    solids = [Ellipsoid((10, 5, 0), (40, 30, 20)), Ellipsoid((-30, -20, 5), (25, 20, 30))]
    grown = empty(u.shape)
    for solid in solids:
        grow_hull(grown, solid, 2, u, v)
    whole = hull(*[solid.interval(2, u, v) for solid in solids])
    np.testing.assert_allclose(length(grown), length(whole), atol=1e-3)
    far = empty(u.shape)
    grow_hull(far, Ellipsoid((900, 0, 0), (5, 5, 5)), 2, u, v)
    assert not length(far).any()
