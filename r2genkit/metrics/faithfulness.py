"""Does a map over patches mean something? Numbers for one map, one word at a time.

A map gives every patch of a study a weight for one word (or sentence) of its report. Two questions
can be asked of it:

* **Is it where the finding is?** Needs to know the place: the phantom does, pixel by pixel.
  :func:`pointing` (the pointing game, Zhang et al. 2018, "Top-down Neural Attention by Excitation
  Backprop", on patches) and :func:`energy` (share of the map inside the finding, Wang et al. 2020,
  "Score-CAM", section 4.3), each beside what a map without knowledge gets.
* **Does the word depend on what the map shows?** :func:`curve_area` of the word's probability while
  patches are taken away or given back in the order of the map (deletion and insertion, Petsiuk et
  al. 2018, "RISE"), against other orders.

A map may pass one and fail the other: a model can look at the heart and write from a tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import numpy as np

from r2genkit.errors import KitError


def _checked(values: np.ndarray, cover: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    values, cover = np.asarray(values, float), np.asarray(cover, float)
    mask = np.broadcast_to(np.asarray(mask, bool), values.shape)
    if values.shape != cover.shape or values.ndim < 1:
        raise KitError(
            f"a map of shape {list(values.shape)} and a finding of shape {list(cover.shape)}: both "
            "need one number per patch, [..., L]."
        )
    if not np.isfinite(values[mask]).all() or (values[mask] < 0).any():
        raise KitError("a map must be finite and not negative: clip it before measuring.")
    if (cover < 0).any() or (cover > 1).any():
        raise KitError("a finding's share of a patch must lie in [0, 1].")
    return np.where(mask, values, 0.0), np.where(mask, cover, 0.0), mask


def pointing(
    values: np.ndarray, cover: np.ndarray, mask: np.ndarray | bool = True, *, least: float = 0.1
) -> np.ndarray:
    """Pointing game: does the heaviest patch show the finding?

    Args:
        values: maps ``[..., L]`` over L patches, not negative.
        cover: share of each patch that the finding covers, same shape, in [0, 1].
        mask: where a patch is there, broadcast to the maps.
        least: a patch shows the finding from this share on, or where no patch holds more of it.

    Returns:
        ``[...]`` in [0, 1]: 1 or 0; where several patches tie for the heaviest, the share of them
        that show it. NaN where the finding covers no patch.

    Raises:
        KitError: shapes that differ, or values out of range.
    """
    values, cover, mask = _checked(values, cover, mask)
    shown = _shown(cover, least)
    heaviest = np.where(mask, values, -1.0)
    top = (heaviest == heaviest.max(-1, keepdims=True)) & mask
    return np.where(shown.any(-1), (top & shown).sum(-1) / top.sum(-1), np.nan)


def _shown(cover: np.ndarray, least: float) -> np.ndarray:
    most = cover.max(-1, keepdims=True)
    return (cover >= least) | ((cover == most) & (most > 0))


def pointing_chance(
    cover: np.ndarray, mask: np.ndarray | bool = True, *, least: float = 0.1
) -> np.ndarray:
    """What :func:`pointing` gives a patch drawn evenly, ``[...]``."""
    flat = np.ones_like(np.asarray(cover, float))
    return pointing(flat, cover, mask, least=least)


def energy(values: np.ndarray, cover: np.ndarray, mask: np.ndarray | bool = True) -> np.ndarray:
    """Share of a map's weight that lies inside the finding, ``[...]`` in [0, 1].

    A patch that is covered by a third counts by a third. NaN where the map is zero everywhere, or
    the finding covers no patch. An even map gets the finding's share of the area.

    Args:
        values, cover, mask: as in :func:`pointing`.

    Raises:
        KitError: shapes that differ, or values out of range.
    """
    values, cover, mask = _checked(values, cover, mask)
    total = values.sum(-1)
    known = (total > 0) & cover.any(-1)
    return np.where(known, (values * cover).sum(-1) / np.where(known, total, 1.0), np.nan)


def energy_chance(cover: np.ndarray, mask: np.ndarray | bool = True) -> np.ndarray:
    """What :func:`energy` gives an even map, ``[...]``: the finding's share of the area."""
    return energy(np.ones_like(np.asarray(cover, float)), cover, mask)


