"""A bench made by hand: two films, an effusion that moves or goes, reports that follow or not."""

import numpy as np

from r2genkit.viz.widgets.bench import BenchData, BenchFinding, BenchKind, BenchState
from r2genkit.viz.widgets.parts import normalised

SIZE, GRID = 112, 7


def words(text):
    return text.split()


BEFORE = words("there is a small right pleural effusion . the heart is enlarged .")
AFTER = words("there is a left pleural effusion . the heart is enlarged .")
GONE = words("no pleural effusion . the heart is enlarged .")


def film(seed):
    """A grey disc on black, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    pixels = 170 * np.exp(-2 * (x**2 + y**2)) + rng.normal(0, 8, x.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def box(view, top, bottom, left, right):
    """A mask bool ``[2, SIZE, SIZE]`` of one rectangle."""
    mask = np.zeros((2, SIZE, SIZE), dtype=bool)
    mask[view, top:bottom, left:right] = True
    return mask


RIGHT, LEFT, HEART = box(0, 80, 112, 0, 40), box(0, 80, 112, 72, 112), box(0, 40, 80, 40, 72)


def hot(t):
    """The patch (view, row, column) that word t looks at."""
    return t % 2, t % GRID, (2 * t) % GRID


def maps(words):
    """Every word looks at one patch, and faintly everywhere."""
    values = np.full((len(words), 2, GRID, GRID), 0.02)
    for t in range(len(words)):
        values[(t, *hot(t))] = 1.0
    return normalised(values) if words else values


def effusion(side, mask, severity="mild", key="0"):
    return BenchFinding(key, "effusion", "pleural effusion", side, "", severity, mask)


HEART_FINDING = BenchFinding("1", "cardiomegaly", "enlarged heart", "midline", "", None, HEART)


def state(title, words, *findings, seed=0, **options):
    content = {
        "title": title,
        "views": (film(seed), film(seed + 1)),
        "findings": (*findings, HEART_FINDING),
        "words": tuple(words),
        "attention": maps(words),
        "tags": {"effusion": (0.8, 0.99), "cardiomegaly": (0.7, 0.9)},
    }
    return BenchState(**content | options)


def made(**options):
    """As it is (right), on the left, gone."""
    sides = ("left", "right", "bilateral")
    kinds = (
        BenchKind("effusion", "pleural effusion", sides, dict.fromkeys(sides, ("",)),
                  ("mild", "moderate", "large"), "bilateral", "", "moderate", ""),
        BenchKind("nodule", "nodule or mass", ("left", "right"),
                  {"left": ("lingula", "apex"), "right": ("middle lobe", "apex")},
                  ("mild", "large"), "right", "apex", "mild", tag=False),
    )  # fmt: skip
    states = (
        state("as it is", BEFORE, effusion("right", RIGHT)),
        state("effusion on the left", AFTER, effusion("left", LEFT), seed=2,
              roads=(tuple(AFTER), tuple(BEFORE))),
        state("without effusion", GONE, seed=4, tags={"effusion": (0.1, 0.01)},
              roads=(tuple(GONE), tuple(BEFORE))),
    )  # fmt: skip
    content = {
        "title": "The phantom bench",
        "states": states,
        "view_names": ("frontal", "lateral"),
        "focus": "0",
        "system": "reader",
        "kinds": kinds,
        "called_at": 0.45,
        "notes": ("A note.",),
    }
    return BenchData(**content | options)
