"""How far features have moved: each measure sees what it should and is blind to what it should."""

import math

import pytest
import torch

from r2genkit.encoders.drift import drift, linear_cka, mean_cosine, relative_distance
from r2genkit.errors import KitError


@pytest.fixture
def features():
    return torch.randn(60, 7, generator=torch.Generator().manual_seed(0))


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1)))[0]


def test_what_has_not_moved(features):
    assert drift(features, features) == pytest.approx({"distance": 0, "cosine": 1, "cka": 1})


def test_known_values():
    before = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    after = torch.tensor([[3.0, 4.0], [5.0, 0.0]])
    assert relative_distance(before, after) == pytest.approx(math.sqrt(50) / 10)
    assert mean_cosine(before, after) == pytest.approx(0.5)


def test_a_factor_is_seen_by_the_distance_alone(features):
    assert drift(features, 3 * features) == pytest.approx({"distance": 2, "cosine": 1, "cka": 1})


def test_a_rotation_is_seen_by_all_but_cka(features):
    turned = features @ rotation(7)
    assert linear_cka(features, turned) == pytest.approx(1)
    assert mean_cosine(features, turned) < 0.5
    assert relative_distance(features, turned) > 0.5


def test_cka_is_the_published_ratio_and_falls_with_noise(features):
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(2))
    other = features[:, :5] + noise
    # The same number from the Gram matrices: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).
    centre = torch.eye(60).double() - 1 / 60
    k, ell = (centre @ (x.double() @ x.double().T) @ centre for x in (features, other))
    want = (k * ell).sum() / (k.norm() * ell.norm())
    assert linear_cka(features, other) == pytest.approx(float(want))
    assert linear_cka(features, noise) < linear_cka(features, other) < 1


def test_other_patches_are_refused(features):
    with pytest.raises(KitError, match=r"not \[60, 7\] and \[59, 7\]"):
        drift(features, features[1:])
    with pytest.raises(KitError, match=r"not \[60, 7\] and \[59, 3\]"):
        linear_cka(features, features[1:, :3])