def entropy(values: np.ndarray, mask: np.ndarray | bool = True) -> np.ndarray:
    """How spread a map is, ``[...]`` in [0, 1]: 0 = one patch, 1 = all patches alike.

    Shannon entropy of the map as a distribution, over the logarithm of the number of patches. NaN
    for a map that is zero everywhere.
    """
    values = np.asarray(values, float)
    values, _, mask = _checked(values, np.zeros_like(values), mask)
    total = values.sum(-1, keepdims=True)
    p = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    nats = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
    count = mask.sum(-1)
    return np.where(total[..., 0] > 0, nats / np.log(np.maximum(count, 2)), np.nan)


def steps_of(count: int, steps: int) -> np.ndarray:
    """How many patches are gone after each of ``steps`` equal parts: ``[steps + 1]``, 0 to count.

    Raises:
        KitError: no patch, or no step.
    """
    if count < 1 or steps < 1:
        raise KitError(f"{count} patches in {steps} steps: both must be at least 1.")
    return np.rint(np.linspace(0, count, steps + 1)).astype(int)


def ranks(values: np.ndarray, mask: np.ndarray | bool = True) -> np.ndarray:
    """Place of each patch in the order of the map, ``[..., L]``: 0 = heaviest; absent ones last.

    Patches of equal weight keep the order of the rows.
    """
    values = np.asarray(values, float)
    mask = np.broadcast_to(np.asarray(mask, bool), values.shape)
    order = np.argsort(-np.where(mask, values, -np.inf), axis=-1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(values.shape[-1]), axis=-1)
    return places


def curve_area(curves: np.ndarray) -> np.ndarray:
    """Area under probability curves ``[..., K + 1]`` over equal steps from 0 to 1, ``[...]``.

    By trapezoids. For deletion (patches taken away, heaviest first) small is faithful, for
    insertion large.

    Raises:
        KitError: fewer than two points.
    """
    curves = np.asarray(curves, float)
    if curves.ndim < 1 or curves.shape[-1] < 2:
        raise KitError("a curve needs at least two points: before and after.")
    return ((curves[..., 1:] + curves[..., :-1]) / 2).mean(-1)


def centre_map(grid: int, views: int) -> np.ndarray:
    """A map that knows nothing but where a picture has its middle, ``[views * grid * grid]``.

    A Gaussian around the middle of each view with a standard deviation of a quarter of its side.
    """
    places = (np.arange(grid) + 0.5) / grid - 0.5
    one = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 0.25**2))
    return np.tile(one.ravel(), views)


def unchanged_words(before: str, after: str) -> float:
    """Share of the words of ``before`` that ``after`` keeps, in order, in [0, 1]; NaN if empty.

    By the matching blocks of Ratcliff and Obershelp (Python's ``difflib``), which are long runs of
    words rather than single ones.
    """
    first, second = before.split(), after.split()
    if not first:
        return float("nan")
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(first)


def unchanged_share(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, float]:
    """:func:`unchanged_words` by study id.

    Raises:
        KitError: the studies differ.
    """
    if before.keys() != after.keys():
        raise KitError("the swap test needs reports of the same studies before and after.")
    return {one: unchanged_words(before[one], after[one]) for one in before}


def study_means(values: Sequence[float], studies: Sequence[str]) -> dict[str, float]:
    """Mean per study of values of its words, without NaN; studies without a value are left out.

    Intervals are taken over studies: words of one report are not independent of each other.

    Raises:
        KitError: different numbers of values and studies.
    """
    if len(values) != len(studies):
        raise KitError(f"{len(values)} values for {len(studies)} studies: give one study each.")
    found: dict[str, list[float]] = {}
    for value, study in zip(values, studies):
        if np.isfinite(value):
            found.setdefault(study, []).append(float(value))
    return {study: float(np.mean(own)) for study, own in found.items()}
