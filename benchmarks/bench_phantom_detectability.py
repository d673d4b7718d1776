"""Do phantom films show their findings, and nothing else?

    python benchmarks/bench_phantom_detectability.py --test 800 --splits 3

Linear probes (PCA, logistic regression) on frozen EfficientNet-Lite0 features (average and
maximum over positions, both views) of all phantom studies at natural prevalence, trained on all
but the test studies. Three columns per finding type, area under the ROC curve on held-out studies:

* ``probe``: features of the films, mean over random splits.
* ``null``: the same probe on the same test studies rendered without findings (first split).
  Anything but about .5 would mean that nuisance tells findings apart.
* ``hist``: 24-bin grey histograms of both films alone, mean over splits. High values mean a
  shortcut.

The standard error of one area with 30 to 90 positives is .03 to .06. Nothing here says anything
about real radiographs. Films and features come from the kit's cache and are made if absent.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from r2genkit.corpora.phantom import read_phantom
from r2genkit.encoders import build_encoder
from r2genkit.encoders.features import cache_features
from r2genkit.encoders.tags import finding_matrix
from r2genkit.images import pack_images
from r2genkit.phantom import RENDERED_TYPES
from r2genkit.seeds import numpy_rng


def describe(studies) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features ``[N, 5120]`` and grey histograms ``[N, 48]``."""
    images = pack_images(studies)
    features = cache_features(build_encoder("efficientnet_lite0"), images)
    pooled = []
    for start in range(0, len(features), 128):
        maps = features.gather(np.arange(start, min(start + 128, len(features))))  # [B, V, S, D]
        pooled.append(torch.cat([maps.mean(2).flatten(1), maps.amax(2).flatten(1)], 1).numpy())
    histograms = [
        np.concatenate([np.histogram(film, 24, (0, 256))[0] / film.size for film in films])
        for films in images.array
    ]
    return np.concatenate(pooled), np.array(histograms, np.float32)


def areas(
    train: np.ndarray, labels: np.ndarray, tests: dict[str, tuple], penalty: float
) -> dict[str, list[float]]:
    """Area under the curve per finding type for every named (inputs, labels) of ``tests``."""
    found = {name: [] for name in tests}
    for column in range(labels.shape[1]):
        model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=500)
        model.fit(train, labels[:, column])
        for name, (inputs, truth) in tests.items():
            found[name].append(roc_auc_score(truth[:, column], model.decision_function(inputs)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", type=int, default=800, help="held-out studies per split")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--limit", type=int, help="only this many studies, for a quick look")
    parser.add_argument("--top", type=int, default=12, help="types in the macro average")
    parser.add_argument("--least", type=int, default=40, help="studies a type needs for a row")
    parser.add_argument("--components", type=int, default=300, help="of the PCA")
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    options = parser.parse_args()

    start = time.perf_counter()
    studies = read_phantom()[: options.limit]
    features, histograms = describe(studies)
    labels = finding_matrix(studies, RENDERED_TYPES)
    kept = [c for c in np.argsort(-labels.sum(0)) if labels[:, c].sum() >= options.least]
    labels = labels[:, kept]
    rows = {"probe": [], "hist": []}
    for split in range(options.splits):
        order = numpy_rng(split, "bench/detectability").permutation(len(studies))
        test, train = order[: options.test], order[options.test :]
        reduce = make_pipeline(
            StandardScaler(),
            PCA(options.components, svd_solver="randomized", random_state=0),
            StandardScaler(),
        ).fit(features[train])
        tests = {"probe": (reduce.transform(features[test]), labels[test])}
        if split == 0:
            ids = {studies[i].id for i in test}
            healthy = [s for s in read_phantom(with_findings=False) if s.id in ids]
            place = {study.id: row for row, study in enumerate(studies)}
            truth = labels[[place[study.id] for study in healthy]]
            tests["null"] = (reduce.transform(describe(healthy)[0]), truth)
        found = areas(reduce.transform(features[train]), labels[train], tests, 0.0005)
        rows["probe"].append(found["probe"])
        if split == 0:
            null = found["null"]
        scale = StandardScaler().fit(histograms[train])
        grey = {"hist": (scale.transform(histograms[test]), labels[test])}
        rows["hist"].append(
            areas(scale.transform(histograms[train]), labels[train], grey, 0.05)["hist"]
        )
    table = pd.DataFrame(
        {
            "studies": labels.sum(0),
            "probe": np.mean(rows["probe"], 0),
            "null": null,
            "hist": np.mean(rows["hist"], 0),
        },
        index=[RENDERED_TYPES[c] for c in kept],
    )
    print(f"{len(studies)} studies, {options.splits} splits, {time.perf_counter() - start:.0f} s")
    print(table.round(3).to_string())
    macro = table[: options.top][["probe", "null", "hist"]].mean().round(4).to_dict()
    print(f"macro of the {options.top} most frequent: {json.dumps(macro)}")
    if options.output:
        content = {"rows": table.reset_index().to_dict("records"), "macro": macro}
        options.output.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
