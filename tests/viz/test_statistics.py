"""Figures of notebook 01 show the numbers they are given, all of them, and nothing else."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from r2genkit import paths
from r2genkit.corpora.counts import funnel
from r2genkit.errors import KitError
from r2genkit.study import Study, View
from r2genkit.viz import statistics as viz

VIEWS = (View("a", "frontal", None), View("b", "lateral", None))
TOY = [
    Study("CXR1", VIEWS, "Lungs are clear.", "Normal."),
    Study("CXR2", VIEWS[:1], "No effusion.", ""),
    Study("CXR3", VIEWS, "", "No acute disease."),
    Study("CXR4", (), "Lungs are clear.", "Normal."),
]


def _widths(axis):
    return [bar.get_width() for bar in axis.patches]


def _heights(axis):
    return [bar.get_height() for bar in axis.patches]


def _texts(axis):
    return [text.get_text() for text in axis.texts]


def _labels(ticks):
    return [tick.get_text() for tick in ticks]


def test_funnel_draws_every_step_of_the_package_in_order():
    table = funnel(TOY)
    (axis,) = viz.funnel_figure(table).axes
    assert _widths(axis) == table["reports"].to_list()
    for text, (_, row) in zip(_texts(axis), table.iterrows(), strict=True):
        assert text == f"{row['reports']:,}  ({row['images used']:,} images)"
    labels = _labels(axis.get_yticklabels())
    assert [label.split(":")[0] for label in labels] == list(table.index)
    top, bottom = axis.get_ylim()[1], axis.get_ylim()[0]
    assert top < bottom  # the collection stands on top
    colors = {to_rgb(bar.get_facecolor()) for bar in axis.patches}
    assert len(colors) == 3  # collection, R2Gen, 2018 kit


def test_funnel_refuses_a_table_without_its_columns():
    with pytest.raises(KitError, match="lacks the column 'definition'"):
        viz.funnel_figure(pd.DataFrame({"reports": [1], "images used": [2]}))


def test_sections_figure_shows_four_counts_and_all_image_numbers():
    cells = pd.DataFrame([[1, 20], [300, 4000]], index=["absent", "present"])
    left, right = viz.sections_figure(cells, {2: 7, 0: 3, 10: 1}).axes
    assert _texts(left) == ["1", "20", "300", "4,000"]
    assert _labels(right.get_xticklabels()) == ["0", "2", "10"]  # numeric order, not of strings
    assert _heights(right) == [3, 7, 1]


def test_views_figure_keeps_the_two_counts_apart():
    tags, studies = pd.Series({"PA": 5, "(blank)": 4}), pd.Series({"all the same": 3})
    left, right = viz.views_figure(tags, studies).axes
    assert (_widths(left), _widths(right)) == ([5, 4], [3])
    assert (left.get_xlabel(), right.get_xlabel()) == ("images", "studies")


def test_sentences_figure_states_the_share_of_the_closed_range_and_pools_the_tail():
    histogram = {0: 10, 1: 5, 4: 20, 8: 20, 9: 15, 16: 2, 40: 28}
    (axis,) = viz.sentences_figure({"all": histogram}, low=4, high=8, last=16).axes
    assert "100 reports, 40.0 % with 4 to 8" in axis.get_title()  # reports of no sentence count
    heights = dict(zip(range(1, 17), _heights(axis), strict=True))
    assert heights[16] == 30 and heights[1] == 5 and sum(heights.values()) == 90
    colored = [n for n, bar in enumerate(axis.patches, start=1) if bar.get_facecolor()[2] > 0.5
               and bar.get_facecolor()[0] < 0.3]  # fmt: skip
    assert colored == [4, 5, 6, 7, 8]


def test_vocabulary_figure_counts_words_and_lost_tokens():
    counts = [1, 1, 2, 3, 10, 83]  # 100 tokens
    zipf, kept, lost = viz.vocabulary_figure({"all": counts}, threshold=3, up_to=4).axes
    assert list(zipf.lines[0].get_ydata()) == sorted(counts, reverse=True)
    assert list(kept.lines[0].get_ydata()) == [6, 4, 3, 2]
    np.testing.assert_allclose(lost.lines[0].get_ydata(), [0, 2, 4, 7])
    assert {line.get_xdata()[0] for line in (kept.lines[1], lost.lines[1])} == {3}


@pytest.mark.parametrize("cut", [58, 98])
def test_lengths_figure_colors_exactly_the_reports_that_are_cut(cut):
    lengths = np.random.default_rng(0).integers(1, 260, size=500)
    (axis,) = viz.lengths_figure({"all": lengths}, cut=cut).axes
    red = to_rgb(viz.ORANGE)
    drawn = sum(bar.get_height() for bar in axis.patches if to_rgb(bar.get_facecolor()) == red)
    assert drawn == sum(length > cut for length in lengths)
    assert sum(_heights(axis)) == 500
    assert f"{100 * drawn / 500:.1f} % cut" in axis.get_title()


def test_heads_figure_greys_what_is_not_drawn():
    heads = pd.Series({"normal": 9, "opacity": 4})
    (axis,) = viz.heads_figure(heads, {"normal": False, "opacity": True}).axes
    assert [to_rgb(bar.get_facecolor()) for bar in axis.patches] == [
        to_rgb(viz.GREY),
        to_rgb(viz.BLUE),
    ]
    assert _texts(axis) == ["9", "4"]


@pytest.mark.parametrize("claim", [2.5, 0.2])
def test_normality_figure_shows_ratios_and_claim_whichever_is_larger(claim):
    ratios = pd.Series({"coded": 0.54, "written": 1.48})
    (axis,) = viz.normality_figure(ratios, claim).axes
    assert axis.collections[-1].get_offsets()[:, 0].tolist() == [0.54, 1.48]
    assert axis.lines[0].get_xdata()[0] == claim
    assert axis.get_xlim()[1] > max(claim, 1.48)


def test_redundancy_figure_accumulates_from_the_commonest_text():
    (axis,) = viz.redundancy_figure({"all": [1, 6, 1, 2]}).axes
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [60, 80, 90, 100])
    assert "40 distinct texts per 100 reports" in axis.get_legend().get_texts()[0].get_text()


def _audit():
    rows = [("ours", part, "counted", value) for part, value in (("train", 30.0), ("test", 31.0))]
    rows += [("theirs", "train", "recorded", np.nan), ("theirs", "test", "recorded", 52.0)]
    return pd.DataFrame(rows, columns=["protocol", "part", "source", "normal %"])


def test_splits_figure_marks_recorded_values_and_leaves_out_missing_ones():
    figure = viz.splits_figure(_audit(), ["normal %"])
    (axis,) = figure.axes
    points = [c for c in axis.collections if len(c.get_offsets())]
    drawn = [(c.get_offsets()[0][0], round(c.get_offsets()[0][1])) for c in points]
    assert drawn == [(30.0, 0), (31.0, 0), (52.0, 1)]
    filled = [to_rgb(c.get_facecolor()[0]) != (1, 1, 1) for c in points]
    assert filled == [True, True, False]
    names = _labels(figure.legends[0].get_texts())
    assert names == ["train", "validation", "test", "white: recorded, not counted here"]
    counted = viz.splits_figure(_audit().assign(source="counted"), ["normal %"])
    assert len(counted.legends[0].get_texts()) == 3


def test_every_marker_of_the_splits_figure_lies_inside_its_axes():
    audit = _audit()
    audit.loc[0, "normal %"] = 0.0
    figure = viz.splits_figure(audit, ["normal %"])
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    bottom, top = axis.get_ylim()
    for one in axis.collections:
        for x, y in one.get_offsets():
            assert low < x < high and top < y < bottom


def test_resplits_histogram_has_no_comb():
    values = 100 * np.arange(100, 160) / 590  # one re-split for each possible share
    (axis,) = viz.resplits_figure({"normal %": values}, {"normal %": 52.0}).axes
    heights = _heights(axis)
    assert sum(heights) == 60
    assert len(set(heights[:-1])) == 1  # equally frequent values, equally high bars
    assert axis.lines[0].get_xdata()[0] == 52.0


def test_resplits_of_one_value_can_be_drawn():
    (axis,) = viz.resplits_figure({"normal %": [40.0] * 5}, {"normal %": 52.0}).axes
    assert _heights(axis) == [5]


def test_coverage_figure_pairs_types_with_their_shares():
    types = pd.Series({"cardiomegaly": 5, "opacity": 3})
    left, right = viz.coverage_figure(types, [50.0, 90.0], [10.0, 60.0]).axes
    assert _labels(left.get_yticklabels()) == ["cardiomegaly", "opacity"]
    assert [line.get_ydata().tolist() for line in right.lines] == [[50, 90], [10, 60]]
    assert list(right.lines[0].get_xdata()) == [1, 2]


def test_provenance_bars_fill_each_row():
    table = pd.DataFrame(
        {"random": [1, 0], "code": [1, 3], "sentence": [2, 1]}, index=["nodule", "effusion"]
    )
    figure = viz.provenance_figure({"side": table, "place": table.iloc[:1]})
    side, place = figure.axes
    widths = np.array(_widths(side)).reshape(3, 2)  # code, sentence, random
    np.testing.assert_allclose(widths, [[25, 75], [50, 25], [25, 0]])
    ends = np.array([bar.get_x() + bar.get_width() for bar in side.patches]).reshape(3, 2)
    np.testing.assert_allclose(ends[-1], 100)
    assert _labels(figure.legends[0].get_texts()) == ["code", "sentence", "random"]
    assert _labels(place.get_yticklabels()) == ["nodule"]


EMPTY = (
    lambda: viz.funnel_figure(funnel(TOY).iloc[:0]),
    lambda: viz.sections_figure(pd.DataFrame([[0]]), {}),
    lambda: viz.views_figure(pd.Series(dtype=int), pd.Series({"a": 1})),
    lambda: viz.views_figure(pd.Series({"a": 1}), pd.Series(dtype=int)),
    lambda: viz.sentences_figure({"all": {}}),
    lambda: viz.vocabulary_figure({"all": []}),
    lambda: viz.lengths_figure({}),
    lambda: viz.heads_figure(pd.Series(dtype=int)),
    lambda: viz.normality_figure(pd.Series(dtype=float)),
    lambda: viz.redundancy_figure({"all": []}),
    lambda: viz.splits_figure(_audit().iloc[:0], ["normal %"]),
    lambda: viz.resplits_figure({"normal %": []}, {"normal %": 1.0}),
    lambda: viz.coverage_figure(pd.Series(dtype=int), [], []),
    lambda: viz.provenance_figure({}),
)


@pytest.mark.parametrize("draw", EMPTY)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(KitError, match="Nothing to draw"):
        draw()


def test_figures_stay_out_of_pyplot():
    """An open pyplot figure would be shown a second time at the end of a notebook cell."""
    before = plt.get_fignums()
    viz.normality_figure(pd.Series({"coded": 0.54}))
    viz.redundancy_figure({"all": [1, 2]})
    assert plt.get_fignums() == before


def test_recorded_audit_fits_the_published_split():
    parts = viz.RECORDED_R2GEN
    assert parts["studies"].to_dict() == {"train": 2069, "validation": 296, "test": 590}
    assert (parts["unique texts"] <= parts["studies"]).all()


@pytest.mark.data
def test_recorded_audit_equals_a_new_count():
    from r2genkit.corpora.openi import read_openi
    from r2genkit.corpora.splits import audit_split, make_split

    folder = paths.data_dir()
    if folder is None or not (Path(folder) / "annotation.json").is_file():
        pytest.skip("needs R2Gen's annotation.json in the folder named by R2GENKIT_DATA")
    studies = read_openi()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the blank key of the circulating file
        split = make_split("r2gen", studies, annotation=folder)
    counted = audit_split(split, studies).round(1)
    pd.testing.assert_frame_equal(
        counted[viz.RECORDED_R2GEN.columns], viz.RECORDED_R2GEN, check_dtype=False, atol=1e-9
    )
