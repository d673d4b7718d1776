"""Speed of the metrics on one core: labeler, attributes, bootstrap, constant, whole evaluation.

    OMP_NUM_THREADS=1 python benchmarks/bench_metrics.py

Texts are the Open-i findings of the installed torchxrayvision wheel (train and test drawn with a
seed); with R2GENKIT_DATA set, the constant is searched on R2Gen's split as well. METEOR is timed
once with its start and once without.
"""

import json
import time

import numpy as np

from r2genkit.corpora.openi import read_openi
from r2genkit.metrics import close_meteor, evaluate_reports, score_nlg, truncated_references
from r2genkit.metrics.baselines import ConstantTemplate, RandomReport
from r2genkit.metrics.findings import AttributeFinder, FindingLabeler, finding_f1
from r2genkit.metrics.uncertainty import (
    additives_of_findings,
    additives_of_nlg,
    bootstrap,
    paired_difference,
    point_values,
    resample_weights,
)
from r2genkit.paths import data_dir
from r2genkit.text import Vocabulary, clean_report


def timed(label, function, unit=None):
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rate = f", {unit[0] / cpu:,.0f} {unit[1]}/s" if unit else ""
    print(f"{label}: {wall:.2f} s ({cpu:.2f} s of this core{rate})")
    return result


def main():
    texts = {s.id: s.findings_text for s in read_openi() if s.findings_text}
    order = np.random.default_rng(0).permutation(list(texts)).tolist()
    cleaned = timed(
        f"clean {len(texts)} reports",
        lambda: {study: clean_report(text) for study, text in texts.items()},
        (len(texts), "reports"),
    )
    test = {study: cleaned[study] for study in order[:600]}
    train = {study: cleaned[study] for study in order[600:]}

    labeler = FindingLabeler()
    reports = list(texts.values())
    for run in ("first pass", "again"):
        timed(
            f"label {len(reports)} raw reports, {run}",
            lambda: labeler.label_matrix(reports),
            (len(reports), "reports"),
        )

    finder = AttributeFinder(labeler=labeler)
    for run in ("first pass", "again"):
        timed(
            f"attributes of {len(reports)} raw reports, {run}",
            lambda: [finder.attributes(report) for report in reports],
            (len(reports), "reports"),
        )
    timed(
        f"keywords of {len(reports)} raw reports",
        lambda: [finder.keywords(report) for report in reports],
        (len(reports), "reports"),
    )

    systems = [RandomReport(seed).fit(train, {}).predict(test) for seed in (0, 1)]
    timed(
        "n-gram scores of 600 studies without METEOR",
        lambda: score_nlg(systems[0], test, meteor=False),
    )
    scores = [
        timed(f"with METEOR, {run}", lambda s=system: score_nlg(s, test))
        for run, system in zip(("process started", "process running"), systems)
    ]
    counts = [finding_f1(system, test).counts for system in systems]

    def intervals():
        additives = [
            [*additives_of_nlg(nlg), *additives_of_findings(found)]
            for nlg, found in zip(scores, counts)
        ]
        weights = resample_weights(len(test), resamples=1000, seed=0)
        values = [bootstrap(each, weights) for each in additives]
        return paired_difference(*values, *(point_values(each) for each in additives))

    timed("intervals and differences, 600 studies, 2 systems, 1,000 resamples", intervals)
    timed(
        "evaluate_reports with everything but METEOR",
        lambda: evaluate_reports(systems[0], test, train_texts=train.values(), meteor=False),
    )

    constant = ConstantTemplate(0)
    timed("search the constant, Open-i", lambda: constant.fit(train, {}))
    print(
        f"  BLEU-4 on train {constant.score:.4f}, on test "
        f"{score_nlg(constant.predict(test), test, meteor=False).corpus['BLEU-4']:.4f}"
    )
    folder = data_dir()
    if folder and (folder / "annotation.json").is_file():
        content = json.loads((folder / "annotation.json").read_text(encoding="utf-8"))
        raw = {part: {e["id"]: e["report"] for e in content[part]} for part in content}
        words = Vocabulary.build(raw["train"].values(), compat="r2gen")
        parts = {part: truncated_references(reports, words) for part, reports in raw.items()}
        constant = ConstantTemplate(0)
        timed(
            "search the constant, R2Gen's split",
            lambda: constant.fit(parts["train"], parts["val"]),
        )
        found = score_nlg(constant.predict(parts["test"]), parts["test"]).corpus
        print("  test " + " ".join(f"{name} {value:.4f}" for name, value in found.items()))
    close_meteor()


if __name__ == "__main__":
    main()
