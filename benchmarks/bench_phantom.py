"""Time per phantom study: both 224-pixel views on one core.

    OMP_NUM_THREADS=1 python benchmarks/bench_phantom.py --studies 50

Prints median and 90th percentile over studies of the processor time (best of three runs each, so
that neighbours on the machine count less), and where it goes.
"""

import argparse
import cProfile
import pstats
import time

import numpy as np

from r2genkit.corpora.phantom import read_phantom
from r2genkit.phantom import render_patient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3, help="the best run of each study counts")
    parser.add_argument("--profile", action="store_true", help="list the slowest functions")
    options = parser.parse_args()
    patients = [study.views[0].image.patient for study in read_phantom()[: options.studies + 1]]
    render_patient(patients[0], options.size)
    times = []
    for patient in patients[1:]:
        best = float("inf")
        for _ in range(options.repeats):
            start = time.process_time()
            render_patient(patient, options.size)
            best = min(best, 1e3 * (time.process_time() - start))
        times.append(best)
    print(
        f"{len(times)} studies, {options.size} px, two views: "
        f"median {np.median(times):.1f} ms, 90th percentile {np.quantile(times, 0.9):.1f} ms"
    )
    if options.profile:
        profile = cProfile.Profile(time.process_time)
        profile.enable()
        for patient in patients[1:]:
            render_patient(patient, options.size)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
