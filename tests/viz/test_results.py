import matplotlib.pyplot as plt
import pytest

from r2genkit.experiments.results import make_row
from r2genkit.metrics import ALL_METRICS
from r2genkit.viz.results import BASELINE, MODEL, history_figure, image_use_figure, score_figure
from tests.rows import row_content


def row(value, **changes):
    scores = {
        name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name in ALL_METRICS
    }
    return make_row(row_content(**{"metrics": scores, **changes}))


@pytest.fixture
def rows():
    swap = {name: {"value": 0.05} for name in ALL_METRICS}
    return [
        row(0.4, run="02_constant", title="constant", kind="baseline", order=10),
        row(0.6, title="model", swap=swap),
    ]


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(plt.Text))


def test_scores_stand_at_their_values_with_baselines_in_grey(rows):
    figure = score_figure(rows, metrics=("BLEU-4", "finding-F1"))
    for axis in figure.axes:
        points = [line for line in axis.lines if line.get_marker() == "o"]
        assert [(float(p.get_xdata()[0]), p.get_color()) for p in points] == [
            (0.4, BASELINE),
            (0.6, MODEL),
        ]
        heights = [float(p.get_ydata()[0]) for p in points]
        assert heights[0] > heights[1]  # baselines on top
    assert "synthetic" in texts(figure)


def test_seeds_of_a_run_share_a_line_and_keep_a_stroke_each():
    swaps = [{name: {"value": v} for name in ALL_METRICS} for v in (0.1, 0.3)]
    rows = [row(v, seed=i, swap=swaps[i]) for i, v in enumerate((0.4, 0.8))]
    (axis,) = score_figure(rows, metrics=("CIDEr",)).axes
    point, strokes = ([x for x in axis.lines if x.get_marker() == m] for m in ("o", "|"))
    assert point[0].get_xdata().tolist() == pytest.approx([0.6])
    assert strokes[-1].get_xdata().tolist() == [0.4, 0.8]
    assert len(axis.get_yticklabels()) == 1
    (axis,) = image_use_figure(rows).axes
    drawn = sorted(float(c.get_offsets()[0][0]) for c in axis.collections)
    assert drawn == pytest.approx([0.2, 0.6])


def test_real_rows_are_not_tagged_synthetic(rows):
    real = [row(0.4, corpus="openi", synthetic=False)]
    assert "synthetic" not in texts(score_figure(real))


def test_a_metric_that_did_not_run_is_written_not_drawn():
    scores = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in ALL_METRICS}
    scores["METEOR"] = {"value": None, "reason": "no Java"}
    figure = score_figure([row(0.5, metrics=scores)], metrics=("METEOR",))
    assert "not run" in texts(figure)


def test_rows_of_two_tables_are_refused(rows):
    with pytest.raises(ValueError, match="2 tables"):
        score_figure([*rows, row(0.1, corpus="openi", synthetic=False)])


def test_image_use_shows_own_and_swapped_value(rows):
    figure = image_use_figure(rows)
    (axis,) = figure.axes
    drawn = sorted(float(c.get_offsets()[0][0]) for c in axis.collections)
    assert drawn == [0.05, 0.6]  # the baseline has no images to swap
    assert axis.get_yticklabels()[0].get_text() == "model"


def test_history_keeps_epochs_without_validation_apart():
    history = [
        {"epoch": 1, "train": {"loss": 3.0}},
        {"epoch": 2, "train": {"loss": 2.0}, "validation": {"BLEU-4": 0.1}},
    ]
    figure = history_figure({"a": history}, ["train/loss", "validation/BLEU-4"], synthetic=True)
    loss, bleu = (axis.lines[0] for axis in figure.axes)
    assert loss.get_xydata().tolist() == [[1.0, 3.0], [2.0, 2.0]]
    assert bleu.get_xydata().tolist() == [[2.0, 0.1]]


def test_figures_belong_to_the_caller_alone(rows):
    before = plt.get_fignums()
    score_figure(rows)
    image_use_figure(rows)
    assert plt.get_fignums() == before
