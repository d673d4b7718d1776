"""CIDEr-D as a training reward: the package against pycocoevalcap, same texts, same frequencies.

    OMP_NUM_THREADS=1 python benchmarks/bench_cider_d.py --json benchmarks/measured/cider_d.json

A minibatch of 64 reports is scored against 64 references, with document frequencies counted once on
2,500 training references (Open-i findings of the installed torchxrayvision wheel). Both sides start
from what a training step has: pycocoevalcap from strings and a dictionary of frequencies, the
package from token ids and its table. Counting the frequencies is left out on both sides.

* "references prepared": training references are known before training, so that the package has
  their ids and norms ready; pycocoevalcap has no way to keep them.
* "references new": the package packs and weighs them anew each time, as pycocoevalcap does.
* "whole corpus": pycocoevalcap as it is shipped can only take frequencies from what it scores, so
  that one minibatch means scoring all references.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

from r2genkit.corpora.openi import read_openi
from r2genkit.files import write_json
from r2genkit.metrics.cider_d import CiderD, sentence_bleu
from r2genkit.text import Vocabulary, clean_report

REPORTS, DOCUMENTS, LONGEST = 64, 2500, 60


class _Given(list):
    """References of a minibatch that pass for a corpus of another size (its log is the idf's)."""

    def __init__(self, references, size):
        super().__init__(references)
        self.size = size

    def __len__(self):
        return self.size


def coco_with_frequencies(hypotheses, references, frequencies, documents):
    """Scores ``[N]`` of pycocoevalcap with document frequencies from elsewhere."""
    scorer = CiderScorer()
    for hypothesis, reference in zip(hypotheses, references):
        scorer += (hypothesis, [reference])
    scorer.document_frequency = frequencies
    scorer.crefs = _Given(scorer.crefs, documents)
    return np.asarray(scorer.compute_cider())


def coco_whole(hypotheses, references, others):
    """The same from pycocoevalcap as shipped: further references are scored against themselves."""
    scorer = CiderScorer()
    for hypothesis, reference in zip([*hypotheses, *others], [*references, *others]):
        scorer += (hypothesis, [reference])
    return scorer.compute_score()[1][: len(hypotheses)]


def seconds(function, repeats):
    """Median CPU seconds of a call, after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


def measure(repeats):
    texts = [clean_report(s.findings_text) for s in read_openi() if s.findings_text]
    rng = np.random.default_rng(0)
    texts = [texts[i] for i in rng.permutation(len(texts))]
    documents, rest = texts[:DOCUMENTS], texts[DOCUMENTS:]
    references = documents[:REPORTS]
    # As long as a model may write; half of them begin like their reference.
    found = [
        " ".join((r.split()[: 10 * (i % 2)] + h.split())[:LONGEST])
        for i, (h, r) in enumerate(zip(rest, references))
    ]
    vocabulary = Vocabulary.build(texts, min_count=1)
    ids = {text: [*map(vocabulary.id, text.split()), 0] for text in {*documents, *found}}
    padded = np.zeros((REPORTS, LONGEST), dtype=np.int64)
    for row, text in enumerate(found):
        padded[row, : len(text.split())] = ids[text][:-1]
    wanted = [ids[text] for text in references]

    counter = CiderScorer()
    for text in documents:
        counter += (text, [text])
    counter.compute_doc_freq()
    frequencies = counter.document_frequency
    start = time.process_time()
    scorer = CiderD([ids[text] for text in documents])
    built = time.process_time() - start
    prepared = scorer.prepare(wanted)

    want = coco_with_frequencies(found, references, frequencies, DOCUMENTS)
    whole = coco_whole(found, references, documents[REPORTS:])
    got = scorer.score(padded, prepared)
    error = float(max(abs(got - want).max(), abs(got - whole).max()))
    if error > 1e-6:
        raise SystemExit(f"scores differ by {error}")
    times = {
        "pycocoevalcap": seconds(
            lambda: coco_with_frequencies(found, references, frequencies, DOCUMENTS), repeats
        ),
        "package, references prepared": seconds(
            lambda: scorer.score(padded, prepared), 20 * repeats
        ),
        "package, references new": seconds(lambda: scorer.score(padded, wanted), 20 * repeats),
        "pycocoevalcap, whole corpus": seconds(
            lambda: coco_whole(found, references, documents[REPORTS:]), 1
        ),
        "package, BLEU-4": seconds(lambda: sentence_bleu(padded, wanted), 20 * repeats),
        "package, counting the frequencies once": built,
    }
    return {
        "reports": REPORTS,
        "documents": DOCUMENTS,
        "largest_difference": error,
        "seconds": times,
        "ratio_prepared": times["pycocoevalcap"] / times["package, references prepared"],
        "ratio_new": times["pycocoevalcap"] / times["package, references new"],
        "ratio_whole_corpus": times["pycocoevalcap, whole corpus"]
        / times["package, references prepared"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    figures = measure(options.repeats)
    for name, value in figures["seconds"].items():
        print(f"{name}: {1000 * value:.2f} ms")
    print(
        f"ratio {figures['ratio_prepared']:.0f} (references prepared), "
        f"{figures['ratio_new']:.0f} (new), {figures['ratio_whole_corpus']:.0f} (whole corpus); "
        f"largest difference {figures['largest_difference']:.1e}"
    )
    if options.json:
        write_json(options.json, figures, indent=1)
        print(json.dumps({"written": options.json.name}))


if __name__ == "__main__":
    main()
