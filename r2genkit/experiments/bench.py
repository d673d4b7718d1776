"""The phantom bench: one finding of one patient is changed, and a trained model reads both.

On real films nobody can ask what a model would have written had the effusion been on the other
side. The phantom can: a finding is moved, resized, removed or added, and everything else about the
patient comes from the same named random streams. What then changes in the report was caused by this
finding.

**What stays the same.** Body, pose, film, noise and all other findings keep their streams. A
changed finding keeps its own dice, too (:class:`Item`): a nodule that grows stays where it is, one
that changes sides appears at the mirrored place. Findings that only add an object (effusion,
nodule, pneumothorax, ...) leave exposure and tone curve exactly as they were
(``phantom.film.tone_curve``); on the film they change their surroundings alone, through scattered
radiation and local contrast. Findings that shift a trait of the anatomy (heart, inflation,
diaphragm, spine; atelectasis, which raises the dome, too) move their neighbours and the automatic
exposure, and with it, a little, the grey of the whole film: that is part of the finding, as on real
films. A place in the lung is sought outside of the heart, so a heart that grows may push a nodule
aside.

**Which road a change takes.** Most decoders of this kit read two things: patch features and tags.
:meth:`Bench.crossed` lets only one of them change, which says by which of the two the report
learned of it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from r2genkit.batches import Batch
from r2genkit.decoding import DecodingConfig, decode
from r2genkit.errors import KitError
from r2genkit.experiments.private_set import views_of
from r2genkit.experiments.runner import RunResult
from r2genkit.experiments.tagging import sharpen
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.images import resize
from r2genkit.metrics.findings import default_labeler
from r2genkit.phantom import PROJECTIONS, RENDERED_TYPES, Patient, PhantomView, Prepared
from r2genkit.phantom.anatomy import Habitus, build, draw_habitus
from r2genkit.phantom.findings import (
    _ADDERS,
    _TRAITS,
    OBJECT_TYPES,
    SHIFT,
    Effects,
    check_findings,
    severity_load,
    severity_shift,
    stream_names,
)
from r2genkit.phantom.masks import change_mask, organ_mask
from r2genkit.phantom.placement import PLACE_ORDER, RULES, PlacedFinding, _compatible
from r2genkit.phantom.projection import Scene, own_integral
from r2genkit.seeds import numpy_rng
from r2genkit.study import Hypothesis, Study
from r2genkit.viz.widgets.bench import (
    BenchData,
    BenchFinding,
    BenchKind,
    BenchState,
    pair_payload,
    state_payload,
    statement,
)
from r2genkit.viz.widgets.scrubber import normalised

MOVABLE = ("effusion", "opacity", "nodule", "calc_granuloma")
"""Frequent finding types that have a side, the easiest to see first."""

_KEPT = 24  # readings remembered per bench
OTHER_SIDE = {"left": "right", "right": "left"}
_OTHER_PLACE = {"middle lobe": "lingula", "lingula": "middle lobe"}

ONE_SIZE = frozenset(
    {
        "calc_granuloma",
        "calc_node",
        "scar",
        "clips",
        "catheter",
        "tube",
        "pacemaker",
        "sternotomy",
        "spinal_fusion",
        "leads",
        "rib_fracture",
    }
)
"""Types that are drawn alike whatever their severity."""

_SEVERITIES = tuple(SHIFT)


def uncoded(kind: str) -> str:
    """The severity that a finding without any is drawn as; "" for effusions, which are smaller."""
    return "" if kind == "effusion" else "moderate"


# --- what may be chosen -------------------------------------------------------------------------


@dataclass(frozen=True)
class Choices:
    """What a finding type can be on the bench; every choice changes the film.

    Attributes:
        sides: at least one.
        places: by side; ``("",)`` where the type needs no place.
        severities: from least to most; ``(None,)`` for types of one size.
    """

    sides: tuple[str, ...]
    places: Mapping[str, tuple[str, ...]]
    severities: tuple[str | None, ...]


@cache
def choices(kind: str) -> Choices:
    """Sides, places and severities that the phantom's placement rules allow for a type.

    Raises:
        KitError: the phantom does not draw this type.
    """
    if kind not in RENDERED_TYPES:
        raise KitError(
            f"the phantom cannot draw {kind!r}: choose from {', '.join(RENDERED_TYPES)}."
        )
    rule = RULES[kind]
    places = set(rule.places)
    if "" not in places:  # a type with no place of its own ignores what codes say
        # Thickened pleura is drawn at the apex or at the base, and other names mean one of these.
        places |= set(rule.accepts) if kind != "pleural_thick" else set()
    ordered = [place for place in ("", *PLACE_ORDER) if place in places]
    sides = tuple(sorted(rule.sides, key=("left", "right", "bilateral", "midline").index))
    return Choices(
        sides,
        {side: tuple(place for place in ordered if _compatible(side, place)) for side in sides},
        (None,) if kind in ONE_SIZE else _SEVERITIES,
    )


def _words(side: str, place: str, severity: str | None) -> str:
    return " ".join(word for word in (severity, "" if side == "midline" else side, place) if word)


def _checked(finding: PlacedFinding, old: PlacedFinding | None) -> PlacedFinding:
    """A finding that may stand on the bench: allowed by the rules, or as the corpus has it."""
    allowed = choices(finding.name)
    known_side = finding.side in allowed.sides or (old is not None and finding.side == old.side)
    places = allowed.places.get(finding.side, ())
    # A blunted angle is a place that effusions have from their code alone, on either side.
    as_coded = old is not None and finding.place == old.place
    as_coded = as_coded and _compatible(finding.side, finding.place)
    severities = {*allowed.severities, None if old is None else old.severity}
    for ok, what, value, known in (
        (known_side, "side", finding.side, allowed.sides),
        (finding.place in places or as_coded, "place", finding.place, places),
        (finding.severity in severities, "severity", finding.severity, severities),
    ):
        if not ok:
            named = ", ".join(repr(one) for one in sorted(known, key=str))
            raise KitError(
                f"{finding.name} on the side {finding.side!r} cannot have the {what} {value!r} on "
                f"the bench: choose from {named}."
            )
    return finding


# --- the patient --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A finding on the bench.

    Attributes:
        key: names it while it is moved and resized; "0", "1", ... of the study, "+1", "+2", ... of
            what was added.
        finding: as it is now.
        dice: name of the random stream that its draws come from, whatever becomes of it.
    """

    key: str
    finding: PlacedFinding
    dice: str


