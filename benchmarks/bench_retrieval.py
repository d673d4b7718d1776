"""Exact search in the index of reports against sorting all scores.

    python -m benchmarks.bench_retrieval [--threads 1] [--repeats 3] [--json retrieval.json]

Both find the same rows (checked here). The plain way holds the scores of all queries with all rows
and sorts each line in full; the kit goes through the rows in portions, keeps the k best, and breaks
ties by row. Prints milliseconds per minibatch of queries and the memory needed above the index
itself (Linux only). CPU times with ``--threads 1``, else wall times.

The default sizes are the lab's training set, ten times an Open-i, and MIMIC-CXR's 400,000; the
length as used is two pooled views of 256 components, 34 finding types and "none of them".
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench_transformer import measure
from r2genkit.files import write_json
from r2genkit.retrieval import search_rows, unit_length

AS_USED = 2 * 256 + 34 + 1
SIZES = (2739, 40_000, 400_000)


def full_sort(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The textbook: every score, every line sorted."""
    scores, order = (queries @ rows.T).sort(dim=1, descending=True, stable=True)
    return scores[:, :k], order[:, :k]


def compare(count: int, length: int, queries: int, k: int, repeats: int) -> dict:
    """Figures of both ways for one index.

    Raises:
        AssertionError: they do not find the same rows.
    """
    generator = torch.Generator().manual_seed(0)
    rows = unit_length(torch.randn(count, length, generator=generator))
    asked = unit_length(torch.randn(queries, length, generator=generator))
    groups = {
        # As in training: every query has a row that it must not find.
        "query_groups": torch.arange(queries)[:, None],
        "row_groups": torch.arange(count)[:, None],
    }
    kit, plain = search_rows(asked, rows, k), full_sort(asked, rows, k)
    torch.testing.assert_close(kit[0], plain[0], rtol=1e-4, atol=1e-5)
    assert (kit[1] == plain[1]).float().mean() > 0.99  # rows a rounding apart may change places
    found: dict = {"rows": count, "length": length, "queries": queries, "k": k}
    for name, work in (
        ("kit", lambda: search_rows(asked, rows, k)),
        ("kit with exclusions", lambda: search_rows(asked, rows, k, **groups)),
        ("full sort", lambda: full_sort(asked, rows, k)),
    ):
        found[name] = measure(work, repeats)
    found["index_bytes"] = rows.numel() * rows.element_size()
    return found


def table(found: list[dict]) -> str:
    """Markdown: one line per index."""
    lines = [
        "| reports | numbers each | index, MiB | kit, ms | with exclusions, ms | full sort, ms | "
        "times faster | kit, MiB more | full sort, MiB more |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for entry in found:
        kit, kept, plain = (entry[n] for n in ("kit", "kit with exclusions", "full sort"))
        memory = [
            "-" if side["peak_bytes"] is None else f"{side['peak_bytes'] / 2**20:,.0f}"
            for side in (kit, plain)
        ]
        cells = [
            f"{entry['rows']:,}",
            str(entry["length"]),
            f"{entry['index_bytes'] / 2**20:,.0f}",
            *(f"{1e3 * side['seconds']:,.1f}" for side in (kit, kept, plain)),
            f"{plain['seconds'] / max(kit['seconds'], 1e-9):.1f}",
            *memory,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--lengths", type=int, nargs="+", default=[AS_USED, 512])
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = [
        compare(count, length, options.queries, options.k, options.repeats)
        for count in options.rows
        for length in options.lengths
    ]
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{options.threads} thread(s); minibatch of {options.queries} queries, k = {options.k}\n"
    )
    print(table(found))
    if options.json:
        content = {"threads": options.threads, "torch": torch.__version__, "found": found}
        write_json(options.json, json.loads(json.dumps(content)), indent=1)


if __name__ == "__main__":
    main()
