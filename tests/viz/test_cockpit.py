"""The cockpit without a browser: its sums, its payload, its page, its figure."""

import dataclasses
import io
import itertools
import json

import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.viz.widgets.cockpit import (
    BASELINES,
    DOWN,
    PARTS,
    STILL,
    UP,
    CockpitData,
    CockpitDraw,
    CockpitReport,
    CockpitStudy,
    CockpitSystem,
    baseline_of,
    cockpit_figure,
    cockpit_html,
    cockpit_widget,
    draw_payload,
    mixed,
    payload,
    sign_of,
    smoothed,
    spread,
)
from r2genkit.viz.widgets.parts import FindingMark

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
EFFUSION = "pleural effusion"
TEXTS = ("small effusion .", "lungs are clear .", "no effusion .", "effusion effusion", "")


def film(seed, size=48):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, size)).astype(np.uint8)


def marks_of(words):
    return tuple(
        FindingMark(t, t + 1, EFFUSION, "negative" if t and words[t - 1] == "no" else "positive")
        for t, word in enumerate(words)
        if word == "effusion"
    )


def report(text, rng, ended=True):
    words = tuple(text.split())
    logs = -rng.exponential(1.5, len(words) + ended)
    rewards = dict(zip(PARTS, rng.uniform(0, 1, 3) * (2, 1, 1)))
    return CockpitReport(words, tuple(logs.tolist()), marks_of(words), rewards, (1, 0, 2))


def draw(seed=0, count=5, temperature=1.0):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(count, 7)) * rng.uniform(1, 9, (count, 1))
    return CockpitDraw(
        temperature=temperature,
        seed=seed,
        samples=tuple(report(TEXTS[i % len(TEXTS)], rng, i % 2 == 0) for i in range(count)),
        greedy=report("lungs are clear .", rng),
        gram=gradients @ gradients.T,
        diversity={"distinct reports": 0.8, "self-overlap": 0.1 * (seed % 9)},
    )


def log(length=20):
    steps = 5 * np.arange(1, length + 1)
    wave = np.sin(steps / 9)
    return {
        "step": steps.tolist(),
        "reward": (0.5 + 0.2 * wave).tolist(),
        "baseline": (0.5 + 0.2 * wave).tolist(),
        "distinct": np.linspace(1, 0.5, length).tolist(),
    }


def made(**options):
    systems = (
        CockpitSystem("before", "before", "Trained on references.", {}, {}),
        CockpitSystem("cider", "CIDEr-D", "Paid for CIDEr-D.", {"cider_d": 1.0}, log(), 4),
        CockpitSystem(
            "mixed",
            "CIDEr-D + findings",
            "Paid twice.",
            {"cider_d": 1.0, "finding_f1": 1.0},
            log(9),
        ),
    )
    studies = tuple(
        CockpitStudy(
            name,
            "one finding",
            (film(1), film(2)),
            ("frontal", "lateral"),
            ("effusion", "."),
            marks_of(("effusion", ".")),
        )
        for name in ("s1", "s2")
    )
    draws = {
        (study.id, system.key): draw(seed=10 * i + j)
        for i, study in enumerate(studies)
        for j, system in enumerate(systems)
    }
    content = {
        "title": "What is pushed",
        "systems": systems,
        "studies": studies,
        "draws": draws,
        "group": 4,
        "synthetic": True,
        "notes": ("Two studies.",),
    }
    return CockpitData(**content | options)


def answer(question):
    """As the kit's sampler answers, from made numbers."""
    if question["samples"] > 9:
        raise KitError("ask for at most 9 samples.")
    found = draw(question["seed"] + 50, question["samples"], question["temperature"])
    return {"draw": draw_payload(dataclasses.replace(found, seed=question["seed"]))}


# --- sums -----------------------------------------------------------------------------------------


def test_a_mix_is_the_sum_of_its_parts():
    one = draw()
    weights = {"cider_d": 0.5, "finding_f1": 2.0}
    want = [
        0.5 * sample.rewards["cider_d"] + 2.0 * sample.rewards["finding_f1"]
        for sample in one.samples
    ]
    assert mixed(one.parts(), weights) == pytest.approx(want)
    assert not mixed(one.parts(), {}).any()


