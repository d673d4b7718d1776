"""Figures and tables of notebook 11 show what rows and texts hold, and reweight exactly."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from r2genkit.errors import KitError
from r2genkit.experiments.results import make_row
from r2genkit.metrics import ALL_METRICS, evaluate_reports, score_nlg
from r2genkit.study import Study
from r2genkit.viz import normality as viz
from tests.rows import row_content

REFERENCES = {
    "n1": "the heart is normal . the lungs are clear .",
    "n2": "heart size is normal . the lungs are clear .",
    "a1": "the heart is enlarged . the lungs are clear .",
    "a2": "there is a small right pleural effusion .",
    "a3": "mild cardiomegaly . no pleural effusion .",
}
NORMAL = {study: study.startswith("n") for study in REFERENCES}
REPORTS = dict.fromkeys(REFERENCES, "the heart is enlarged . the lungs are clear .")


def row(normal=0.5, abnormal=0.3, **changes):
    def scores(value):
        return {n: {"value": value, "low": value - 0.1, "high": value + 0.1} for n in ALL_METRICS}

    subsets = {
        "normal": {"studies": 4, "metrics": scores(normal)},
        "abnormal": {"studies": 8, "metrics": scores(abnormal)},
    }
    return make_row(row_content(**{"subsets": subsets, **changes}))


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def study(number, impression, normal):
    return Study(
        id=f"CXR{number}", views=(), findings_text="", impression_text=impression,
        findings=(), normal=normal, corpus="openi",
    )  # fmt: skip


def test_keyword_rules_count_words_of_first_sentence_and_whole_impression():
    studies = [
        study(1, "No acute disease.", True),
        study(2, "Stable nodule. No effusion.", False),
        study(3, "Cardiomegaly.", False),
        study(4, "Normal chest.", None),
        study(5, "", True),  # left out
    ]
    table = viz.keyword_ratios(studies).set_index(["place", "words"])
    assert table.loc[("first sentence", "no"), "ratio"] == pytest.approx(1 / 3)
    assert table.loc[("whole impression", "no"), "ratio"] == pytest.approx(2 / 2)
    assert table.loc[("first sentence", "no, normal"), "normal"] == 2
    assert table.loc[("first sentence", "no"), "as coded %"] == pytest.approx(100)
    assert table.loc[("whole impression", "no"), "as coded %"] == pytest.approx(200 / 3)
    with pytest.raises(KitError, match="impression"):
        viz.keyword_ratios([study(5, "", True)])


def test_the_rule_on_first_sentences_comes_near_the_stated_ratio():
    """Recorded when the rule was found: 2.44 to 2.46 : 1 on the 2018 kit's 3,111 studies."""
    from r2genkit.corpora import load_corpus
    from r2genkit.corpora.counts import in_kit2018_published

    kit = [s for s in load_corpus("openi") if in_kit2018_published(s)]
    table = viz.keyword_ratios(kit).set_index(["place", "words"])
    assert 2.3 < table.loc[("first sentence", "no, normal, clear"), "ratio"] < 2.6
    assert (table["as coded %"] < 70).all()


def test_subset_figure_puts_both_values_of_each_row_side_by_side():
    rows = [row(run="02_constant", kind="baseline", order=1, title="constant"), row(0.6, 0.2)]
    figure = viz.subset_figure(rows, metrics=("BLEU-4",))
    (axis,) = figure.axes
    points = {
        (line.get_marker(), float(line.get_xdata()[0]))
        for line in axis.lines
        if line.get_marker() in "os"
    }
    assert points == {("o", 0.5), ("o", 0.6), ("s", 0.3), ("s", 0.2)}
    assert "normal (4 studies)" in texts(figure) and "abnormal (8 studies)" in texts(figure)
    assert "synthetic phantom images" in texts(figure)
    real = viz.subset_figure([row(corpus="openi", synthetic=False)], metrics=("BLEU-4",))
    assert "synthetic phantom images" not in texts(real)
    with pytest.raises(KitError, match="no row has scores"):
        viz.subset_figure([row(subsets={})])
    with pytest.raises(ValueError, match="2 tables"):
        viz.subset_figure([row(), row(corpus="openi", synthetic=False)])