@dataclass(frozen=True)
class BenchPatient:
    """A patient with findings that can be changed one by one; every change gives a new one.

    Attributes:
        patient: as the corpus has it; names the streams of body, pose and film.
        items: what is drawn now.
    """

    patient: Patient
    items: tuple[Item, ...]

    def item(self, key: str) -> Item:
        """The finding of that key.

        Raises:
            KitError: there is none.
        """
        for item in self.items:
            if item.key == key:
                return item
        raise KitError(
            f"study {self.patient.study_id} has no finding {key!r} on the bench: "
            f"there are {', '.join(repr(item.key) for item in self.items) or 'none'}."
        )

    def _original(self, key: str) -> PlacedFinding | None:
        return self.patient.findings[int(key)] if key.isdigit() else None

    def change(self, key: str, **changes: str | None) -> BenchPatient:
        """The same patient with another ``side``, ``place`` or ``severity`` of one finding.

        Raises:
            KitError: no such finding, or a combination that the rules do not allow.
        """
        item = self.item(key)
        finding = _checked(replace(item.finding, **changes), self._original(key))
        return self._with(
            tuple(replace(one, finding=finding) if one.key == key else one for one in self.items)
        )

    def mirrored(self, key: str) -> BenchPatient:
        """The same patient with one finding on the other side (middle lobe and lingula swap).

        Raises:
            KitError: the finding is not on one side.
        """
        finding = self.item(key).finding
        if OTHER_SIDE.get(finding.side) not in choices(finding.name).sides:
            raise KitError(
                f"{finding.name} of study {self.patient.study_id} has no other side: it is "
                f"{finding.side}."
            )
        place = _OTHER_PLACE.get(finding.place, finding.place)
        return self.change(key, side=OTHER_SIDE[finding.side], place=place)

    def without(self, key: str) -> BenchPatient:
        """The same patient without one finding.

        Raises:
            KitError: no such finding.
        """
        gone = self.item(key)
        return self._with(tuple(item for item in self.items if item is not gone))

    def with_added(
        self,
        kind: str,
        side: str | None = None,
        place: str | None = None,
        severity: str | None = None,
        *,
        key: str | None = None,
    ) -> BenchPatient:
        """The same patient with one finding more.

        Args:
            kind: finding type.
            side, place: default: the most frequent ones of its rule.
            severity: default: "moderate", where the type has sizes.
            key: default: the next free one, "+1", "+2", ...

        Raises:
            KitError: a type or a combination that the rules do not allow, or a key that is taken.
        """
        allowed, rule = choices(kind), RULES[kind]
        if side is None:
            side = max(allowed.sides, key=rule.sides.__getitem__)
        if place is None:
            places = allowed.places.get(side, ("",))
            place = max(places, key=lambda one: rule.places.get(one, 0.0))
        if severity is None and allowed.severities != (None,):
            severity = "moderate"
        taken = {item.key for item in self.items}
        if key is None:
            key = next(f"+{n}" for n in range(1, len(taken) + 2) if f"+{n}" not in taken)
        if key in taken or not (key[:1] == "+" and key[1:].isdigit()):
            raise KitError(f"an added finding cannot be called {key!r}: take the next of '+1', ...")
        raw = f"{kind}/added"
        finding = _checked(
            PlacedFinding(kind, side, place, severity, False, raw, "code", "code"), None
        )
        dice = f"phantom/{self.patient.study_id}/bench/{kind}/{key}"
        return self._with((*self.items, Item(key, finding, dice)))

    def _with(self, items: tuple[Item, ...]) -> BenchPatient:
        places = [(one.finding.name, one.finding.side, one.finding.place) for one in items]
        for name, side, place in places:
            # As in the corpus, where two codes of one type at one place are one finding.
            if places.count((name, side, place)) > 1:
                where = _words(side, place, None)
                raise KitError(
                    f"study {self.patient.study_id} would have two findings {name!r} {where}: "
                    "choose another side or place."
                )
        return replace(self, items=items)

    # -- drawing --------------------------------------------------------------------------------

    def prepared(self, *left_out: str) -> Prepared:
        """The patient ready for projection, without the findings of these keys.

        As ``r2genkit.phantom.prepare``, except that every finding brings its own dice.

        Raises:
            KitError: a finding cannot be drawn.
        """
        items = [item for item in self.items if item.key not in left_out]
        p = replace(self.patient, findings=tuple(item.finding for item in items))
        check_findings(p.study_id, p.findings)
        habitus = draw_habitus(numpy_rng(p.seed, f"phantom/{p.study_id}"), p.population)
        scene, parts = _scene(p.seed, habitus, items)
        return Prepared(p, scene, parts)

    def films(self, size: int) -> list[np.ndarray]:
        """Frontal and lateral film ``[size, size]`` uint8."""
        prepared = self.prepared()
        return [prepared.film(projection, size) for projection in PROJECTIONS]

    def masks(self, size: int) -> dict[str, np.ndarray]:
        """Where each finding is: bool ``[2, size, size]`` (frontal, lateral) by key.

        As ``r2genkit.phantom.finding_masks``; all False where a finding cannot be seen.
        """
        full, found = self.prepared(), {}
        for index, item in enumerate(self.items):
            others = None
            views = []
            for projection in PROJECTIONS:
                frame = full.frame(projection, size)
                if item.finding.name in OBJECT_TYPES:
                    views.append(change_mask(own_integral(full.parts[index], frame)))
                    continue
                if others is None:
                    others = self.prepared(item.key).scene.anatomy
                views.append(organ_mask(item.finding, full.scene.anatomy, others, frame))
            found[item.key] = np.stack(views)
        return found


