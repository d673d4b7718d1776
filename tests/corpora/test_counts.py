"""Every published count of the collection, recomputed from the real reports."""

import os
from pathlib import Path

import numpy as np
import pytest

from r2genkit.corpora import counts
from r2genkit.corpora.openi import read_archive, reports_archive
from r2genkit.corpora.r2gen import read_annotation
from r2genkit.text.sentences import in_kit2018


@pytest.fixture(scope="module")
def studies():
    return list(read_archive(reports_archive()))


@pytest.fixture(scope="module")
def findings(studies):
    return [study.findings_text for study in studies if study.findings_text]


@pytest.fixture(scope="module")
def both(studies):
    texts = [study.text("findings+impression") for study in studies]
    return [text for text in texts if text]


def test_images_per_report(studies):
    assert counts.images_per_report(studies).to_dict() == {
        0: 104,
        1: 446,
        2: 3208,
        3: 181,
        4: 15,
        5: 1,
    }


def test_sections(studies):
    table = counts.sections(studies)
    assert table.loc["any"].to_dict() == {
        "reports": 3955,
        "findings": 3425,
        "impression": 3921,
        "both": 3419,
        "either": 3927,
        "neither": 28,
    }
    assert table.loc[">=1", ["reports", "findings", "impression", "both", "either"]].to_list() == [
        3851,
        3337,
        3820,
        3331,
        3826,
    ]
    assert table.loc[">=2", ["reports", "findings", "impression", "either"]].to_list() == [
        3405,
        2955,
        3385,
        3391,
    ]
    assert table.loc["exactly 2", "findings"] == 2790


def test_funnel(studies):
    table = counts.funnel(studies)
    assert table["reports"].to_dict() == {
        "collection": 3955,
        "with image": 3851,
        "with text": 3927,
        "image and text": 3826,
        "two images": 3405,
        "two images and text": 3391,
        "R2Gen": 2955,
        "2018 kit, texts": 3631,
        "2018 kit, rule": 3122,
        "2018 kit, ids": 3111,
    }
    assert table.loc["collection", "images"] == 7470
    assert table.loc["image and text", "images"] == 7430
    assert table.loc["R2Gen", ["images", "images used"]].to_list() == [6091, 5910]


def test_view_tags(studies):
    assert counts.view_tags().to_dict() == {
        "PA": 3593,
        "": 2586,
        "LL": 717,
        "AP": 423,
        "LATERAL": 119,
        "RL": 29,
        "LARGE LATERAL": 2,
    }
    assert counts.view_tag_agreement(studies).to_dict() == {
        "frontal and lateral": 807,
        "all the same": 1318,
        "undetermined": 1280,
    }
    kit = [study for study in studies if counts.in_kit2018_published(study)]
    assert counts.view_tag_agreement(kit)["all the same"] == 1209


def test_codes(studies):
    assert counts.codes_summary(studies).to_dict() == {
        "normal": 1391,
        "other": 2564,
        "no indexing": 95,
        "no automatic term": 1773,
    }
    table = counts.normal_ratio(studies)
    assert table.loc["all reports", ["normal", "other"]].to_list() == [1391, 2564]
    assert table.loc["2018 kit (3,111)", ["normal", "other"]].to_list() == [1077, 2034]
    assert table["ratio"].round(2).loc[["all reports", "2018 kit (3,111)"]].to_list() == [
        0.54,
        0.53,
    ]


def test_findings_table(studies):
    table = counts.findings_table(studies)
    assert table.loc["atelectasis", "studies"] == 367
    assert (table["codes"] >= table["studies"]).all()
    assert table["studies"].is_monotonic_decreasing


def test_sentence_histogram_of_the_2018_rule(studies):
    assert counts.sentence_histogram(studies).to_dict() == {
        1: 37,
        2: 55,
        3: 199,
        4: 844,
        5: 970,
        6: 740,
        7: 450,
        8: 259,
        9: 167,
        10: 97,
        11: 44,
        12: 24,
        13: 19,
        14: 8,
        15: 7,
        16: 4,
        18: 1,
        24: 1,
        25: 1,
    }


def test_sentence_shares(studies):
    everyone = np.array(counts.sentence_counts(studies))
    assert len(everyone) == 3927
    within = (everyone >= 4) & (everyone <= 8)
    assert round(100 * within.mean(), 1) == 83.1
    assert round(100 * (everyone <= 8).mean(), 1) == 90.5
    kit = [s for s in studies if in_kit2018(s.impression_text, s.findings_text)]
    inside = np.array(counts.sentence_counts(kit))
    assert round(100 * ((inside >= 4) & (inside <= 8)).mean(), 1) == 89.7
    only = np.array(counts.sentence_counts(studies, "findings"))
    assert len(only) == 3425
    assert round(100 * ((only >= 4) & (only <= 8)).mean(), 1) == 71.5
    assert np.bincount(only).argmax() == 4


