"""Votes of readers: what the report duel exports, read back and turned into one table.

A ballot is what one reader said about one deck of studies. It names reports by their source, so a
table needs nothing but the ballots. Nothing here makes up a vote: no ballots, no table.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from r2genkit.errors import KitError
from r2genkit.intervals import wilson

FORMAT = "r2genkit report duel 1"
CANNOT_TELL = "cannot tell"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BallotSource(_Strict):
    """Who wrote one of the reports: its key in the votes, and its name in tables."""

    key: str = Field(min_length=1, max_length=100)
    title: str = Field(max_length=300)


class Vote(_Strict):
    """What a reader said about one study.

    Attributes:
        study: its id.
        best: sources of the report that was called best; several where they wrote the same words
            (they share the vote), none for "cannot tell".
        dangerous: sources of the reports that were called dangerous; often none.
    """

    study: str = Field(max_length=300)
    best: tuple[str, ...] = Field(max_length=20)
    dangerous: tuple[str, ...] = Field(default=(), max_length=20)


class Ballot(_Strict):
    """The votes of one reader on one deck.

    Attributes:
        format: "r2genkit report duel 1".
        deck: fingerprint of studies and reports; only ballots of one deck are counted together.
        title: of the deck.
        reader: a code of the reader's choice; may be "".
        sources: who wrote the reports.
        reference: key of the human reference.
        votes: one per judged study, in the order of judging.
    """

    format: str
    deck: str = Field(pattern=r"^[0-9a-f]{16}$")
    title: str = Field(default="", max_length=1000)
    reader: str = Field(default="", max_length=100)
    sources: tuple[BallotSource, ...] = Field(min_length=2, max_length=20)
    reference: str
    votes: tuple[Vote, ...] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _fits(self) -> Ballot:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format!r} and not {FORMAT!r}")
        keys = [source.key for source in self.sources]
        if len(set(keys)) < len(keys):
            raise ValueError("two sources share a key")
        if self.reference not in keys:
            raise ValueError(f"the reference {self.reference!r} is no source")
        named = [key for vote in self.votes for key in (*vote.best, *vote.dangerous)]
        if unknown := sorted(set(named) - set(keys)):
            raise ValueError(f"a vote names {unknown[0]!r}, which is no source")
        if any(len(set(group)) < len(group) for v in self.votes for group in (v.best, v.dangerous)):
            raise ValueError("a vote names a source twice")
        studies = [vote.study for vote in self.votes]
        if len(set(studies)) < len(studies):
            raise ValueError("a study is judged twice")
        return self


def read_votes(sources: Iterable[str | Path | Mapping[str, Any]]) -> tuple[Ballot, ...]:
    """Ballots from files or from live widgets, checked, each with a reader.

    Args:
        sources: files that the duel exported, or what the trait ``told`` of a widget holds. A
            reader who gave no code is called by the file's name, or "reader 3".

    Raises:
        KitError: nothing given, no ballot, a ballot without votes, ballots of different decks, or
            two by one reader.
    """
    ballots: list[Ballot] = []
    where: dict[str, str] = {}
    for number, source in enumerate(sources, 1):
        ballot, name, fallback = _read(source, number)
        if not ballot.votes:
            raise KitError(f"{name} holds no vote yet: judge at least one study before it is read")
        # Names go to terminals and tables: no control characters, no line breaks, no table bars.
        reader = re.sub(r"[^\w .@#+-]", "_", ballot.reader).strip() or fallback
        if reader in where:
            raise KitError(
                f"{where[reader]} and {name} are both by reader {reader!r}: leave one of them out, "
                "or give each reader a code of its own"
            )
        where[reader] = name
        if ballots and _deck(ballot) != _deck(ballots[0]):
            raise KitError(
                f"{name} is about another deck than {next(iter(where.values()))}: count votes on "
                "the same studies and reports only"
            )
        titles = [
            source.model_copy(update={"title": re.sub(r"[\x00-\x1f\x7f-\x9f|]", " ", source.title)})
            for source in ballot.sources
        ]
        ballots.append(ballot.model_copy(update={"reader": reader, "sources": tuple(titles)}))
    if not ballots:
        raise KitError("there are no votes to read: give the files that readers exported")
    return tuple(ballots)


def _deck(ballot: Ballot) -> tuple[Any, ...]:
    return ballot.deck, ballot.reference, tuple(source.key for source in ballot.sources)


def _read(source: str | Path | Mapping[str, Any], number: int) -> tuple[Ballot, str, str]:
    """A ballot, what to call it in messages, and what to call a reader without a code."""
    if isinstance(source, Mapping):
        if not source:  # a widget before the first vote
            raise KitError(
                f"ballot {number} holds no vote yet: judge at least one study before it is read"
            )
        content, name, fallback = dict(source), f"ballot {number}", f"reader {number}"
    else:
        path = Path(source)
        name, fallback = path.name, path.stem
        if not path.is_file():
            raise KitError(f"{path} does not exist: give a file that the report duel exported")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise KitError(f"{name} is no JSON ({error}): export the votes again") from error
    try:
        return Ballot.model_validate(content), name, fallback
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise KitError(
            f"{name} is no ballot of the report duel ({place}: {first['msg']}): export the votes "
            "again"
        ) from error


def count_votes(ballot: Ballot) -> dict[str, float]:
    """Votes by source and "cannot tell"; they add up to the number of judged studies.

    A vote for words that several sources wrote is shared evenly among them.
    """
    counts = {source.key: 0.0 for source in ballot.sources} | {CANNOT_TELL: 0.0}
    for vote in ballot.votes:
        for key in vote.best or (CANNOT_TELL,):
            counts[key] += 1 / max(1, len(vote.best))
    return counts


def _share(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]"


def votes_table(ballots: Sequence[Ballot]) -> pd.DataFrame:
    """One line per source and one for "cannot tell": votes and shares.

    Of one reader with Wilson's 95 % interval over studies. Of several readers with the lowest and
    the highest share that a reader gave: their votes on one study are not independent, and an
    interval that counts each vote by itself would be too narrow.

    Args:
        ballots: of one deck (:func:`read_votes`).

    Raises:
        KitError: no ballots.
    """
    if not ballots:
        raise KitError("there are no votes to count: read at least one ballot")
    first = ballots[0]
    counts = [count_votes(ballot) for ballot in ballots]
    judged = [len(ballot.votes) for ballot in ballots]
    feared = Counter(key for b in ballots for vote in b.votes for key in vote.dangerous)
    titles = {source.key: source.title for source in first.sources} | {CANNOT_TELL: CANNOT_TELL}
    lines = []
    for key, title in titles.items():
        votes = sum(count[key] for count in counts)
        line = {
            "report of": title + (" (reference)" if key == first.reference else ""),
            "votes": f"{votes:g}" if votes == int(votes) else f"{votes:.2f}",
            "of": sum(judged),
            "share": f"{votes / sum(judged):.2f}",
        }
        if len(ballots) == 1:
            line["95 % interval"] = _share(*wilson(votes, judged[0]))
        else:
            each = [count[key] / number for count, number in zip(counts, judged)]
            line["lowest reader"] = f"{min(each):.2f}"
            line["highest reader"] = f"{max(each):.2f}"
        line["called dangerous"] = "-" if key == CANNOT_TELL else feared[key]
        lines.append(line)
    return pd.DataFrame(lines)


def _choices(ballots: Sequence[Ballot]) -> tuple[list[str], np.ndarray]:
    """Studies that all readers judged, and their choices ``[N, R]`` as text."""
    by_reader = [{vote.study: vote for vote in ballot.votes} for ballot in ballots]
    shared = [study for study in by_reader[0] if all(study in votes for votes in by_reader)]
    choices = [
        ["+".join(sorted(votes[study].best)) or CANNOT_TELL for votes in by_reader]
        for study in shared
    ]
    return shared, np.array(choices, dtype=object).reshape(len(shared), len(ballots))


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' kappa: agreement of several readers beyond chance (Fleiss 1971).

    Args:
        counts: ``[N, C]``, how many readers put study n into category c; the same number of
            readers, two or more, for every study.

    Returns:
        At most 1; 0 is chance; NaN where all votes are in one category.

    Raises:
        KitError: no study, fewer than two readers, or different numbers of them.
    """
    counts = np.asarray(counts, dtype=np.float64)
    readers = counts.sum(axis=1) if counts.ndim == 2 and len(counts) else np.zeros(1)
    if readers[0] < 2 or np.any(readers != readers[0]):
        raise KitError("Fleiss' kappa needs studies that the same two or more readers judged.")
    count = readers[0]
    within = ((counts**2).sum(axis=1) - count) / (count * (count - 1))
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return math.nan if chance >= 1 else float((within.mean() - chance) / (1 - chance))