def _scene(seed: int, habitus: Habitus, items: Sequence[Item]) -> tuple[Scene, list[Scene]]:
    """``r2genkit.phantom.findings.make_scene`` with streams named by the items.

    There the name of a stream holds side, place and severity, so that a finding which is moved
    would be thrown anew, with another shape at another spot. A test holds the two against each
    other for findings that nobody has touched.
    """
    effects = Effects(habitus.traits)
    for item in items:
        if item.finding.name in _TRAITS:
            rng = numpy_rng(seed, f"{item.dice}/trait")
            jitter = 0.3 * float(np.clip(rng.standard_normal(), -2, 2))
            amount = max(severity_shift(item.finding.severity) + jitter, 0.5)
            _TRAITS[item.finding.name](item.finding, amount, rng, effects)
    anatomy = build(habitus, dict(effects.shifts), effects.wedge, effects.rib_steps)
    parts = []
    for item in items:
        part = Scene(anatomy)
        if item.finding.name in _ADDERS:
            rng = numpy_rng(seed, f"{item.dice}/object")
            load = severity_load(item.finding.severity)
            _ADDERS[item.finding.name](item.finding, load, rng, part)
        parts.append(part)
    whole = Scene(
        anatomy,
        points=[points for part in parts for points in part.points],
        solids=[solid for part in parts for solid in part.solids],
        shells=[shell for part in parts for shell in part.shells],
    )
    return whole, parts


