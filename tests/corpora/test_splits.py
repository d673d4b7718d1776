"""Split protocols: invariants on synthetic studies, published figures on the real reports."""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2genkit.corpora.openi import read_archive, reports_archive
from r2genkit.corpora.splits import (
    KIT2018_LEFT_OUT,
    PARTS,
    SPLITS,
    Split,
    audit_split,
    eligible,
    fingerprint,
    make_split,
)
from r2genkit.errors import KitError
from r2genkit.study import Study, View
from r2genkit.text.sentences import normalise


def study(number, text="Clear.", normal=True, impression="", views=1):
    return Study(
        id=f"CXR{number}",
        views=tuple(View(f"CXR{number}_{k}", "unknown", None) for k in range(views)),
        findings_text=text,
        impression_text=impression,
        normal=normal,
    )


def crowd(n=400, seed=3):
    """Studies with repeated texts: text k comes with weight 1 / (k + 10)."""
    rng = random.Random(seed)
    weights = [1 / (k + 10) for k in range(120)]
    texts = rng.choices(range(120), weights, k=n)
    return [study(i, f"Text {t}.", rng.random() < 0.4) for i, t in enumerate(texts)]


@pytest.fixture(scope="module")
def openi():
    return list(read_archive(reports_archive()))


@pytest.fixture(scope="module")
def grouped(openi):
    return make_split("grouped", openi)


def check_partition(split: Split, studies):
    ids = [one for part in split.parts().values() for one in part]
    assert len(ids) == len(set(ids))
    assert set(ids) <= {one.id for one in studies}
    assert all(split.parts().values())


# ---------------------------------------------------------------- grouped


@pytest.mark.parametrize("section", ["findings", "impression+findings"])
def test_grouped_leaks_no_text(openi, section):
    split = make_split("grouped", openi, section=section)
    check_partition(split, openi)
    known = {one.id: normalise(one.text(section)) for one in openi}
    texts = {part: {known[one] for one in ids} for part, ids in split.parts().items()}
    for first in PARTS:
        for second in PARTS:
            if first != second:
                assert not texts[first] & texts[second]
    assert {one for part in split.parts().values() for one in part} == {
        one.id for one in eligible(openi, section)
    }


def test_grouped_keeps_sizes_and_prevalence(openi, grouped):
    total = sum(map(len, grouped.parts().values()))
    assert total == 3337
    for part, fraction in zip(PARTS, (0.80, 0.08, 0.12)):
        assert len(grouped.parts()[part]) / total == pytest.approx(fraction, abs=0.005)
    table = audit_split(grouped, openi)
    everyone = 100 * sum(one.normal is True for one in eligible(openi, "findings")) / total
    assert table["normal %"].to_list() == pytest.approx([everyone] * 3, abs=1.5)
    assert table["verbatim-in-train %"].to_list() == [100, 0, 0]
    # No single text dominates an evaluation part.
    assert table.loc[["validation", "test"], "ten commonest %"].max() < 20


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 50), st.randoms(use_true_random=False))
def test_grouped_does_not_depend_on_the_order(seed, shuffler):
    studies = crowd()
    shuffled = studies[:]
    shuffler.shuffle(shuffled)
    first = make_split("grouped", studies, seed=seed)
    second = make_split("grouped", shuffled, seed=seed)
    assert first.fingerprint == second.fingerprint
    assert set(first.test) == set(second.test)
    assert list(second.test) == [one.id for one in shuffled if one.id in set(second.test)]


def test_grouped_depends_on_seed_and_fractions():
    studies = crowd()
    prints = {make_split("grouped", studies, seed=seed).fingerprint for seed in range(5)}
    assert len(prints) == 5
    half = make_split("grouped", studies, fractions=(0.5, 0.25, 0.25))
    assert [len(ids) for ids in half.parts().values()] == pytest.approx([200, 100, 100], abs=20)
    with pytest.raises(KitError, match="sum to 1"):
        make_split("grouped", studies, fractions=(0.5, 0.5, 0.5))


def test_grouped_sees_through_case_and_punctuation():
    same = ["No effusion.", "no  effusion", "NO EFFUSION!"]
    studies = [study(i, same[i % 3]) for i in range(9)]
    studies += [study(10 + i, f"Other {i}.") for i in range(60)]
    split = make_split("grouped", studies)
    owners = {part for part, ids in split.parts().items() for one in ids if int(one[3:]) < 9}
    assert len(owners) == 1


def test_studies_without_text_or_view_are_left_out():
    studies = [*crowd(), study(9000, "  "), study(9001, "Seen.", views=0), study(9002, ".")]
    ids = {one for part in make_split("grouped", studies).parts().values() for one in part}
    assert not ids & {"CXR9000", "CXR9001", "CXR9002"}


# ---------------------------------------------------------------- course2025


def test_course2025_is_the_published_arithmetic(openi):
    split = make_split("course2025", openi, seed=7)
    check_partition(split, openi)
    assert (len(split.train), len(split.validation), len(split.test)) == (2768, 396, 791)
    assert "seed 7" in split.note
    assert make_split("course2025", openi, seed=8).fingerprint != split.fingerprint


# ---------------------------------------------------------------- kit2018


