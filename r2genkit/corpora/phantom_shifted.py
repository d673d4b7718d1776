"""Another hospital: test studies of the phantom with other bodies, films, noise and report style.

A private test set is never just "more of the same": people, machines and report writers differ
from those of the training set, all at once. Here each difference can be switched on by itself, so
that a fall of the scores can be traced to its cause:

===========  ===================================================================================
``none``     the same studies as the phantom corpus has them: the control
``habitus``  other bodies and poses (wider spread, thicker soft tissue, more turned and tilted)
``film``     another film response (plain window, little local contrast, more scatter, narrow
             collimation, no side marker)
``noise``    a grainier, less sharp detector
``style``    the same findings told in another style; pixels stay as they were
``all``      everything together
===========  ===================================================================================

Only studies of the **test** part of the phantom's grouped split are used, so no training of the kit
has seen their text or their images. A study keeps its random streams: between two causes its
patient differs in nothing but what the cause changes, which is what makes paired comparison
possible. How far each knob is turned was chosen by eye, before anything was scored; the sizes of
the gaps are therefore about these settings, and not about any real pair of hospitals.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

from r2genkit.corpora.phantom import read_phantom
from r2genkit.corpora.splits import make_split
from r2genkit.errors import KitError
from r2genkit.phantom.population import Population
from r2genkit.seeds import numpy_rng
from r2genkit.study import Finding, Study, View, by_id
from r2genkit.text.cleaning import clean_report

CAUSES: tuple[str, ...] = ("none", "habitus", "film", "noise", "style", "all")
"""What may differ from the phantom corpus."""

LEAST_WORDS = 4
"""Shorter reports are left out before the split, as recipes do (``data.min_words``)."""

# trait_spread stays 1: it is the yardstick of every finding's size, and "another hospital" must not
# change what counts as a large heart.
_HABITUS = {
    "body_size": 0.07,
    "body_width": 0.09,
    "fat_mm": 26.0,
    "female": 0.80,
    "lean": 0.036,
    "yaw": 0.09,
    "zoom": 0.12,
    "shift_mm": 16.0,
    "tilt": 0.03,
}
_FILM = {
    "film_gamma": 0.45,
    "film_match": (0.1, 0.4),
    "local_contrast": (0.35, 0.7),
    "scatter": 1.0,
    "marker": 0.0,
    "collimation": 1.0,
}
_NOISE = {"noise": (0.015, 0.025), "blur_px": (0.7, 1.1)}

_POPULATIONS: dict[str, Population] = {
    "none": Population(),
    "habitus": Population("other habitus", **_HABITUS),
    "film": Population("other film", **_FILM),
    "noise": Population("other noise", **_NOISE),
    "style": Population(),
    "all": Population("another hospital", **_HABITUS, **_FILM, **_NOISE),
}

# Our own words. {side}, {place} and {degree} are filled from the code, or left out.
_PHRASES: dict[str, str] = {
    "degen_spine": "{degree}degenerative changes in the thoracic spine",
    "cardiomegaly": "{degree}cardiomegaly",
    "calc_granuloma": "{side}calcified granuloma{place}",
    "opacity": "{degree}{side}opacity{place}",
    "atelectasis": "{degree}{side}atelectasis{place}",
    "hypoinflation": "low lung volumes",
    "hyperinflation": "hyperinflation of the lungs",
    "interstitial": "{degree}interstitial prominence",
    "tortuous_aorta": "tortuous aorta",
    "aortic_calc": "calcified aorta",
    "nodule": "{side}pulmonary nodule{place}",
    "effusion": "{degree}{side}pleural effusion",
    "consolidation": "{degree}{side}consolidation{place}",
    "scar": "{side}scarring{place}",
    "calc_node": "calcified lymph nodes",
    "catheter": "{side}central venous catheter",
    "elev_diaphragm": "elevated {side}hemidiaphragm",
    "clips": "surgical clips",
    "congestion": "{degree}pulmonary congestion",
    "scoliosis": "{degree}scoliosis",
    "pacemaker": "cardiac pacemaker",
    "rib_fracture": "{side}rib fracture",
    "wedge_fracture": "vertebral compression fracture",
    "pleural_thick": "{side}pleural thickening",
    "hiatal_hernia": "hiatal hernia",
    "hilar_prominence": "{side}hilar prominence",
    "kyphosis": "kyphosis",
    "tube": "endotracheal tube",
    "wide_mediastinum": "widened mediastinum",
    "pneumothorax": "{degree}{side}pneumothorax",
    "sternotomy": "median sternotomy wires",
    "spinal_fusion": "spinal fusion hardware",
    "leads": "EKG leads over the chest",
    "bulla": "{side}bulla{place}",
}
_ABSENT: tuple[tuple[str, str], ...] = (
    ("consolidation", "consolidation"),
    ("effusion", "pleural effusion"),
    ("pneumothorax", "pneumothorax"),
)


def population(cause: str) -> Population:
    """Bodies, film and noise of a cause.

    Raises:
        KitError: unknown cause.
    """
    if cause not in _POPULATIONS:
        raise KitError(f"unknown cause {cause!r}: choose one of {', '.join(CAUSES)}.")
    return _POPULATIONS[cause]


def phrase(finding: Finding) -> str:
    """A finding in the words of the other hospital.

    Raises:
        KitError: a finding type without a phrase.
    """
    if finding.name not in _PHRASES:
        raise KitError(f"the other hospital has no words for {finding.name!r}.")
    sides = set(finding.sides)
    side = "bilateral " if {"left", "right"} <= sides else "".join(f"{s} " for s in sorted(sides))
    where = {"hilum": " at the hilum", "retrocardiac": " in the retrocardiac region"}
    places = [where.get(place, f" in the {place}") for place in finding.locations[:1]]
    told = _PHRASES[finding.name].format(
        side=side,
        place="".join(places),
        degree=f"{finding.severity} " if finding.severity else "",
    )
    return " ".join(told.split())


def tell(study: Study) -> str:
    """The study's coded findings as a report in the other style.

    One sentence per finding ("Observed: ..."), then what is absent in one sentence, instead of a
    tour from the heart to the bones. A finding that is coded twice is told once. The codes are the
    source, not the sentences of the original: on the phantom they are what the image shows.
    """
    told = list(dict.fromkeys(phrase(finding) for finding in study.findings))
    names = {finding.name for finding in study.findings}
    absent = [words for name, words in _ABSENT if name not in names]
    sentences = [f"Observed: {one}." for one in told]
    if absent:
        listed = absent[0] if len(absent) == 1 else f"{', '.join(absent[:-1])} or {absent[-1]}"
        sentences.append(f"No evidence of {listed}.")
    if not told:
        sentences.append("Thoracic examination without pathological result.")
    return " ".join(sentences)


@lru_cache(maxsize=2)
def _test_studies(seed: int) -> tuple[Study, ...]:
    """Studies of the phantom's test part, in a seeded order."""
    studies = [
        study
        for study in read_phantom(seed)
        if len(clean_report(study.findings_text, "default").split()) >= LEAST_WORDS
    ]
    split = make_split("grouped", studies, seed=seed, section="findings")
    known = by_id(studies)
    order = numpy_rng(seed, "phantom_shifted").permutation(sorted(split.test))
    return tuple(known[study_id] for study_id in order.tolist())