def bench_patient(study: Study) -> BenchPatient:
    """A study of the phantom corpus, ready to be changed.

    Raises:
        KitError: the study is not of the phantom.
    """
    images = [view.image for view in study.views]
    if not images or not all(isinstance(image, PhantomView) for image in images):
        raise KitError(
            f"study {study.id} is not of the phantom: only a rendered patient can be changed."
        )
    patient = images[0].patient
    streams = stream_names(patient.study_id, patient.findings)
    return BenchPatient(
        patient,
        tuple(
            Item(str(index), finding, stream)
            for index, (finding, stream) in enumerate(zip(patient.findings, streams))
        ),
    )


# --- reading ------------------------------------------------------------------------------------


@dataclass
class Reading:
    """What a system makes of a patient.

    Attributes:
        patient: whom.
        films: frontal and lateral, as the model sees them, uint8 ``[S, S]``.
        masks: bool ``[2, S, S]`` by key of the finding.
        batch: what the model reads: patch features and tags.
        hypothesis: the report with its trace.
        tags: finding probability by type, of the classifier and as told; empty without tags.
        seconds: by part: "render", "masks", "encode" (patch features and tags), "decode".
    """

    patient: BenchPatient
    films: list[np.ndarray]
    masks: dict[str, np.ndarray]
    batch: Batch
    hypothesis: Hypothesis
    tags: dict[str, tuple[float, float]]
    seconds: dict[str, float]

    @property
    def words(self) -> tuple[str, ...]:
        """Of the report."""
        return tuple(self.hypothesis.text.split())

    def attention(self) -> np.ndarray:
        """Maps ``[T, 2, h, w]`` in [0, 1]; 1 is the strongest patch of a word.

        Raises:
            KitError: patches that are no square.
        """
        seen = np.asarray(self.hypothesis.trace["attention"], dtype=np.float32)
        grid = math.isqrt(seen.shape[2])
        if grid * grid != seen.shape[2]:
            raise KitError(f"{seen.shape[2]} patches are no square: the bench cannot place them.")
        seen = seen.reshape(*seen.shape[:2], grid, grid)
        return normalised(seen) if len(seen) else seen  # an empty report has no map


@torch.no_grad()
def tags_of(system: TrainedSystem, batch: Batch) -> dict[str, tuple[float, float]]:
    """Finding probability by type of the one study of a minibatch: the classifier's, and as told.

    Empty where the model reads no tags.
    """
    if system.tags is None or batch.features is None:
        return {}
    config = system.recipe.tags
    found = system.tags.model.logits(batch).sigmoid().numpy()
    told = sharpen(found, config.sharpness, config.called_at)
    return {
        name: (float(one), float(other))
        for name, one, other in zip(system.tags.types, found[0], told[0])
    }