def test_kit2018_by_rule(openi, monkeypatch):
    monkeypatch.delenv("R2GENKIT_DATA", raising=False)
    split = make_split("kit2018", openi)
    check_partition(split, openi)
    sizes = [len(ids) for ids in split.parts().values()]
    assert sum(sizes) == 3111 and sizes[2] == 300 and sizes[0] + sizes[1] == 2811
    assert not KIT2018_LEFT_OUT & {one for part in split.parts().values() for one in part}
    assert "rebuilt by rule" in split.note and "281 validation ids" in split.note


def test_kit2018_from_the_published_files(tmp_path, openi):
    ids = [one.id for one in openi[:60]]
    (tmp_path / "train_split.json").write_text(json.dumps(ids[:50]))
    (tmp_path / "test_split.json").write_text(json.dumps(ids[50:]))
    split = make_split("kit2018", openi, annotation=tmp_path)
    assert set(split.test) == set(ids[50:])
    assert set(split.train) | set(split.validation) == set(ids[:50])
    assert len(split.validation) == 5 and "published files" in split.note
    again = make_split("kit2018", openi, annotation=tmp_path / "annotation.json")
    assert again == split
    (tmp_path / "test_split.json").write_text(json.dumps(ids[49:]))
    with pytest.raises(KitError, match="also stands"):
        make_split("kit2018", openi, annotation=tmp_path)


# ---------------------------------------------------------------- r2gen


def write_annotation(path: Path, parts, key="test"):
    entry = {"report": "Clear.", "image_path": ["0.png"]}
    content = {
        name: [entry | {"id": one, "split": name} for one in ids] for name, ids in parts.items()
    }
    content = {(key if name == "test" else name): value for name, value in content.items()}
    path.write_text(json.dumps(content))


def test_r2gen_ids_match_whole_or_by_study_number(tmp_path):
    studies = [study(1), study(2), study(3), Study("p_4_x", (), "", "")]
    parts = {"train": ["CXR1_1_IM-1", "p_4_x"], "val": ["CXR2_IM-2"], "test": ["CXR3"]}
    write_annotation(tmp_path / "annotation.json", parts)
    split = make_split("r2gen", studies, annotation=tmp_path)
    assert split.parts() == {
        "train": ("CXR1", "p_4_x"),
        "validation": ("CXR2",),
        "test": ("CXR3",),
    }
    assert split == make_split("r2gen", studies, annotation=tmp_path / "annotation.json", seed=5)
    with pytest.raises(KitError, match=r"1 of its 4 ids .*CXR3"):
        make_split("r2gen", studies[:2] + studies[3:], annotation=tmp_path)


def test_r2gen_without_the_file(monkeypatch):
    monkeypatch.delenv("R2GENKIT_DATA", raising=False)
    with pytest.raises(KitError, match=r"annotation\.json.*R2GENKIT_DATA"):
        make_split("r2gen", crowd())


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("R2GENKIT_DATA"), reason="needs R2GENKIT_DATA")
def test_the_real_r2gen_split(openi):
    split = make_split("r2gen", openi)
    check_partition(split, openi)
    assert [len(ids) for ids in split.parts().values()] == [2069, 296, 590]
    table = audit_split(split, openi, same=str)
    assert table["normal %"].round(1).to_list() == [33.0, 33.1, 52.0]
    assert table["verbatim-in-train %"].round(1).to_list() == [100.0, 22.0, 46.4]
    assert table["unique texts"].to_list() == [1728, 270, 398]
    assert table["ten commonest %"].round(1).to_list() == [7.8, 9.8, 20.5]
    assert table["median length"].to_list() == [34, 33, 30]


# ---------------------------------------------------------------- common


def test_fingerprint_is_the_hash_of_sorted_ids():
    parts = {"train": ["b", "a"], "validation": ["c"], "test": ["d"]}
    expected = hashlib.sha256(b"train:a,b\nvalidation:c\ntest:d").hexdigest()
    assert fingerprint(parts) == expected
    assert fingerprint(parts | {"train": ["a", "b"]}) == expected
    assert fingerprint(parts | {"train": ["a"], "test": ["b", "d"]}) != expected


def test_errors():
    assert SPLITS == ("grouped", "r2gen", "kit2018", "course2025")
    with pytest.raises(KitError, match=r"random.*grouped"):
        make_split("random", crowd())
    with pytest.raises(KitError, match="CXR5 occurs twice"):
        make_split("grouped", [*crowd(), study(5)])
    with pytest.raises(KitError, match="part is empty"):
        make_split("grouped", [study(1), study(2)])


def test_audit_by_hand():
    texts = {1: "Heart big.", 2: "Clear.", 3: "clear", 4: "Clear.", 5: "New."}
    studies = [study(n, text, normal=n != 1) for n, text in texts.items()]
    split = Split("x", ("CXR1", "CXR2", "CXR3"), ("CXR4",), ("CXR5",), "")
    table = audit_split(split, studies)
    assert table["studies"].to_list() == [3, 1, 1]
    assert table["normal %"].round(2).to_list() == [66.67, 100, 100]
    assert table["verbatim-in-train %"].to_list() == [100, 100, 0]
    assert table["duplicate %"].round(2).to_list() == [66.67, 0, 0]
    assert table["unique texts"].to_list() == [2, 1, 1]
    assert table["median length"].to_list() == [2, 2, 2]
    strict = audit_split(split, studies, same=str)
    assert strict.loc["train", "unique texts"] == 3
    with pytest.raises(KitError, match="CXR5"):
        audit_split(split, studies[:4])