def read_phantom_shifted(
    seed: int = 0, cause: str = "all", studies: int | None = 200
) -> list[Study]:
    """Test studies of the phantom as another hospital would show them.

    Args:
        seed: the phantom corpus' seed (patients and split follow from it).
        cause: what differs, see the module text.
        studies: how many; the first of a seeded order, so that a smaller set is part of a larger
            one, and every cause has the same studies; None = the whole test part.

    Returns:
        Studies with ``corpus="phantom_shifted"``; ids, codes and findings as in the phantom corpus.

    Raises:
        KitError: unknown cause, or more studies than the test part has.
    """
    machine = population(cause)
    source = _test_studies(seed)
    count = len(source) if studies is None else studies
    if not 1 <= count <= len(source):
        raise KitError(
            f"phantom_shifted has {len(source)} test studies to draw from: "
            f"{studies} cannot be taken."
        )
    shifted = []
    for study in source[:count]:
        changes: dict = {
            "corpus": "phantom_shifted",
            "views": tuple(_elsewhere(view, machine) for view in study.views),
        }
        if cause in ("style", "all"):
            # The original impression would give the original style back.
            changes |= {"findings_text": tell(study), "impression_text": ""}
        shifted.append(dataclasses.replace(study, **changes))
    return shifted


def _elsewhere(view: View, machine: Population) -> View:
    """The same view of the same patient with another population's bodies and films."""
    patient = dataclasses.replace(view.image.patient, population=machine)
    return dataclasses.replace(view, image=dataclasses.replace(view.image, patient=patient))