FINDINGS = {
    "effusion": {"support": 20, "predicted": 12, "hit": 9},
    "nodule": {"support": 4, "predicted": 0, "hit": 0},
    "scar": {"support": 0, "predicted": 3, "hit": 0},
    "bulla": {"support": 0, "predicted": 0, "hit": 0},
}


def test_finding_table_divides_by_what_it_says():
    table = viz.finding_table([row(findings=FINDINGS)]).set_index("finding")
    assert list(table.index) == ["effusion", "nodule", "scar"]  # nobody ever says bulla
    assert table.loc["effusion", "recall"] == pytest.approx(9 / 20)
    assert table.loc["effusion", "false"] == pytest.approx(3 / 12)
    assert table.loc["nodule", "recall"] == 0 and np.isnan(table.loc["nodule", "false"])
    assert np.isnan(table.loc["scar", "recall"]) and table.loc["scar", "false"] == 1


def test_heatmap_shows_support_and_greys_what_is_thin():
    figure = viz.finding_heatmap([row(findings=FINDINGS, title="model")])
    shown = texts(figure)
    assert {"pleural effusion (20)", "nodule or mass (4)", "scar (0)", "model"} <= set(shown)
    recall, false = figure.axes
    for axis, wanted in ((recall, ["45", "0", "–"]), (false, ["25", "–", "100"])):
        cells = {text.get_position()[1]: text.get_text() for text in axis.texts}
        assert [cells[place] for place in sorted(cells)] == wanted
        coloured = axis.collections[-1].get_array()
        assert (~np.ma.getmaskarray(coloured)).sum() == 1  # ten or more: the effusion alone
    with pytest.raises(KitError, match="no finding occurs"):
        viz.finding_heatmap([row(findings={"bulla": FINDINGS["bulla"]})])


def test_heatmap_of_thin_rows_only_still_draws():
    figure = viz.finding_heatmap([row(findings={"nodule": FINDINGS["nodule"]})])
    assert "nodule or mass (4)" in texts(figure)


def test_text_forms_by_hand():
    table = viz.text_forms({"all": REFERENCES}, NORMAL, ["the lungs are clear"]).set_index(
        "studies are"
    )
    assert table.loc["normal", "studies"] == 2
    assert table.loc["normal", "words"] == pytest.approx(8)
    assert table.loc["normal", "templates %"] == pytest.approx(50)
    assert table.loc["abnormal", "templates %"] == pytest.approx(100 / 5)
    assert table.loc["normal", "distinct %"] == 100
    assert table.loc["abnormal", "sentences"] == pytest.approx(5 / 3)
    one = viz.text_forms({"all": REFERENCES}, NORMAL, [], own=1).set_index("studies are")
    assert one.loc["normal", "own commonest %"] == pytest.approx(50)


def test_text_forms_figure_has_a_bar_per_system_and_kind():
    figure = viz.text_forms_figure(
        {"reference": REFERENCES, "constant": REPORTS}, NORMAL, [], synthetic=True
    )
    assert len(figure.axes[1].patches) == 4
    assert {"reference", "constant", "synthetic phantom images"} <= set(texts(figure))
    empty = viz.text_forms_figure({"silent": dict.fromkeys(REFERENCES, "")}, NORMAL, [],
                                  synthetic=False)  # fmt: skip
    assert "synthetic phantom images" not in texts(empty)
    with pytest.raises(KitError, match="no report"):
        viz.text_forms_figure({}, NORMAL, [], synthetic=False)


@given(st.lists(st.booleans(), min_size=2, max_size=30), st.floats(0, 1))
def test_mixture_weights_give_the_wanted_share(normal, share):
    normal = np.array(normal)
    if normal.all() or not normal.any():
        with pytest.raises(KitError, match="normal and abnormal"):
            viz.mixture_weights(normal, [share])
        return
    (weights,) = viz.mixture_weights(normal, [share])
    assert weights.sum() == pytest.approx(len(normal))
    assert weights[normal].sum() / len(normal) == pytest.approx(share)


def test_shares_outside_the_unit_interval_are_refused():
    with pytest.raises(KitError, match="between 0 and 1"):
        viz.mixture_weights(np.array([True, False]), [1.2])