def test_baselines():
    reward = np.array([1.0, 2.0, 6.0])
    assert baseline_of(reward, "none", 9.0).tolist() == [0, 0, 0]
    assert baseline_of(reward, "greedy", 9.0).tolist() == [9, 9, 9]
    assert baseline_of(reward, "leave_one_out", 9.0) == pytest.approx([4.0, 3.5, 1.5])
    with pytest.raises(KitError, match="no baseline 'mean': choose none, greedy, leave_one_out"):
        baseline_of(reward, "mean", 0.0)


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize(("count", "group"), [(3, 2), (3, 3), (4, 4), (2, 5)])
def test_the_spread_is_that_of_all_groups(kind, count, group):
    """Every group that can be drawn with replacement, each with its own gradient written out."""
    rng = np.random.default_rng(count + 10 * group)
    reward, gradients = rng.normal(size=count) + 1, rng.normal(size=(count, 5))
    greedy = 0.7
    estimates = []
    for rows in itertools.product(range(count), repeat=group):
        own = reward[list(rows)]
        if kind == "leave_one_out":
            base = [np.delete(own, place).mean() for place in range(group)]
        else:
            base = [greedy if kind == "greedy" else 0.0] * group
        each = [(r - b) * gradients[row] for r, b, row in zip(own, base, rows)]
        estimates.append(np.mean(each, axis=0))
    estimates = np.array(estimates)
    want = np.sqrt(((estimates - estimates.mean(0)) ** 2).sum(1).mean())
    got = spread(reward, gradients @ gradients.T, group, kind, greedy)
    assert got == pytest.approx(want, rel=1e-9)


def test_equal_rewards_have_no_spread_without_what_they_share():
    one = draw()
    same = np.full(5, 3.0)
    assert spread(same, one.gram, 4, "leave_one_out", 0.0) == pytest.approx(0, abs=1e-6)
    assert spread(same, one.gram, 4, "greedy", 3.0) == 0
    assert spread(same, one.gram, 4, "none", 3.0) > 1
    with pytest.raises(KitError, match="a group of 1 leaves no other"):
        spread(same, one.gram, 1, "none", 0.0)


def test_signs():
    assert [sign_of(value) for value in (0.3, -0.3, 0.0, 4e-4)] == [UP, DOWN, STILL, STILL]


def test_a_smooth_line_takes_the_mean_of_what_came_before():
    assert smoothed([1, 3, 5, 7], 2) == [1, 2, 4, 6]
    assert smoothed([1, 3], 10) == [1, 2]
    assert smoothed([], 3) == []


# --- bad data -------------------------------------------------------------------------------------


def changed(**options):
    return dataclasses.replace(draw(), **options)


def with_report(**options):
    first, *rest = draw().samples
    return changed(samples=(dataclasses.replace(first, **options), *rest))


