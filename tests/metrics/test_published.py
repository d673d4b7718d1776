"""The numbers from the literature: complete, plausible, flagged."""

import pandas as pd
import pytest

from r2genkit.metrics import METRICS
from r2genkit.paths import published_csv


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(published_csv())


def test_columns_and_sources(table):
    expected = ["protocol", "system", *METRICS, "subset", "source", "note", "as_printed"]
    assert list(table.columns) == expected
    assert set(table["protocol"]) == {"kit2018", "r2gen", "course2025", "other"}
    assert set(table["subset"]) == {"all", "normal", "abnormal", "private", "validation"}
    assert table[["system", "subset", "source"]].notna().all(axis=None)
    assert not table.duplicated(["protocol", "system", "subset"]).any()


def test_values_are_scores_and_bleu_falls_with_the_order(table):
    values = table[list(METRICS)]
    assert ((values > 0) & (values < 1)).where(values.notna(), True).all(axis=None)
    for row in table[["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]].itertuples(index=False):
        known = [value for value in row if not pd.isna(value)]
        assert known == sorted(known, reverse=True)


def test_the_misprint_is_quoted_and_not_guessed(table):
    printed = table[table["as_printed"].notna()]
    assert printed["system"].tolist() == ["CNN-RNN-Att"]
    assert printed["as_printed"].item() == "BLEU-3=0.11478"
    assert printed["BLEU-3"].isna().all() and ".1478" in printed["note"].item()


@pytest.mark.parametrize(
    ("protocol", "system", "subset", "bleu4"),
    [
        ("kit2018", "MRNA", "all", 0.1234),
        ("kit2018", "best of the kit (unreleased)", "normal", 0.1750),
        ("r2gen", "R2Gen", "all", 0.165),
        ("r2gen", "R2GenCMN", "all", 0.170),
        ("course2025", "author weights", "private", 0.1120),
        ("course2025", "retrieval + SCST", "all", 0.1626),
    ],
)
def test_spot_values(table, protocol, system, subset, bleu4):
    row = table.query("protocol == @protocol and system == @system and subset == @subset")
    assert row["BLEU-4"].item() == bleu4


def test_the_course_gains_by_its_own_numbers(table):
    public = table.query("protocol == 'course2025' and subset == 'all'").set_index("system")
    gain = public.loc["retrieval + SCST", "BLEU-4"] / public["BLEU-4"]
    assert 100 * (gain["baseline (CMN re-trained)"] - 1) == pytest.approx(2.3, abs=0.05)
    assert 100 * (gain["author weights"] - 1) == pytest.approx(-10.3, abs=0.05)