def agreement(ballots: Sequence[Ballot]) -> dict[str, Any] | None:
    """How far readers agree on the best report, over the studies that all of them judged.

    Returns:
        "name" (Cohen's kappa of two, Fleiss' of more), "value" (NaN where it is not defined),
        "readers", "studies"; None for fewer than two readers or no shared study.
    """
    if len(ballots) < 2:
        return None
    shared, choices = _choices(ballots)
    if not shared:
        return None
    names = sorted(set(choices.ravel()))
    if len(ballots) == 2:
        name = "Cohen's kappa"
        value = math.nan
        if len(names) > 1:
            from sklearn.metrics import cohen_kappa_score

            value = float(cohen_kappa_score(*choices.T.astype(str)))
    else:
        name = "Fleiss' kappa"
        counts = np.stack([(choices == one).sum(axis=1) for one in names], axis=1)
        value = fleiss_kappa(counts)
    return {"name": name, "value": value, "readers": len(ballots), "studies": len(shared)}


def votes_sentence(ballots: Sequence[Ballot]) -> str:
    """How often the reference won, and how far readers agree, in one or two sentences."""
    first = ballots[0]
    judged = sum(len(ballot.votes) for ballot in ballots)
    won = sum(count_votes(ballot)[first.reference] for ballot in ballots)
    who = "1 reader" if len(ballots) == 1 else f"{len(ballots)} readers"
    cast = "1 vote" if judged == 1 else f"{judged} votes"
    told = f"{who}, {cast}: the human reference was called best in {won:g} of {judged}"
    if len(ballots) == 1:
        told += f" ({won / judged:.0%}, Wilson 95 % interval {_share(*wilson(won, judged))})"
    else:
        told += f" ({won / judged:.0%})"
    told += "."
    found = agreement(ballots)
    if found is not None and not math.isnan(found["value"]):
        told += (
            f" {found['name']} over the {found['studies']} studies that all judged: "
            f"{found['value']:.2f} (1 = all agree, 0 = as by chance)."
        )
    elif len(ballots) > 1:
        told += " Kappa is not defined: no study that all judged, or all votes for the same."
    return told
