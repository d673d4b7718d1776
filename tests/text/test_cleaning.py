"""Cleaning: every rule by hand, an independent slow restatement, and the text measured in print."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2genkit.errors import KitError
from r2genkit.text import COMPAT_NAMES, clean_report

R2GEN_CASES = [
    ("Heart normal. Lungs clear.", "heart normal . lungs clear ."),
    ("Clear..", "clear ."),
    ("a........ b.........c", "a . bc ."),  # 8 dots become 1, 9 become 2; only ". " ends a sentence
    ("A. B. C.", "a . b . c ."),
    ("1. Clear. 2. Big.", "clear . big ."),
    ("1. Clear. 2. Big. 3. Old. 4. New. 5. Last.", "clear . big . old . new . last ."),
    ("6. Clear.", "6 . clear ."),  # only 1..5 are list markers
    ("at T1. No mass.", "at tno mass ."),  # "1. " goes anywhere
    ("at T11. No mass.", "at t1no mass ."),
    ("Rib 4. Clear.", "rib . clear ."),  # " 4. " too
    ("A 1.7 cm nodule.", "a 17 cm nodule ."),  # decimals lose their point
    ("hilar/perihilar", "hilarperihilar ."),
    ('patient\'s "nodule" \\ x', "patients nodule x ."),
    ("well-expanded", "well-expanded ."),  # the hyphen stays ...
    ("a <b> c=d e@f g:h i;j [k]", "a b cd ef gh ij k ."),
    ("#1 $2 ~3 |4 `5", "#1 $2 ~3 |4 `5 ."),  # ... and so do these
    ("x, y? z! (w) {v} *u* %t ^s &r _q +p", "x y z w v u t s r q p ."),
    ("XXXX XXXX film.", "xxxx xxxx film ."),
    ("normal. . clear.", "normal . . clear ."),  # the empty sentence is never dropped
    ("", "."),
    ("  Clear .  ", "clear ."),
    ("line\nbreak", "line break ."),
]


@pytest.mark.parametrize(("text", "expected"), R2GEN_CASES)
def test_r2gen_rule_by_rule(text, expected):
    assert clean_report(text, "r2gen") == expected


@pytest.mark.parametrize("code", range(0x21, 0x7F))
def test_r2gen_fate_of_every_printable_character(code):
    mark = chr(code)
    kept = mark.isalnum() or mark in "-#$~|`"
    expected = f"a{mark.lower()}b ." if kept else "ab ."
    assert clean_report(f"a{mark}b", "r2gen") == expected


def test_mimic_differs_by_lines_underscores_and_dots():
    assert clean_report("a\nb ___ c", "r2gen_mimic") == "a b c ."
    assert clean_report("end........ next", "r2gen_mimic") == "end . next ."
    # Six rounds of halving take 64 spaces to one; the list marker then has its single space.
    assert clean_report("x" + " " * 64 + "2. y", "r2gen_mimic") == "x . y ."
    assert clean_report("x" + " " * 64 + "2. y", "r2gen") == "x . y ."


DEFAULT_CASES = [
    ("A 1.7 cm nodule.", "a 1.7 cm nodule ."),
    ("1. Clear. 2. Big heart.", "clear . big heart ."),
    ("1) Clear. (2) Big heart.", "clear . big heart ."),
    ("1.Clear. 12. Big.", "clear . big ."),
    ("Wedge at T1. No mass.", "wedge at t1 . no mass ."),
    ("Two ribs, 4 and 5. Clear.", "two ribs 4 and 5 . clear ."),
    ("hilar/perihilar", "hilar perihilar ."),
    ("patient's", "patients ."),
    ("well-expanded lungs - clear", "well-expanded lungs clear ."),
    ("XXXX XXXX film. Seen XXXX.", "xxxx film . seen xxxx ."),
    ("normal.. . clear", "normal . clear ."),
    ("normal.The rest", "normal . the rest ."),
    ("Mass? Perhaps!", "mass . perhaps ."),
    ("at 3 p.m. seen", "at 3 pm . seen ."),
    ("Called Dr. XXXX today", "called dr xxxx today ."),
    ("", ""),
    (" .. ", ""),
    ("line\nbreak", "line break ."),
]


@pytest.mark.parametrize(("text", "expected"), DEFAULT_CASES)
def test_default_rule_by_rule(text, expected):
    assert clean_report(text) == expected


def test_kit2018_has_letters_only_and_no_stops():
    text = "Heart is normal. Clear. X-ray of 1.7 cm size.No break 2. still one"
    assert clean_report(text, "kit2018") == "heart is normal xray of cm sizeno break still one"


def slow_r2gen(text):
    """The released rule told again, character by character instead of by table and regex."""

    def squeeze(value):
        out, index = [], 0
        while index < len(value):
            out.append(value[index])
            index += 2 if value[index : index + 2] == ".." else 1
        return "".join(out)

    def cut(value, old, new):
        return new.join(value.split(old))

    for _ in range(3):
        text = squeeze(text)
    text = cut(text, "1. ", "")
    for before in (". ", " "):
        for number in "2345":
            text = cut(text, f"{before}{number}. ", ". ")
    words = []
    for sentence in text.strip().lower().split(". "):
        kept = "".join(
            c
            for c in "".join(c for c in sentence if c not in "\"/\\'").strip().lower()
            if not (c in ".,?;*!%^&_+()]{}" or ":" <= c <= "[")
        )
        words += [*kept.split(), "."]
    return " ".join(words)


REPORTLIKE = st.text(alphabet="abT12345. ,-/:<['\"x\n;", max_size=60)


@given(REPORTLIKE)
@settings(max_examples=400, deadline=None)
def test_r2gen_equals_the_slow_restatement(text):
    assert clean_report(text, "r2gen") == slow_r2gen(text)


@given(st.text(max_size=80), st.sampled_from(COMPAT_NAMES))
@settings(max_examples=300, deadline=None)
def test_result_is_single_spaced_and_lower(text, compat):
    cleaned = clean_report(text, compat)
    assert cleaned == " ".join(cleaned.split())
    assert not re.search("[A-Z]", cleaned)


@given(st.one_of(st.text(max_size=80), REPORTLIKE))
@settings(max_examples=400, deadline=None)
def test_default_is_idempotent_and_has_no_empty_sentence(text):
    cleaned = clean_report(text)
    assert clean_report(cleaned) == cleaned
    assert ". ." not in cleaned and not cleaned.startswith(".")
    assert cleaned == "" or cleaned.endswith(" .")


def test_unknown_rule_and_wrong_type_say_so():
    with pytest.raises(KitError, match="kit2018"):
        clean_report("a", "r2genn")
    with pytest.raises(KitError, match="NoneType"):
        clean_report(None)


@pytest.fixture(scope="module")
def annotation():
    folder = os.environ.get("R2GENKIT_DATA")
    if not folder or not (Path(folder) / "annotation.json").is_file():
        pytest.skip("needs R2GENKIT_DATA with annotation.json")
    content = json.loads((Path(folder) / "annotation.json").read_text(encoding="utf-8"))
    return {part: [entry["report"] for entry in content[part]] for part in ("train", "val", "test")}


@pytest.mark.data
def test_measured_counts_of_the_r2gen_text(annotation):
    counts = Counter(w for t in annotation["train"] for w in clean_report(t, "r2gen").split())
    assert (len(counts), counts.total()) == (1501, 75_413)
    assert [sum(c >= k for c in counts.values()) for k in (1, 2, 3, 5, 10)] == [
        *(1501, 975, 759, 573, 398)
    ]
    assert counts["xxxx"] / counts.total() == pytest.approx(0.020, abs=0.0005)


@pytest.mark.data
@pytest.mark.parametrize(
    ("part", "percentiles", "mean", "long_share"),
    [
        ("train", [17, 25, 34, 44, 57, 65, 86, 162], 36.45, 0.0860),
        ("val", [17, 25, 33, 43, 56, 64, 79, 95], 35.72, 0.0845),
        ("test", [14, 23, 30, 38, 51, 59, 81, 106], 32.51, 0.0559),
    ],
)
def test_measured_lengths(annotation, part, percentiles, mean, long_share):
    lengths = np.array([len(clean_report(t, "r2gen").split()) for t in annotation[part]])
    found = np.percentile(lengths, [5, 25, 50, 75, 90, 95, 99, 100])
    np.testing.assert_allclose(found, percentiles, atol=0.51)
    assert lengths.mean() == pytest.approx(mean, abs=0.005)
    assert (lengths > 58).mean() == pytest.approx(long_share, abs=0.00005)