CASES = {
    "1 samples have no baseline among themselves": lambda: changed(samples=draw().samples[:1]),
    r"the Gram matrix is \[3, 3\] and there are 5": lambda: changed(gram=np.eye(3)),
    "a report has the rewards cider_d: give cider_d, bleu4": lambda: with_report(
        rewards={"cider_d": 1.0}
    ),
    "1 log-probabilities for 3 words": lambda: with_report(log_probs=(-1.0,)),
    "above 0 or missing": lambda: with_report(log_probs=(-1.0, 0.5, -1.0)),
    "missing: take them": lambda: with_report(log_probs=(-1.0, float("nan"), -1.0)),
    "needs at least one study": lambda: made(studies=()),
    "models with different keys": lambda: made(systems=made().systems[:1] * 2),
    "a group of 1 leaves": lambda: made(group=1),
    "study s3 and model before do not have one draw": lambda: made(
        studies=(*made().studies, dataclasses.replace(made().studies[0], id="s3"))
    ),
    "needs at least one view": lambda: made(
        studies=tuple(dataclasses.replace(study, views=()) for study in made().studies)
    ),
    "the timeline of before needs its steps": lambda: made(
        systems=(
            dataclasses.replace(made().systems[0], timeline={"reward": [1.0]}),
            *made().systems[1:],
        )
    ),
    "as many numbers of each kind": lambda: made(
        systems=(
            dataclasses.replace(made().systems[0], timeline={"step": [1, 2], "reward": [1.0]}),
            *made().systems[1:],
        )
    ),
    "before is paid luck: known": lambda: made(
        systems=(dataclasses.replace(made().systems[0], weights={"luck": 1}), *made().systems[1:])
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", CASES)
def test_parts_that_do_not_belong_together(message):
    with pytest.raises(KitError, match=message) as told:
        CASES[message]()
    assert "\n" not in str(told.value)


# --- payload, page, widget ------------------------------------------------------------------------


def test_payload_holds_what_the_data_hold():
    data = made()
    sent = json.loads(json.dumps(payload(data)))
    assert [part["key"] for part in sent["parts"]] == list(PARTS)
    assert [one["key"] for one in sent["baselines"]] == list(BASELINES)
    assert [one["weights"] for one in sent["systems"]] == [[0, 0, 0], [1, 0, 0], [1, 0, 1]]
    timeline = sent["systems"][1]["timeline"]
    assert timeline["reward"]["raw"] == pytest.approx(log()["reward"], abs=1e-5)
    assert timeline["reward"]["smooth"][7] == pytest.approx(np.mean(log()["reward"][4:8]), abs=1e-5)
    assert sent["systems"][0]["timeline"] == {}
    for study in sent["studies"]:
        for key, got in study["draws"].items():
            own = data.draws[study["id"], key]
            assert np.array(got["gram"]) == pytest.approx(own.gram, rel=1e-5, abs=1e-5)
            assert [one["rewards"] for one in got["samples"]] == [
                pytest.approx(list(row), abs=1e-5) for row in own.parts()
            ]
            for one, sample in zip(got["samples"], own.samples):
                assert one["logs"] == pytest.approx(sample.log_probs, abs=1e-3)
                assert tuple(one["words"]) == sample.words


def hostile():
    word = HOSTILE.replace(" ", "")
    data = made()
    mark = FindingMark(0, 1, HOSTILE, "positive")

    def infected(one):
        logs = (-1.0, -2.0, -3.0)
        return dataclasses.replace(one, words=(word, "."), log_probs=logs, marks=(mark,))

    draws = {
        key: dataclasses.replace(
            own,
            samples=tuple(infected(one) for one in own.samples),
            greedy=infected(own.greedy),
            diversity={HOSTILE: 0.5},
        )
        for key, own in data.draws.items()
    }
    studies = tuple(
        dataclasses.replace(
            study, stratum=HOSTILE, view_names=(HOSTILE, "b"), words=(word,), marks=(mark,)
        )
        for study in data.studies
    )
    systems = tuple(
        dataclasses.replace(system, name=HOSTILE, about=HOSTILE) for system in data.systems
    )
    return made(
        title=HOSTILE, systems=systems, studies=studies, draws=draws, notes=(HOSTILE,)
    )  # fmt: skip


def test_hostile_texts_stay_texts():
    page = cockpit_html(hostile())
    assert HOSTILE not in page and "<img" not in page
    assert page.count("<script") == 2


def test_a_page_without_script_still_holds_the_reports():
    page = cockpit_html(made())
    noscript = page[page.index("<noscript>") : page.index("</noscript>")]
    assert "small effusion ." in noscript and "s2, CIDEr-D: sample 4" in noscript


def test_the_widget_draws_again():
    widget = cockpit_widget(made(), answer)
    assert widget.data == payload(made()) and widget.answers
    question = {"study": "s1", "system": "cider", "samples": 3, "temperature": 0.5, "seed": 4}
    widget.question = {**question, "number": 2}
    assert widget.answer["number"] == 2
    got = widget.answer["draw"]
    assert (len(got["samples"]), got["temperature"], got["seed"]) == (3, 0.5, 4)
    widget.question = {**question, "samples": 10, "number": 3}
    assert widget.answer == {"error": "ask for at most 9 samples.", "number": 3}
    assert not cockpit_widget(made()).answers


# --- figure ---------------------------------------------------------------------------------------


def test_the_figure_shows_reward_advantage_and_words():
    data = made()
    weights = {"cider_d": 1.0, "bleu4": 0.5}
    figure = cockpit_figure(data, 1, [0, 2], weights=weights, baseline="greedy", samples=3)
    told = [text.get_text() for text in figure.texts]
    assert "reward: 1 CIDEr-D + 0.5 BLEU-4; baseline: greedy report" in told
    assert "synthetic phantom images" in told
    bars = [text.get_text().strip() for axis in figure.axes for text in axis.texts]
    want = []
    for place in (0, 2):
        own = data.draw(1, place)
        reward = mixed(own.parts(), weights)
        greedy = sum(own.greedy.rewards[name] * weight for name, weight in weights.items())
        assert f"greedy: reward {greedy:.2f}" in told
        for number in range(3):
            assert f"sample {number + 1}: reward {reward[number]:.2f}" in told
            advantage = reward[number] - greedy
            want.append(f"{UP if advantage > 0 else DOWN} {advantage:+.2f}")
    assert bars == want
    # The tint of a word follows its log-probability.
    first = data.draw(1, 0).samples[0]
    boxes = [text for text in figure.texts if text.get_bbox_patch() is not None]
    greedy_words = len(data.draw(1, 0).greedy.words)
    shown = boxes[greedy_words : greedy_words + len(first.words)]
    assert [text.get_text() for text in shown] == list(first.words)
    alphas = [text.get_bbox_patch().get_facecolor()[3] for text in shown]
    assert alphas == pytest.approx([0.55 * min(1, -v / 5) for v in first.log_probs[:3]])


def test_the_figure_of_one_model_without_a_log():
    data = made()
    alone = made(
        systems=data.systems[:1],
        draws={key: own for key, own in data.draws.items() if key[1] == "before"},
    )
    figure = cockpit_figure(alone)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert any(
        text.get_text() == "no log of training by reward"
        for axis in figure.axes
        for text in axis.texts
    )
    assert "(empty)" in [text.get_text() for text in cockpit_figure(data).texts]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": 2}, "there is no study 2: the cockpit has 2"),
        ({"systems": [0, 1, 2]}, "choose one or two of the 3"),
        ({"systems": [3]}, "choose one or two of the 3"),
        ({"samples": 0}, "at least one sample"),
        ({"weights": {"luck": 1}}, "rewards among cider_d"),
        ({"baseline": "luck"}, "no baseline 'luck'"),
    ],
)
def test_the_figure_says_what_it_cannot_draw(options, message):
    with pytest.raises(KitError, match=message):
        cockpit_figure(made(), **options)
