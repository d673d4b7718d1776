"""Who reads which slot of R2GenCMN's memory, and whether patches and words meet there.

All readings of a set of studies are collected once (:func:`read_slots`); every statistic is then
arithmetic on these tensors. Nothing here changes a model or a number of a result row.

"Weight" is the softmax weight that a reader (a patch or a word) gives to a slot; one reader gives 1
per head, shared among its k slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from r2genkit.batches import Batch
from r2genkit.decoding import evaluating
from r2genkit.errors import KitError
from r2genkit.models.base import target_mask
from r2genkit.models.cmn import CMN
from r2genkit.phantom import PhantomView, finding_masks
from r2genkit.seeds import numpy_rng, torch_generator
from r2genkit.study import Study

PORTION = 2**15  # readers whose k slots per head are added up at a time


@dataclass(frozen=True)
class Reads:
    """What R readers of one kind took from the memory.

    Attributes:
        slots: ``[R, h, k]`` int32, the slots read.
        weights: ``[R, h, k]`` float32; the k of a head sum to 1.
        count: M, slots of the memory.
        study: ``[R]`` int64, place of the reader's study among the studies looked at.
        place: ``[R]`` int64: number of the patch through all views, or position of the word.
        token: ``[R]`` int64, the word that reads (0: begin mark); None for patches.
        per_view: S, patches of one view (place // S is the view); 0 for words.
    """

    slots: Tensor
    weights: Tensor
    count: int
    study: Tensor
    place: Tensor
    token: Tensor | None = None
    per_view: int = 0

    def __len__(self) -> int:
        return len(self.slots)

    def select(self, rows: Tensor) -> Reads:
        """The readers ``rows`` (numbers or a bool mask)."""
        return replace(
            self,
            slots=self.slots[rows],
            weights=self.weights[rows],
            study=self.study[rows],
            place=self.place[rows],
            token=None if self.token is None else self.token[rows],
        )


def read_slots(model: CMN, loader: Iterable[Batch]) -> tuple[Reads, Reads]:
    """All readings of the studies that ``loader`` yields with their reports (teacher forcing).

    Args:
        model: a CMN; it is put into evaluation mode meanwhile.
        loader: minibatches with tokens, in order.

    Returns:
        Readings of the patches that are there, and of the words, begin mark included (the last
        token of a report is predicted but never read).

    Raises:
        KitError: the model has no such memory.
    """
    if not isinstance(model, CMN):
        raise KitError(f"{type(model).__name__} has no memory with slots; read a CMN.")
    device, count = next(model.parameters()).device, len(model.memory.matrix)
    parts: tuple[list[Reads], list[Reads]] = ([], [])
    seen = 0
    with evaluating(model):
        for batch in loader:
            batch = batch.to(device)
            looked, read = model.patch_traces(batch), model.unroll(batch, trace=True)[1]
            looked = {n: looked[n].flatten(1, 2) for n in ("slots", "slot_weights")}  # [B, V*S, ..]
            per_view = looked["slots"].shape[1] // batch.view_mask.shape[1]
            sides = (
                (looked, batch.view_mask.repeat_interleave(per_view, 1), None, per_view),
                (read, target_mask(batch.lengths, batch.tokens.shape[1]), batch.tokens[:, :-1], 0),
            )
            for part, (trace, there, tokens, size) in zip(parts, sides):
                study, place = there.nonzero().cpu().unbind(1)
                part.append(
                    Reads(
                        trace["slots"][there].int().cpu(),
                        trace["slot_weights"][there].float().cpu(),
                        count,
                        study + seen,
                        place,
                        None if tokens is None else tokens[there].cpu(),
                        size,
                    )
                )
            seen += len(batch)
    return _joined(parts[0]), _joined(parts[1])


def _joined(parts: Sequence[Reads]) -> Reads:
    def cat(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    names = ("slots", "weights", "study", "place", "token")
    return replace(parts[0], **{name: cat(name) for name in names})


def usage(reads: Reads, group: Tensor | None = None, groups: int = 1) -> Tensor:
    """Weight given to every slot, ``[G, h, M]`` float64, by group of readers.

    Args:
        reads: the readings.
        group: ``[R]`` int64 in 0 ... G - 1; default: all readers are one group.
        groups: G.
    """
    heads, count = reads.slots.shape[1], reads.count
    if group is None:
        group = torch.zeros(len(reads), dtype=torch.long)
    total = torch.zeros(groups * heads * count, dtype=torch.float64)
    head = torch.arange(heads)[:, None]
    for rows in torch.arange(len(reads)).split(PORTION):
        cell = (group[rows, None, None] * heads + head) * count + reads.slots[rows]
        weights = reads.weights[rows].double()
        total += torch.bincount(cell.flatten(), weights.flatten(), minlength=len(total))
    return total.view(groups, heads, count)


def shares(weight: Tensor) -> Tensor:
    """Weight ``[..., M]`` as shares of its sum; rows of zeros stay zeros."""
    return weight / weight.sum(-1, keepdim=True).clamp_min(1e-12)


def effective_slots(weight: Tensor) -> Tensor:
    """exp of the entropy of the shares ``[...]``: M if all M slots are read alike, 1 if one is."""
    return torch.special.entr(shares(weight)).sum(-1).exp()


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Share of reading that two kinds of readers have in common, ``[...]`` in [0, 1].

    ``sum_i min(p_i, q_i)`` over the slots of ``first`` and ``second [..., M]``.
    """
    return torch.minimum(shares(first), shares(second)).sum(-1)


def chance_overlap(
    first: Tensor, second: Tensor, *, read_only: bool = False, draws: int = 500, seed: int = 0
) -> Tensor:
    """:func:`overlap` after the slots of ``second`` were shuffled, ``[draws, h]``.

    How uneven either side reads stays; which slots it prefers does not.

    Args:
        first, second: ``[h, M]``.
        read_only: shuffle among the slots that some side reads. Where most slots are read by
            nobody, the two sides agree on that, and a shuffle of all slots counts it.
        draws, seed: how many, and which.
    """
    generator = torch_generator(seed, "slots/overlap")
    dead = (first <= 0) & (second <= 0) if read_only else torch.zeros_like(first, dtype=torch.bool)
    keys = torch.rand(draws, *second.shape, generator=generator) + 2.0 * dead
    places = dead.byte().argsort(dim=-1, stable=True).expand(draws, *second.shape)  # dead ones last
    mixed = second.expand(draws, *second.shape).gather(-1, keys.argsort(-1))
    return overlap(first, torch.zeros_like(mixed).scatter(-1, places, mixed))


def information(reads: Reads, group: Tensor, groups: int) -> Tensor:
    """Mutual information between a reader's group and the slot it reads, ``[h]`` in bits.

    Few readings per group raise it: compare with the value for a shuffled ``group``.
    """
    joint = usage(reads, group, groups).transpose(0, 1)  # [h, G, M]
    joint = joint / joint.sum((1, 2), keepdim=True)
    entropies = [torch.special.entr(p).flatten(1).sum(1) for p in (joint.sum(1), joint.sum(2))]
    return (sum(entropies) - torch.special.entr(joint).flatten(1).sum(1)) / np.log(2)


def matched_usage(reads: Reads, member: Tensor) -> tuple[Tensor, Tensor]:
    """What the members of each group read, and what readers in the same places read on average.

    A patch over the heart may read a slot because it lies there, whatever it shows; the second
    tensor is what the group would read if only its places mattered. Members count in it, too,
    which makes the difference a little too small.

    Args:
        reads: the readings.
        member: ``[R, F]`` bool; a reader may belong to several groups.

    Returns:
        Weights ``[F, h, M]`` of the members, and expected from their places.
    """
    places = int(reads.place.max()) + 1
    mean = usage(reads, reads.place, places)
    mean /= torch.bincount(reads.place, minlength=places).clamp_min(1)[:, None, None]
    rows, group = member.nonzero().unbind(1)
    observed = usage(reads.select(rows), group, member.shape[1])
    often = torch.bincount(group * places + reads.place[rows], minlength=member.shape[1] * places)
    return observed, torch.einsum("fp,phm->fhm", often.view(-1, places).double(), mean)


def moved(observed: Tensor, expected: Tensor) -> Tensor:
    """Share of the reading that lies elsewhere than expected, ``[...]`` in [0, 1], mean over heads.

    Total variation distance of the shares ``[..., h, M]``.
    """
    return ((shares(observed) - shares(expected)).abs().sum(-1) / 2).mean(-1)


def alignment(
    patches: tuple[Tensor, Tensor], words: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Do patches of a finding and words of a finding move towards the same slots?

    Args:
        patches, words: observed and expected ``[F, h, M]`` of :func:`matched_usage`, F alike.

    Returns:
        Cosines ``[F, F]`` between the moves ``p - p_expected`` (row: patches of f, column: words of
        g), and the mean of the diagonal minus the mean of the rest.
    """
    moves = [
        torch.nn.functional.normalize((shares(seen) - shares(wanted)).flatten(1), dim=1)
        for seen, wanted in (patches, words)
    ]
    cosines = moves[0] @ moves[1].T
    size = len(cosines)
    own = cosines.diagonal().mean()
    rest = (cosines.sum() - cosines.diagonal().sum()) / max(size * (size - 1), 1)
    return cosines, own - rest


def chance_alignment(cosines: Tensor, *, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """:func:`alignment`'s difference after shuffling which column is which finding, ``[draws]``."""
    size, rng = len(cosines), numpy_rng(seed, "slots/alignment")
    table = cosines.numpy()
    order = rng.permuted(np.tile(np.arange(size), (draws, 1)), axis=1)
    own = table[np.arange(size), order].mean(1)
    return own - (table.sum() - own * size) / max(size * (size - 1), 1)


def slot_weights(reads: Reads, head: int, slot: int) -> Tensor:
    """Weight that every reader gives to one slot in one head, ``[R]``."""
    return (reads.weights[:, head] * (reads.slots[:, head] == slot)).sum(-1)


def top_patches(patches: Reads, head: int, slot: int, number: int) -> Tensor:
    """The readers that give a slot most weight, at most one per study, best first."""
    weights = slot_weights(patches, head, slot)
    order = weights.argsort(descending=True, stable=True)
    order = order[weights[order] > 0]
    if not len(order):  # no patch reads it
        return order
    studies = patches.study[order]
    # The first of every study in this order: a stable sort by study keeps its best in front.
    by_study = studies.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = studies[by_study].diff() > 0
    return order[by_study[first].sort().values[:number]]


def top_words(
    by_word: Tensor, counts: Tensor, head: int, slot: int, number: int, *, least: int = 10
) -> list[tuple[int, float]]:
    """Words that read a slot far above the base rate.

    Args:
        by_word: ``[K, h, M]``, :func:`usage` grouped by token.
        counts: ``[K]``, how often each word reads.
        head, slot: which slot.
        number: how many words at most.
        least: words that occur less often are left out.

    Returns:
        (token, lift) with lift = mean weight that the word gives to the slot / mean weight that
        all words give; only lifts above 1, those that carry most of the excess first.
    """
    weight = by_word[:, head, slot]
    base = weight.sum() / counts.sum()
    excess = weight - base * counts
    order = excess.masked_fill(counts < least, 0).argsort(descending=True)[:number]
    return [
        (int(token), float(weight[token] / (base * counts[token])))
        for token in order
        if excess[token] > 0 and counts[token] >= least
    ]


def most_read(weight: Tensor, share: float) -> list[int]:
    """The fewest slots that together hold ``share`` of the weight ``[M]``, most read first."""
    ordered, order = shares(weight).sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    return order[(before < share - 1e-9) & (ordered > 0)].tolist()


def other_slots(slots: Sequence[int], weight: Tensor, *, alike: bool, seed: int = 0) -> list[int]:
    """As many other slots that are read at all: drawn, or those read most alike.

    Args:
        slots: slots to stay away from.
        weight: ``[M]``.
        alike: True: for each of ``slots`` in random order, the free slot whose weight is nearest;
            False: drawn among the free slots with weight.
        seed: names the draw.

    Raises:
        KitError: too few slots are left.
    """
    values = weight.double().numpy()
    free = np.setdiff1d(np.flatnonzero(values > 0), np.asarray(slots, dtype=int))
    if len(free) < len(slots):
        raise KitError(f"{len(free)} other slots are read, {len(slots)} were asked for; ask fewer.")
    rng = numpy_rng(seed, "slots/others")
    if not alike:
        return sorted(rng.choice(free, len(slots), replace=False).tolist())
    chosen = []
    for slot in rng.permutation(np.asarray(slots)):
        nearest = free[np.abs(values[free] - values[slot]).argmin()]
        chosen.append(int(nearest))
        free = free[free != nearest]
    return sorted(chosen)


def covered_patches(
    studies: Sequence[Study], types: Sequence[str], *, grid: int, share: float = 0.1
) -> Tensor:
    """Which patch shows which coded finding, ``[N, V * S, F]`` bool, S = grid * grid.

    On the phantom: the finding's mask covers at least ``share`` of the patch, or no patch holds
    more of the mask. Elsewhere nobody knows the place, and all patches of the study count.

    Args:
        studies: with at most two views each, in the order of the models.
        types: F names of findings.
        grid: patches per side of a view.
        share: in (0, 1].
    """
    column = {name: number for number, name in enumerate(types)}
    size = 16 * grid
    cover = np.zeros((len(studies), 2, grid, grid, len(types)), dtype=bool)
    for row, study in enumerate(studies):
        known = [(i, f.name) for i, f in enumerate(study.findings) if f.name in column]
        if not known:
            continue
        views = [view.image for view in study.views]
        if not isinstance(views[0], PhantomView):
            cover[row][..., [column[name] for _, name in known]] = True
            continue
        masks = finding_masks(views[0].patient, size)
        for place, image in enumerate(views):
            for index, name in known:
                mask = masks[index, image.projection]
                part = mask.reshape(grid, 16, grid, 16).mean((1, 3))  # share of each patch
                shown = (part >= share) | ((part == part.max()) & (part > 0))
                cover[row, place, ..., column[name]] |= shown
    return torch.from_numpy(cover.reshape(len(studies), -1, len(types)))


def telling_words(
    tokens: Sequence[Sequence[int]], positive: np.ndarray, size: int, *, number: int = 3
) -> list[list[int]]:
    """For each finding the words whose presence tells most about it.

    By mutual information between "the report has the word" and "the report states the finding";
    only words that are more frequent in reports that state it.

    Args:
        tokens: ids of N reports.
        positive: ``[N, F]`` bool, findings that each report states.
        size: K, words of the vocabulary.
        number: words per finding at most.

    Returns:
        F lists of ids, best first.
    """
    has = np.zeros((len(tokens), size))
    for row, ids in enumerate(tokens):
        has[row, np.unique(ids)] = 1
    has[:, 0] = 0  # marks tell nothing
    truth, n = positive.astype(float), len(tokens)
    both = truth.T @ has  # [F, K]
    cells = {
        (1, 1): both,
        (1, 0): truth.sum(0)[:, None] - both,
        (0, 1): has.sum(0) - both,
    }
    cells[0, 0] = n - sum(cells.values())
    p = truth.mean(0)[:, None]
    q = has.mean(0)[None]
    gain = np.zeros_like(both)
    for (a, b), cell in cells.items():
        marginal = (p if a else 1 - p) * (q if b else 1 - q) * n
        gain += np.where(
            cell > 0, cell * np.log(np.maximum(cell, 1) / np.maximum(marginal, 1e-12)), 0
        )
    gain = np.where(both > p * q * n, gain, 0)
    order = np.argsort(-gain, axis=1, kind="stable")[:, :number]
    return [[int(k) for k in row if gain[f, k] > 0] for f, row in enumerate(order)]
