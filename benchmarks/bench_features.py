"""Milliseconds per study for packing phantom images and for patch features, by process count.

Run: python benchmarks/bench_features.py [--studies 192] [--encoder efficientnet_lite0]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import torch

from r2genkit.corpora import load_corpus
from r2genkit.encoders import build_encoder
from r2genkit.encoders.features import cache_features
from r2genkit.images import pack_images


def cpu_seconds() -> float:
    """User and system time of this process and of its finished children."""
    return sum(os.times()[:4])


def timed(function, *args, **options):
    """Result and (wall seconds, CPU seconds)."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = function(*args, **options)
    return result, (time.perf_counter() - wall, cpu_seconds() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=192)
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224])
    args = parser.parse_args()
    studies = load_corpus("phantom")[: args.studies]
    encoder = build_encoder(args.encoder, weights=args.weights)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, {len(studies)} studies x 2 views; wall time with process start"
    )
    print("| step | size | processes x threads | ms/study | CPU ms/study | 3,955 studies (s) |")
    print("| --- | --- | --- | --- | --- | --- |")

    def row(step: str, size: int, how: str, seconds: tuple[float, float]) -> None:
        wall, cpu = (value / len(studies) for value in seconds)
        print(
            f"| {step} | {size} | {how} | {wall * 1e3:.1f} | {cpu * 1e3:.1f} | {wall * 3955:.0f} |",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            for workers in (1, 2):
                torch.set_num_threads(1)
                place = Path(folder) / f"pack{workers}"
                images, seconds = timed(
                    pack_images,
                    studies,
                    size=size,
                    cache_dir=place,
                    workers=workers,
                    progress=False,
                )
                row("pack phantom", size, f"{workers} x 1", seconds)
            for workers, threads in ((1, 1), (1, 2), (2, 1)):
                torch.set_num_threads(threads)
                place = Path(folder) / f"features{workers}{threads}"
                features, seconds = timed(
                    cache_features,
                    encoder,
                    images,
                    cache_dir=place,
                    workers=workers,
                    progress=False,
                )
                row(f"features {encoder.name}", size, f"{workers} x {threads}", seconds)
            torch.set_num_threads(1)
            projected, seconds = timed(
                cache_features,
                encoder,
                images,
                pca=min(256, encoder.dim),
                pca_ids=images.study_ids,
                cache_dir=place,
                progress=False,
            )
            row("fit and project PCA", size, "1 x 1", seconds)
            print(f"\n{images.summary()}\n{features.summary()}\n{projected.summary()}")
            pooled = cache_features(
                encoder, images, images.study_ids[:48], grid=4, cache_dir=place, progress=False
            )
            print(f"with grid=4: {pooled.array.shape[2]} patch features per view\n")


if __name__ == "__main__":
    main()