def test_mixture_curves_equal_repeated_studies_and_subsets():
    shares = [0.0, 2 / 5, 4 / 7, 1.0]  # abnormal only; as it is; normal ones twice; normal only
    curves = viz.mixture_curves(REPORTS, REFERENCES, NORMAL, shares)
    whole = evaluate_reports(REPORTS, REFERENCES, normal=NORMAL, meteor=False, bootstrap=0)
    for metric in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr", "finding-F1"):
        assert curves[metric].iloc[1] == pytest.approx(whole.metrics[metric]), metric
        assert curves[metric].iloc[0] == pytest.approx(whole.subsets["abnormal"]["metrics"][metric])
    twice = REFERENCES | {f"{s}x": REFERENCES[s] for s in ("n1", "n2")}
    again = score_nlg(dict.fromkeys(twice, REPORTS["n1"]), twice, meteor=False).corpus
    assert curves["BLEU-4"].iloc[2] == pytest.approx(again["BLEU-4"])
    assert curves["ROUGE-L"].iloc[2] == pytest.approx(again["ROUGE-L"])


def test_mixture_figure_draws_each_curve_and_mark():
    curves = viz.mixture_curves(REPORTS, REFERENCES, NORMAL, np.linspace(0, 1, 5))
    figure = viz.mixture_figure(
        {"constant": curves, "other": curves / 2}, {"here": 0.4}, synthetic=True
    )
    first = figure.axes[0]
    assert len(first.lines) == 3
    np.testing.assert_allclose(first.lines[0].get_ydata(), curves["BLEU-4"])
    assert {"constant", "other", "here", "synthetic phantom images"} <= set(texts(figure))
    with pytest.raises(KitError, match="no system"):
        viz.mixture_figure({}, {}, synthetic=False)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_implied_share_inverts_a_mixture(share, normal, abnormal):
    total = share * normal + (1 - share) * abnormal
    if normal == abnormal:
        assert np.isnan(viz.implied_share(total, normal, abnormal))
    elif abs(normal - abnormal) > 1e-3:
        assert viz.implied_share(total, normal, abnormal) == pytest.approx(share, abs=1e-6)


def test_implied_shares_of_means_are_exact_and_close_scores_are_left_out():
    whole = evaluate_reports(REPORTS, REFERENCES, normal=NORMAL, meteor=False, bootstrap=0)
    scores = pd.DataFrame(
        {"all": whole.metrics} | {n: whole.subsets[n]["metrics"] for n in ("normal", "abnormal")}
    ).T
    shares = viz.implied_shares(scores, ("ROUGE-L", "CIDEr"))
    assert shares.tolist() == pytest.approx([2 / 5, 2 / 5])
    assert viz.implied_shares(scores, ("ROUGE-L",), least=1.0).isna().all()


def test_implied_figure_shows_sources_and_truth():
    shares = pd.DataFrame({"kit": {"BLEU-4": 0.7, "CIDEr": 0.8}, "own": {"BLEU-4": np.nan}})
    figure = viz.implied_figure(shares, {"stated": 0.71})
    assert {"BLEU-4", "CIDEr", "kit", "own", "stated"} <= set(texts(figure))
    places = figure.axes[0].collections[0].get_offsets()
    assert places[:, 0].tolist() == [0.7, 0.8]
    with pytest.raises(KitError, match="empty"):
        viz.implied_figure(shares.iloc[:0], {})


def test_row_scores_by_normality():
    table = viz.row_subset_scores(row(0.6, 0.2))
    assert list(table.index) == ["all", "normal", "abnormal"]
    assert table.loc["normal", "BLEU-4"] == 0.6 and table.loc["all", "BLEU-4"] == 0.5
    with pytest.raises(KitError, match="no scores of normal studies"):
        viz.row_subset_scores(row(subsets={}))


def test_titles_name_the_seed_only_where_several_stand():
    assert viz.titles([row(), row(run="other")]) == ["Show and Tell"] * 2
    assert viz.titles([row(), row(seed=1)]) == ["Show and Tell (0)", "Show and Tell (1)"]
