"""A small deck for the report duel, scored by the kit's metrics: no run, no image of anybody."""

import numpy as np

from r2genkit.metrics import evaluate_reports
from r2genkit.metrics.findings import default_labeler
from r2genkit.metrics.nlg import bleu_counts
from r2genkit.viz.widgets.duel import (
    METRICS,
    DuelData,
    DuelReport,
    DuelSource,
    DuelStudy,
    FindingLine,
)
from r2genkit.viz.widgets.parts import mark_findings

CONSTANT = "the heart is normal in size . the lungs are clear . no pleural effusion ."
WRITTEN = {
    "model": {
        "s1": CONSTANT,  # as the constant: one card for both
        "s2": "there is a small right pleural effusion . the heart is normal in size .",
        "s3": "the heart is enlarged . possible left basilar atelectasis . no effusion .",
        "s4": "the lungs are clear . calcified granuloma in the right lung .",
        "s5": "low lung volumes . no pneumothorax .",
    },
    "constant": dict.fromkeys(("s1", "s2", "s3", "s4", "s5"), CONSTANT),
    "copied": {
        "s1": "heart size is normal . lungs are clear .",
        "s2": "the lungs are clear . no pleural effusion or pneumothorax .",
        "s3": "",
        "s4": "large hiatal hernia . the lungs are clear .",
        "s5": "low lung volumes with scoliosis . no pneumothorax .",
    },
    "reference": {
        "s1": "the heart is normal . the lungs are clear . no pleural effusion .",
        "s2": "small right pleural effusion . the heart is normal in size and contour .",
        "s3": "the heart is enlarged . the lungs are clear . no pleural effusion .",
        "s4": "calcified granuloma in the right lung . the lungs are otherwise clear .",
        "s5": "low lung volumes . scoliosis of the thoracic spine . no pneumothorax .",
    },
}
TITLES = {
    "model": "A model",
    "constant": "The constant",
    "copied": "A copied report",
    "reference": "human reference",
}
ORDER = ("copied", "model", "reference", "constant")


def film(seed, size=64):
    """Grey noise with a bright disc, uint8 ``[size, size]``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.clip(160 * np.exp(-2 * (x**2 + y**2)) + rng.normal(0, 9, x.shape), 0, 255).astype(
        np.uint8
    )


def made_deck(studies=("s1", "s2", "s3", "s4", "s5"), titles=TITLES, **options):
    """A deck of these studies; scores are those of the whole set of five."""
    labeler = default_labeler()
    wanted = WRITTEN["reference"]
    scored = {
        key: evaluate_reports(texts, wanted, meteor=False, bootstrap=0)
        for key, texts in WRITTEN.items()
    }

    def report(key, study):
        row = scored[key].studies.index(study)
        words = tuple(WRITTEN[key][study].split())
        return DuelReport(
            words,
            {name: float(scored[key].per_study[name].iloc[row]) for name in METRICS},
            tuple(int(n) for n in bleu_counts(WRITTEN[key][study], wanted[study])),
            tuple(int(n) for n in scored[key].findings.counts[row].sum(0)),
            mark_findings(words),
        )

    def lines(study):
        labels = {key: labeler.label(texts[study]) for key, texts in WRITTEN.items()}
        affirmed = [
            name
            for name in labeler.findings
            if any(label.get(name) == "positive" for label in labels.values())
        ]
        return tuple(
            FindingLine(
                labeler.titles[name],
                {key: label.get(name, "") for key, label in labels.items()},
                labels["reference"].get(name) == "positive",
            )
            for name in affirmed
        )

    return DuelData(
        **{
            "title": "Which report is the best one?",
            "sources": tuple(
                DuelSource(
                    key, titles[key], "", {name: scored[key].metrics[name] for name in METRICS}
                )
                for key in WRITTEN
            ),
            "reference": "reference",
            "studies": tuple(
                DuelStudy(
                    id=study,
                    views=(film(2 * number), film(2 * number + 1)),
                    view_names=("frontal", "lateral"),
                    reports={key: report(key, study) for key in WRITTEN},
                    order=ORDER[number % 4 :] + ORDER[: number % 4],
                    lines=lines(study),
                    shows=tuple(line.title for line in lines(study) if line.shown),
                    abnormal=study != "s1",
                )
                for number, study in enumerate(studies)
            ),
            "whole_studies": len(WRITTEN["reference"]),
            "synthetic": True,
        }
        | options
    )