class Bench:
    """A study of the phantom before a trained model, one finding of which may be changed.

    Args:
        system: a trained system that attends to patches.
        study: of the phantom corpus.
        name: heading of its reports.
        method: "greedy", "beam" or "sample"; default: as the recipe decodes.

    Raises:
        KitError: a study that is not of the phantom, a model without attention, or an unknown
            method.
    """

    def __init__(
        self,
        system: TrainedSystem,
        study: Study,
        *,
        name: str | None = None,
        method: str | None = None,
    ) -> None:
        self.system, self.study = system, study
        self.name = name or system.recipe.title
        self.original = bench_patient(study)
        projections = [view.projection for view in views_of(study)]
        if projections != list(PROJECTIONS):
            raise KitError(
                f"study {study.id} shows {', '.join(projections)}; the bench needs a frontal and a "
                "lateral view."
            )
        config = system.recipe.decoding
        if method is not None:
            if method not in ("greedy", "beam", "sample"):
                raise KitError(f"unknown decoding method {method!r}: choose greedy, beam or sample")
            content = {**config.model_dump(), "method": method, "samples": 1}
            config = DecodingConfig.model_validate(content)
        self.config = config
        self._readings: OrderedDict[tuple[Item, ...], Reading] = OrderedDict()
        if "attention" not in self.read(self.original).hypothesis.trace:
            raise KitError(
                f"{system.recipe.title} does not attend to patches, so its words have no maps: "
                "take another run, such as one of 03_show_attend_tell or 07_cmn"
            )

    @property
    def called_at(self) -> float:
        """Tag probability from which the classifier says yes."""
        config = self.system.recipe.tags
        return 0.5 if config is None else config.called_at

    def read(self, patient: BenchPatient) -> Reading:
        """Draw a patient and let the model read the films; remembered.

        Raises:
            KitError: another patient than the study's, or a finding that cannot be drawn.
        """
        if patient.patient != self.original.patient:
            raise KitError(f"this bench holds study {self.study.id}, no other patient.")
        known = self._readings.get(patient.items)
        if known is not None:
            self._readings.move_to_end(patient.items)
            return known
        encoder = self.system.recipe.encoder
        size, packed = encoder.image_size, encoder.packed_size or encoder.image_size
        clock = [time.perf_counter()]
        # In two steps where training images were made in two.
        films = [resize(film, (size, size)) for film in patient.films(packed)]
        clock.append(time.perf_counter())
        masks = patient.masks(size)
        clock.append(time.perf_counter())
        batch = self.system.batch(films)
        tags = tags_of(self.system, batch)
        clock.append(time.perf_counter())
        hypothesis = self._write(batch, trace=True)
        clock.append(time.perf_counter())
        seconds = dict(zip(("render", "masks", "encode", "decode"), np.diff(clock).tolist()))
        reading = Reading(patient, films, masks, batch, hypothesis, tags, seconds)
        self._readings[patient.items] = reading
        if len(self._readings) > _KEPT:
            # The patient as the corpus has it is what everything is compared with.
            oldest = next(items for items in self._readings if items != self.original.items)
            del self._readings[oldest]
        return reading

    def _write(self, batch: Batch, *, trace: bool = False) -> Hypothesis:
        system = self.system
        ((hypothesis, *_),) = decode(
            system.model, batch, self.config, vocabulary=system.vocabulary, seed=0, trace=trace
        )
        return hypothesis

    def crossed(self, before: Reading, after: Reading) -> tuple[str, str] | None:
        """The report if only the tags had changed, and if only the patches had.

        Reports that were retrieved (``Batch.neighbours``) go with the patches.

        Returns:
            Both texts; None where the model reads no tags.
        """
        if before.batch.tags is None or before.batch.features is None:
            return None
        tags_only = dataclasses.replace(before.batch, tags=after.batch.tags)
        patches_only = dataclasses.replace(after.batch, tags=before.batch.tags)
        return self._write(tags_only).text, self._write(patches_only).text

    # -- for the widget -------------------------------------------------------------------------

    def state(self, patient: BenchPatient, title: str) -> BenchState:
        """A patient as one state of the widget.

        Raises:
            KitError: as :meth:`read`.
        """
        before, reading = self.read(self.original), self.read(patient)
        titles = default_labeler().titles
        roads = None
        if patient.items != self.original.items:
            crossed = self.crossed(before, reading)
            roads = None if crossed is None else tuple(tuple(one.split()) for one in crossed)
        sentences = reading.hypothesis.trace.get("sentence")
        return BenchState(
            title=title,
            views=tuple(reading.films),
            findings=tuple(
                BenchFinding(
                    item.key,
                    item.finding.name,
                    titles[item.finding.name],
                    item.finding.side,
                    item.finding.place,
                    item.finding.severity,
                    reading.masks[item.key],
                )
                for item in patient.items
            ),
            words=reading.words,
            attention=reading.attention(),
            tags=reading.tags,
            sentences=None if sentences is None else tuple(int(n) for n in np.asarray(sentences)),
            roads=roads,
        )

    def main_finding(self) -> str:
        """Key of the finding that is most worth changing; "" for a patient without any.

        Better: the only one of its type (with two, removing one leaves the other); stated by the
        report; with another side to go to. In this order; of equals the first.
        """
        before, items = self.read(self.original), self.original.items
        names = [item.finding.name for item in items]

        def worth(item: Item) -> tuple[bool, bool, bool]:
            stated = statement(before.words, item.finding.name).polarity == "positive"
            alone = names.count(item.finding.name) == 1
            return (alone, stated, self._can_be_mirrored(item.key))

        return max(items, key=worth).key if items else ""

    def _can_be_mirrored(self, key: str) -> bool:
        try:
            self.original.mirrored(key)
        except KitError:  # it has no other side, or something of its type is there already
            return False
        return True

    def variants(self, key: str) -> dict[str, BenchPatient]:
        """The patients that are computed beforehand, by title, the one of the corpus first.

        Removed; on the other side; of every other severity; and, where no severity can be chosen,
        at the first other place.

        Raises:
            KitError: no such finding.
        """
        finding = self.original.item(key).finding
        title = default_labeler().titles[finding.name]
        allowed = choices(finding.name)
        found = {"as it is": self.original, f"without {title}": self.original.without(key)}
        if self._can_be_mirrored(key):
            moved = self.original.mirrored(key)
            found[f"{title} on the {moved.item(key).finding.side}"] = moved
        for severity in allowed.severities:
            coded = finding.severity or uncoded(finding.name)
            if severity not in (None, coded):
                found[f"{severity} {title}"] = self.original.change(key, severity=severity)
        if allowed.severities == (None,):
            taken = {
                (item.finding.side, item.finding.place)
                for item in self.original.items
                if item.finding.name == finding.name
            }
            for place in allowed.places.get(finding.side, ()):
                if (finding.side, place) not in taken:
                    found[f"{title}: {place}"] = self.original.change(key, place=place)
                    break
        return found

    def kinds(self) -> tuple[BenchKind, ...]:
        """Every type that can stand on this bench."""
        titles = default_labeler().titles
        told = self.read(self.original).tags
        found = []
        for kind in RENDERED_TYPES:
            allowed = choices(kind)
            new = BenchPatient(self.original.patient, ()).with_added(kind).items[0].finding
            found.append(
                BenchKind(
                    kind,
                    titles[kind],
                    allowed.sides,
                    allowed.places,
                    allowed.severities,
                    new.side,
                    new.place,
                    new.severity,
                    uncoded(kind),
                    kind in told,
                )
            )
        return tuple(found)

    def data(
        self,
        key: str | None = None,
        *,
        systems: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> BenchData:
        """Everything the widget shows, with variants of one finding computed beforehand.

        Args:
            key: which finding; default: :meth:`main_finding`. Of a patient without findings, a
                right pleural effusion is added in one further state.
            systems: names of all systems that :func:`answers` can let read the patient.
            notes: sentences below the title.

        Raises:
            KitError: no such finding.
        """
        key = self.main_finding() if key is None else key
        if key:
            patients = self.variants(key)
        else:
            new = self.original.with_added("effusion", "right")
            key = new.items[-1].key
            patients = {"as it is": self.original, "with pleural effusion on the right": new}
        return BenchData(
            title=f"The phantom bench: study {self.study.id}",
            states=tuple(self.state(patient, title) for title, patient in patients.items()),
            view_names=tuple(PROJECTIONS),
            focus=key,
            system=self.name,
            systems=tuple(systems),
            kinds=self.kinds(),
            called_at=self.called_at,
            synthetic=True,
            notes=tuple(notes),
        )

    def asked(self, findings: Sequence[Mapping[str, Any]]) -> BenchPatient:
        """The patient that a question of the front end describes.

        Args:
            findings: each with "key", "kind", "side", "place" and "severity", in any order.

        Raises:
            KitError: a question of another form, a type that is not the finding's, or what the
                rules do not allow.
        """
        patient = BenchPatient(self.original.patient, ())
        for one in findings:
            wanted = {"key", "kind", "side", "place", "severity"}
            if not isinstance(one, Mapping) or set(one) != wanted:
                raise KitError(
                    f"a finding of a question needs {', '.join(sorted(wanted))}: got {one!r}."
                )
            key = str(one["key"])
            changes = {name: one[name] for name in ("side", "place", "severity")}
            if key.startswith("+"):
                patient = patient.with_added(one["kind"], *changes.values(), key=key)
                continue
            item = self.original.item(key)
            if item.finding.name != one["kind"]:
                raise KitError(
                    f"finding {key!r} of study {self.study.id} is {item.finding.name!r} and cannot "
                    f"become {one['kind']!r}: remove it and add the other."
                )
            patient = patient._with((*patient.items, item)).change(key, **changes)
        order = [item.key for item in self.original.items]

        def place(item: Item) -> int:
            return order.index(item.key) if item.key in order else len(order)

        return replace(patient, items=tuple(sorted(patient.items, key=place)))

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What the widget asks: ``{"findings": [...], "title": ...}`` -> state, pair, seconds.

        Raises:
            KitError: as :meth:`asked`.
        """
        start = time.perf_counter()
        if not isinstance(question.get("findings"), Sequence):
            raise KitError("a question to the bench needs a list of findings.")
        patient = self.asked(question["findings"])
        before = self.state(self.original, "as it is")
        after = self.state(patient, str(question.get("title") or "changed"))
        answer = {
            "state": state_payload(after, PROJECTIONS),
            "pair": pair_payload(before, after),
        }
        parts = self.read(patient).seconds
        whole = time.perf_counter() - start
        return answer | {"seconds": {**parts, "whole": whole}}


def answers(benches: Sequence[Bench]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What a widget with several systems asks: as :meth:`Bench.answer`, of the system it names.

    Of any but the first system the answer also holds "first", the unchanged patient as this system
    reads it, and "called_at", the tag probability from which its classifier says yes.

    Args:
        benches: the same study before several systems; the first one made the widget's data.

    Raises:
        KitError: no bench, different studies, or two systems of one name.
    """
    named = {bench.name: bench for bench in benches}
    if not benches or len(named) < len(benches):
        raise KitError("the bench needs at least one system, and systems of different names.")
    if len({bench.original for bench in benches}) > 1:
        raise KitError("systems can be compared on one patient only: give benches of one study.")

    def answer(question: Mapping[str, Any]) -> dict[str, Any]:
        name = question.get("system") or benches[0].name
        if name not in named:
            raise KitError(f"no system on this bench is called {name!r}: {', '.join(named)} are.")
        bench = named[name]
        found = bench.answer(question)
        if bench is benches[0]:
            return found
        first = bench.state(bench.original, "as it is")
        return found | {
            "first": state_payload(first, PROJECTIONS),
            "called_at": bench.called_at,
        }

    return answer


def pick_study(result: RunResult, kinds: Sequence[str] = MOVABLE) -> Study:
    """A test study whose report states a finding that can be put on the other side.

    Args:
        result: a finished run on the phantom.
        kinds: finding types, the preferred ones first.

    Returns:
        Of those studies the one with the fewest other findings (of equals the first); where no
        report states such a finding, the first study that has one, else the first of all.

    Raises:
        KitError: the corpus is not the phantom.
    """
    text = result.text()
    studies = sorted((text.studies[one] for one in text.split.test), key=lambda s: len(s.findings))
    unstated = None
    for kind in kinds:
        for study in studies:
            items = bench_patient(study).items
            own = [item.finding for item in items if item.finding.name == kind]
            if len(own) != 1 or own[0].side not in OTHER_SIDE:
                continue
            if statement(result.hypotheses[study.id].split(), kind).polarity == "positive":
                return study
            unstated = unstated or study
    if unstated is not None:
        return unstated
    first = text.studies[text.split.test[0]]
    bench_patient(first)
    return first
