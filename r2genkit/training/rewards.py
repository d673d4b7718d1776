"""What a sampled report earns: CIDEr-D, BLEU-4, finding-F1, or a weighted sum of them.

Every reward is a number per report, higher is better, computed from token ids on the CPU. The
references of training studies are prepared once; a step then costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from r2genkit.errors import KitError
from r2genkit.metrics.cider_d import CiderD, Texts, pack, sentence_bleu
from r2genkit.metrics.findings import POSITIVE, FindingLabeler, default_labeler
from r2genkit.metrics.findings.scores import f1_from_counts
from r2genkit.text.vocabulary import Vocabulary

RewardName = Literal["cider_d", "bleu4", "finding_f1"]

_REMEMBERED = 200_000


class FindingReward:
    """Finding-F1 of single reports.

    The kit's labeler decides sentence by sentence, and a report states a finding where any of its
    sentences does. So it is enough to label every sentence once: what a model writes repeats
    itself, and a known sentence costs one look-up.

    Args:
        vocabulary: turns ids into words for the labeler.
        labeler: default: the kit's.
    """

    def __init__(self, vocabulary: Vocabulary, labeler: FindingLabeler | None = None) -> None:
        self.vocabulary = vocabulary
        self.labeler = labeler or default_labeler()
        self._known: dict[bytes, np.ndarray] = {}

    def positives(self, texts: Texts) -> np.ndarray:
        """Findings that each text states, bool ``[N, F]`` in the order of the labeler."""
        full_stop = self.vocabulary.full_stop
        stated = np.zeros((len(texts), len(self.labeler.findings)), dtype=bool)
        for row, (ids, length) in enumerate(zip(texts.ids, texts.lengths)):
            ids = ids[:length]
            ends = np.flatnonzero(ids == full_stop) if full_stop is not None else ()
            start = 0
            for stop in (*ends, length):
                if stop > start:
                    stated[row] |= self._sentence(ids[start:stop])
                start = stop + 1
        return stated

    def _sentence(self, ids: np.ndarray) -> np.ndarray:
        key = ids.tobytes()
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            labels = self.labeler.label_matrix([self.vocabulary.decode(ids)])[0]
            known = self._known[key] = labels == POSITIVE
        return known

    @staticmethod
    def counts(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """True positives, false positives, false negatives ``[N, 3]`` of bool ``[N, F]`` each."""
        pairs = (found & wanted, found & ~wanted, ~found & wanted)
        return np.stack([pair.sum(1) for pair in pairs], axis=1)

    @staticmethod
    def f1(counts: np.ndarray) -> np.ndarray:
        """F1 per report ``[N]``; 1 where neither text states a finding.

        The score of the tables leaves such studies out. A reward cannot: to say nothing abnormal of
        a normal study is right, and must earn more than an invented finding.
        """
        return np.nan_to_num(f1_from_counts(counts), nan=1.0)


class Rewards:
    """Rewards of reports against the references of the studies that they were written for.

    Args:
        weights: by name; the reward is the weighted sum. CIDEr-D lies in 0..10 and stays below 1
            for most reports, the others lie in 0..1.
        references: report text by study id, tokenised, as it is scored; the documents of CIDEr-D.
            Pass training studies only.
        vocabulary: encodes references as the model encodes reports; rare words become ``<unk>``.
        sigma: see :class:`~r2genkit.metrics.cider_d.CiderD`.
        end: the end mark counts as a word of CIDEr-D. A reference always has one, a report only if
            it ended before the largest length.
        labeler: default: the kit's.

    Raises:
        KitError: no weight, an unknown name, or no reference.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        references: Mapping[str, str],
        vocabulary: Vocabulary,
        *,
        sigma: float | None = 6.0,
        end: bool = True,
        labeler: FindingLabeler | None = None,
    ) -> None:
        known = ("cider_d", "bleu4", "finding_f1")
        if unknown := [name for name in weights if name not in known]:
            raise KitError(f"there is no reward {unknown[0]!r}; choose among {', '.join(known)}.")
        if not any(weights.values()):
            raise KitError(f"no reward has a weight; give one to any of {', '.join(known)}.")
        if not references:
            raise KitError("rewards need reference reports of the training studies; none given.")
        self.weights = {name: float(value) for name, value in weights.items() if value}
        self.rows = {study: row for row, study in enumerate(references)}
        # Word by word, not by ``encode``: a reference that was cut must not be cleaned again.
        ids = [[*map(vocabulary.id, text.split()), vocabulary.eos] for text in references.values()]
        self._texts = pack(ids)
        self._cider = self._prepared = None
        if "cider_d" in self.weights:
            self._cider = CiderD(ids, sigma=sigma, end=end)
            self._prepared = self._cider.prepare(ids)
        self.findings = FindingReward(vocabulary, labeler)
        self._positives = self.findings.positives(self._texts)

    def __call__(self, tokens: Tensor, study_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Rewards of N reports.

        Args:
            tokens: ``[N, T]`` words, then 0.
            study_ids: N ids, those of the references.

        Returns:
            ``[N]`` arrays: "reward" (the weighted sum), each of its parts by name, and
            "finding_counts" ``[N, 3]``.

        Raises:
            KitError: a study has no reference.
        """
        try:
            rows = np.array([self.rows[study] for study in study_ids])
        except KeyError as error:
            raise KitError(
                f"study {error.args[0]} has no reference report to be rewarded by; "
                "give the references of all training studies."
            ) from None
        tokens = tokens.cpu().numpy()
        words = pack(tokens)
        counts = self.findings.counts(self.findings.positives(words), self._positives[rows])
        found: dict[str, np.ndarray] = {}
        for name in self.weights:
            if name == "cider_d":
                found[name] = self._cider.score(tokens, self._prepared[rows])
            elif name == "bleu4":
                found[name] = sentence_bleu(words, self._texts[rows])
            else:
                found[name] = self.findings.f1(counts)
        total = sum(self.weights[name] * value for name, value in found.items())
        return {"reward": total, **found, "finding_counts": counts}
