import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from r2genkit.teaching import check_exercise, check_shape, environment_stamp, save_figure


def test_a_right_answer_gets_a_tick_and_a_wrong_one_expected_versus_got(capsys):
    assert check_exercise(lambda x: x * 2, lambda x: x + x, [(1,), (2.5,), (np.ones(3),)])
    assert "✓" in capsys.readouterr().out

    def doubled(x):
        return x * 3

    assert not check_exercise(doubled, lambda x: x * 2, [(torch.ones(2, 2),)])
    printed = capsys.readouterr().out
    assert "✗ doubled(Tensor of shape (2, 2)" in printed
    assert "expected" in printed and "2." in printed and "3." in printed


@pytest.mark.parametrize(
    ("attempt", "answer"),
    [
        (lambda: torch.ones(3), lambda: torch.ones(2)),  # other shape
        (lambda: 0.5 + 1e-3, lambda: 0.5),  # outside the tolerance
        (lambda: [1, 2], lambda: (1, 2)),  # other type
        (lambda: 1 / 0, lambda: 1.0),  # raises
        (lambda: None, lambda: "text"),
    ],
)
def test_wrong_answers_never_stop_a_batch_run(attempt, answer, capsys):
    assert check_exercise(attempt, answer, [()]) is False
    assert capsys.readouterr().out.startswith("✗")


def test_numbers_within_the_tolerance_pass():
    assert check_exercise(lambda: 0.5 + 1e-9, lambda: 0.5, [()])
    assert check_exercise(lambda: 1, lambda: 1.0, [()])


def test_shapes_are_enforced():
    check_shape(torch.zeros(2, 3), (2, 3))
    with pytest.raises(AssertionError, match=r"\(2, 4\).*\(2, 3\)"):
        check_shape(torch.zeros(2, 3), (2, 4))


def test_the_same_figure_is_the_same_file(monkeypatch, tmp_path):
    monkeypatch.setenv("R2GENKIT_FIGURES", str(tmp_path))
    contents = []
    for _ in range(2):
        figure, axis = plt.subplots()
        axis.plot([1, 2, 3])
        contents.append(save_figure(figure, "99_line", "lab").read_bytes())
        plt.close(figure)
    assert contents[0] == contents[1]
    assert [path.name for path in tmp_path.iterdir()] == ["99_line.png"]


def test_the_stamp_says_what_is_synthetic(capsys):
    environment_stamp("smoke", "phantom", 3)
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed and "seed: 3" in printed and "torch" in printed
    environment_stamp("smoke", "openi", 3)
    assert "SYNTHETIC" not in capsys.readouterr().out