def test_the_two_sentence_rules_agree_on_most_reports(studies):
    """The kit drops one-word sentences and never splits after a digit; else the rules agree."""
    ours = counts.sentence_histogram(studies, "findings", "default")
    assert ours.sum() == pytest.approx(3425, abs=3)
    released = counts.sentence_counts(studies, "findings", "r2gen")
    kit = counts.sentence_counts(studies, "findings")
    assert np.mean(np.array(released) == np.array(kit)) > 0.9


def test_words_per_sentence(findings):
    words = counts.words_per_sentence(findings)
    assert (np.median(words), np.percentile(words, 95), words.max()) == (6, 13, 48)
    assert round(words.mean(), 1) == 6.8
    # The 7.0 in circulation counts the full stop that closes a report as a word of its last
    # sentence.
    assert round((words.sum() + len(findings)) / len(words), 1) == 7.0


def test_lengths(findings, both):
    table = counts.length_table({"findings": findings, "both": both})
    names = ["p5", "p25", "p50", "p75", "p90", "p95", "p99", "max"]
    assert table.loc["findings", names].round().to_list() == [17, 25, 33, 44, 57, 66, 87, 186]
    assert table.loc["both", names].round().to_list() == [19, 30, 39, 53, 71, 86, 120, 255]
    assert table["mean"].round(2).to_list() == [36.30, 43.72]
    assert table["> 58 %"].round(1).to_list() == [8.9, 18.9]
    assert table["tokens"].to_list() == [124_318, 171_681]


def test_vocabulary_by_threshold(findings, both):
    assert counts.vocabulary_sizes(findings).to_list() == [1757, 1160, 940, 723, 517]
    assert counts.vocabulary_sizes(both).to_list() == [2207, 1519, 1249, 971, 694]


def test_redundancy_by_hand():
    result = counts.redundancy(["a", "a", "b", "c"], train=["b", "z"])
    assert result == {"reports": 4, "unique": 3, "ten commonest %": 100.0, "in train": 1}


def test_claims_without_the_annotation(studies):
    table = counts.claims(studies)
    assert len(table) == 14
    exact = table[table["verdict"] == "exact"]
    assert (exact["claimed"] == exact["ours"]).all() and len(exact) == 9
    assert table.loc["normal : abnormal", "verdict"] == "not reproduced"
    assert table.loc["normal : abnormal", "ours"].startswith("0.54 : 1")
    assert table.loc["vocabulary", "ours"] == "2,068"
    assert table.loc["training / test images", "ours"] == "5,229 / 1,494"
    # A collection that lacks reports is found out, not waved through.
    fewer = counts.claims(studies[:-1])
    assert fewer.loc["reports", "verdict"] == "not reproduced"


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("R2GENKIT_DATA"), reason="needs R2GENKIT_DATA")
def test_counts_of_the_annotation(studies):
    path = Path(os.environ["R2GENKIT_DATA"]) / "annotation.json"
    parts = {k: [entry["report"] for entry in v] for k, v in read_annotation(path).items()}
    table = counts.length_table(parts)
    names = ["p5", "p25", "p50", "p75", "p90", "p95", "p99", "max"]
    assert table.loc["train", names].round().to_list() == [17, 25, 34, 44, 57, 65, 86, 162]
    assert table.loc["val", names].round().to_list() == [17, 25, 33, 43, 56, 64, 79, 95]
    assert table.loc["test", names].round().to_list() == [14, 23, 30, 38, 51, 59, 81, 106]
    assert table["mean"].round(2).to_list() == [36.45, 35.72, 32.51]
    assert table["> 58 %"].round(2).to_list() == [8.60, 8.45, 5.59]
    assert table.loc["train", "tokens"] == 75_413
    assert counts.vocabulary_sizes(parts["train"]).to_list() == [1501, 975, 759, 573, 398]
    repeats = {key: counts.redundancy(texts, parts["train"]) for key, texts in parts.items()}
    assert [repeats[key]["unique"] for key in parts] == [1728, 270, 398]
    assert [repeats[key]["in train"] for key in parts] == [2069, 65, 274]
    assert [round(repeats[key]["ten commonest %"], 1) for key in parts] == [7.8, 9.8, 20.5]
    table = counts.claims(studies, path)
    assert table.loc["train / val / test", "ours"] == "2,069 / 296 / 590"
    assert table.loc["test reports seen in training", "ours"] == "274 of 590 (46.4 %)"


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("R2GENKIT_DATA"), reason="needs R2GENKIT_DATA")
def test_the_r2gen_set_is_two_images_and_findings(studies):
    path = Path(os.environ["R2GENKIT_DATA"]) / "annotation.json"
    entries = [entry for part in read_annotation(path).values() for entry in part]
    known = {study.id: study for study in studies}
    assert {entry["id"].split("_")[0] for entry in entries} == {
        study.id for study in studies if counts.in_r2gen(study)
    }
    squeezed = [
        " ".join(entry["report"].split())
        == " ".join(known[entry["id"].split("_")[0]].findings_text.split())
        for entry in entries
    ]
    assert np.mean(squeezed) > 0.97
