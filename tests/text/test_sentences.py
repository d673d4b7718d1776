"""Sentences and duplicates, on made-up text and on the real reports of the installed wheel."""

import importlib.util
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import defusedxml.ElementTree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2genkit.text import in_kit2018, kit2018_sentences, normalise, split_sentences


@pytest.fixture(scope="module")
def sections():
    """(impression, findings) of the 3,955 Open-i reports in the torchxrayvision wheel."""
    origin = Path(importlib.util.find_spec("torchxrayvision").origin)
    found = {}
    with tarfile.open(origin.parent / "data/NLMCXR_reports.tgz") as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                root = defusedxml.ElementTree.parse(archive.extractfile(member)).getroot()
                parts = {e.get("Label"): e.text or "" for e in root.iter("AbstractText")}
                found[root.find("uId").get("id")] = (parts["IMPRESSION"], parts["FINDINGS"])
    return found


def test_split_sentences():
    assert split_sentences("a b . c .") == ["a b", "c"]
    assert split_sentences("a b . c") == ["a b", "c"]  # a cut reference
    assert split_sentences(". . a . .") == ["a"]
    assert split_sentences("") == [] == split_sentences(".")
    assert split_sentences("at 1.7 cm .") == ["at 1.7 cm"]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "1.7"]), min_size=1, max_size=4), max_size=5))
def test_split_is_the_inverse_of_join(sentences):
    texts = [" ".join(words) for words in sentences]
    assert split_sentences("".join(f"{text} . " for text in texts).strip()) == texts


def test_kit2018_sentences():
    impression = "No acute disease. Normal."
    findings = "Heart is 1. not split.. still one.Glued here. X-ray, clear lungs."
    assert kit2018_sentences(impression, findings) == [
        "no acute disease",
        "heart is not split still oneglued here",
        "xray clear lungs",
    ]
    assert not in_kit2018(impression, findings)
    assert in_kit2018(impression, findings + " One more.")
    assert not in_kit2018(" ", "a b. c d. e f. g h. i j.")


def test_normalise():
    assert normalise(" No  effusion, SEEN.") == "no effusion seen" == normalise("no effusion seen")
    assert normalise("seen no effusion") != normalise("no effusion seen")


def test_the_2018_kit_ids_and_histogram(sections):
    assert len(sections) == 3955
    assert sum(in_kit2018(*parts) for parts in sections.values()) == 3631
    lengths = Counter(len(kit2018_sentences(*p)) for p in sections.values() if any(p))
    expected = "1:37 2:55 3:199 4:844 5:970 6:740 7:450 8:259 9:167 10:97 11:44 12:24 13:19 14:8"
    expected += " 15:7 16:4 18:1 24:1 25:1"
    assert lengths == {int(k): int(v) for k, v in (item.split(":") for item in expected.split())}


@pytest.mark.data
def test_measured_redundancy(sections):
    folder = os.environ.get("R2GENKIT_DATA")
    if not folder:
        pytest.skip("needs R2GENKIT_DATA")
    content = json.loads((Path(folder) / "annotation.json").read_text(encoding="utf-8"))
    seen = {entry["report"] for entry in content["train"]}
    for part, unique, top_ten, repeated in (
        ("train", 1728, 7.8, 2069),
        ("val", 270, 9.8, 65),
        ("test", 398, 20.5, 274),
    ):
        texts = [entry["report"] for entry in content[part]]
        counts = Counter(texts)
        assert len(counts) == unique
        share = 100 * sum(count for _, count in counts.most_common(10)) / len(texts)
        assert share == pytest.approx(top_ten, abs=0.05)
        assert sum(text in seen for text in texts) == repeated
        # Normalising can only merge reports, and merges few: the duplicates are verbatim.
        assert unique - 5 <= len({normalise(text) for text in texts}) <= unique
        # The R2Gen text is the FINDINGS section of the study, letter for letter.
        by_study = {e["id"].split("_")[0]: e["report"] for e in content[part]}
        assert all(normalise(sections[s][1]) == normalise(text) for s, text in by_study.items())
