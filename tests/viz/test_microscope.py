"""The microscope's numbers, payload, page, widget and static twin, of made data: no model."""

import base64
import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.viz.widgets.microscope import (
    BEGIN,
    CROP,
    FRONT,
    RARE,
    Crop,
    MicroscopeData,
    Readings,
    Rewriting,
    SlotCard,
    SlotUse,
    Trial,
    changed_share,
    changes,
    covered,
    finding_changes,
    meeting,
    microscope_figure,
    microscope_html,
    microscope_widget,
    payload,
    shared,
    shuffled,
    starting_word,
    trial_payload,
    trial_sentence,
)
from r2genkit.viz.widgets.parts import FindingMark

HEADS, CHOSEN, SLOTS, GRID, VIEWS = 2, 3, 12, 4, 2
WORDS = ("small", "effusion", ".", "no", "pneumothorax", ".")
MARKS = (
    FindingMark(1, 2, "effusion", "positive"),
    FindingMark(4, 5, "pneumothorax", "negative", (3,)),
)


def film(seed):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(120, 40, (64, 64)), 0, 255).astype(np.uint8)


def made_reads(*shape, seed=0, slots=SLOTS - 2):
    """Random readings; the last two slots of the memory are read by nobody."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(*shape, HEADS, slots))
    best = np.argsort(-scores, -1)[..., :CHOSEN]
    weights = np.exp(2 * np.take_along_axis(scores, best, -1))
    return Readings(best.astype(np.int32), weights / weights.sum(-1, keepdims=True))


def made_use():
    rng = np.random.default_rng(5)
    patches, words = rng.random((2, HEADS, SLOTS))
    patches[:, -2:] = words[:, -2:] = 0
    patches[0, 0] = words[0, 0] = 0  # dead in head 1 alone
    patches, words = (side / side.sum(1, keepdims=True) for side in (patches, words))
    crop = Crop("s1/0/3", film(9)[:30, :30], "s1, effusion", True)
    other = Crop("s2/1/0", film(8)[:CROP, :CROP], "s2")
    cards = {
        (1, 0): SlotCard((("heart", 4.0), ("size", 2.0)), ((crop, 0.5), (other, 0.25))),
        (0, 3): SlotCard((), ((crop, 0.75),)),
    }
    return SlotUse(patches, words, 40, cards)


def rewriting(words, slots=(1, 2), about="2 slots", findings=(), held=(0.25, 0.5)):
    return Rewriting(about, slots, tuple(words), tuple(findings), held, 0.5)


def made(**options):
    readers = len(WORDS) + 1
    word_reads, patch_reads = made_reads(readers, seed=1), made_reads(VIEWS, GRID**2, seed=2)
    own = shared(word_reads, patch_reads, SLOTS)
    rng = np.random.default_rng(3)
    mask = np.zeros((VIEWS, 64, 64), dtype=bool)
    mask[0, :32, 16:32] = True
    trial = Trial(
        rewriting(WORDS[:3], findings=MARKS[:1], about="two slots"),
        (rewriting(WORDS, about="as many others"),),
    )
    return MicroscopeData(
        **{
            "title": "Memory microscope",
            "system": "reader",
            "views": (film(0), film(1)),
            "view_names": ("frontal", "lateral"),
            "grid": (GRID, GRID),
            "words": WORDS,
            "word_reads": word_reads,
            "patch_reads": patch_reads,
            "use": made_use(),
            "elsewhere": (own * 0.9).astype(np.float32),
            "reached": rng.random(own.shape),
            "usual": np.tile([0, 3], (*own.shape[:2], 1)),
            "other_studies": 20,
            "findings": MARKS,
            "masks": {"effusion": mask},
            "probability": 0.6,
            "trials": (trial,),
            "synthetic": True,
        }
        | options
    )


def plain_shared(words, patches):
    """Slot by slot, reader by reader."""
    total = np.zeros((len(words.slots), HEADS + 1, *patches.slots.shape[:2]))
    for t, head, v, s in np.ndindex(len(words.slots), HEADS, *patches.slots.shape[:2]):
        ours = dict(zip(words.slots[t, head].tolist(), words.weights[t, head]))
        theirs = dict(zip(patches.slots[v, s, head].tolist(), patches.weights[v, s, head]))
        total[t, head + 1, v, s] = sum(min(w, theirs.get(slot, 0)) for slot, w in ours.items())
    total[:, 0] = total[:, 1:].mean(1)
    return total


def test_shared_reading_is_the_plain_count():
    words, patches = made_reads(5, seed=1), made_reads(VIEWS, GRID**2, seed=2)
    found = shared(words, patches, SLOTS)
    assert found.shape == (5, HEADS + 1, VIEWS, GRID**2)
    np.testing.assert_allclose(found, plain_shared(words, patches), atol=1e-6)
    same = shared(words, Readings(words.slots[None], words.weights[None]), SLOTS)
    np.testing.assert_allclose(same[np.arange(5), :, 0, np.arange(5)], 1, atol=1e-6)


def test_shuffled_is_the_mean_over_all_placements_among_slots_that_are_read():
    """Every way to put the word's slots on the slots that somebody reads, one after the other."""
    words, patches = made_reads(2, seed=1, slots=5), made_reads(1, 3, seed=2, slots=5)
    weight = np.zeros((HEADS, SLOTS))
    weight[:, :5] = 0.2
    use = SlotUse(weight, weight, 1)
    total = []
    for places in itertools.permutations(range(5)):
        moved = Readings(np.array(places, dtype=np.int32)[words.slots], words.weights)
        total.append(plain_shared(moved, patches))
    np.testing.assert_allclose(shuffled(words, patches, use), np.mean(total, 0), atol=1e-6)


def test_patches_of_a_mask_hold_a_tenth_of_it_or_the_most():
    mask = np.zeros((2, 40, 40), dtype=bool)
    mask[0, :10, :11] = True  # all of patch 0, a tenth of patch 1
    mask[1, 25, 39] = True  # a speck: no other patch holds more
    found = covered(mask, (4, 4))
    assert np.flatnonzero(found[0]).tolist() == [0, 1]
    assert np.flatnonzero(found[1]).tolist() == [11]
    mask[0, :10, 10] = False
    assert np.flatnonzero(covered(mask, (4, 4))[0]).tolist() == [0]


def test_meeting_sets_a_finding_beside_other_studies_and_other_patches():
    data = made()
    found = meeting(data)
    np.testing.assert_allclose(
        found.own, plain_shared(data.word_reads, data.patch_reads), atol=1e-6
    )
    here = np.zeros((VIEWS, GRID**2), dtype=bool)
    here[0, [1, 5]] = True
    values = found.of_findings["effusion"]
    np.testing.assert_allclose(values[2, 1, 0], found.own[2, 1][here].mean(), rtol=1e-5)
    np.testing.assert_allclose(values[2, 1, 1], 0.9 * found.own[2, 1][here].mean(), rtol=1e-5)
    np.testing.assert_allclose(values[2, 1, 2], found.own[2, 1][~here].mean(), rtol=1e-5)
    assert found.rare[2, 1] == (data.reached[2, 1] < RARE).sum()
    nothing = made(masks={"none": np.zeros((VIEWS, 64, 64), dtype=bool)})
    assert not meeting(nothing).of_findings


def test_dead_slots_and_order_of_use():
    use = made_use()
    assert np.flatnonzero(use.dead).tolist() == [10, 11]
    assert not use.read[0, 0] and use.read[1, 0]
    total = (use.patches + use.words).sum(0)
    assert (np.diff(total[use.order]) <= 0).all() and set(use.order[-2:]) == {10, 11}


def test_changes_mark_both_sides():
    old, new = list("abcd"), list("axcde")
    assert changes(old, new) == ([False, True, False, False], [False, True, False, False, True])
    assert changed_share(old, new) == 3 / 9
    assert changed_share([], []) == 0 and changed_share(old, []) == 1
    lost, gained = finding_changes(MARKS, (FindingMark(0, 1, "effusion", "negative"), MARKS[1]))
    assert (lost, gained) == ([("effusion", "positive")], [("effusion", "negative")])


@pytest.mark.parametrize(
    ("own", "others", "told"),
    [
        (WORDS, [WORDS[:2]], "Nothing hangs on these slots alone."),
        (WORDS[:2], [WORDS[:2], WORDS], "No more than without others"),
        (WORDS[:2], [WORDS[:4], WORDS], "any of these, though some were read as much"),
        (WORDS[:2], [], "There is no comparison"),
    ],
)
def test_a_trial_is_told_with_its_comparison(own, others, told):
    trial = Trial(rewriting(own), tuple(map(rewriting, others)), "There is no comparison: too few.")
    text = trial_sentence(trial, WORDS)
    assert told in text and text.startswith("Without 2 slots ")
    assert f"{changed_share(WORDS, own):.0%} of the words change" in text
    assert "25% of the reading of this study's patches and 50% of its words'" in text
    assert all(f"{changed_share(WORDS, other):.0%}" in text for other in others)
    assert not others or "which held 38% to 38% of both" in text


def test_a_set_that_is_read_more_is_not_called_special():
    others = (rewriting(WORDS, held=(0.1, 0.2)), rewriting(WORDS[:5], held=(0.2, 0.2)))
    text = trial_sentence(Trial(rewriting(WORDS[:2]), others), WORDS)
    assert "which held 15% to 20% of both" in text
    assert text.endswith("more is lost with them, or they are read more.")


def numbers(text, kind="u1"):
    return np.frombuffer(base64.b64decode(text), kind)


def test_payload_holds_the_readings_the_maps_and_every_rare_patch():
    data = made()
    found, content = meeting(data), payload(data)
    readers, layers = len(WORDS) + 1, HEADS + 1
    assert content["readers"] == [BEGIN, *WORDS] and content["heads"] == HEADS
    for side, reads in (("words", data.word_reads), ("patches", data.patch_reads)):
        assert (numbers(content["reads"][side]["slots"], "<u2") == reads.slots.ravel()).all()
        weights = numbers(content["reads"][side]["weights"], "<u2") / 65535
        np.testing.assert_allclose(weights, reads.weights.ravel(), atol=1e-5)
    for name, values in (("own", found.own), ("chance", found.chance), ("reached", data.reached)):
        np.testing.assert_allclose(
            numbers(content["maps"][name]) / 255, np.ravel(values), atol=0.5 / 255 + 1e-6
        )
    rows = data.reached.reshape(readers * layers, -1)
    assert content["rare_patches"] == [np.flatnonzero(row < RARE).tolist() for row in rows]
    own, chance, elsewhere = content["means"][2 * layers + 1]
    assert own == pytest.approx(found.own[2, 1].mean(), abs=1e-5)
    assert chance == pytest.approx(found.chance[2, 1].mean(), abs=1e-5)
    assert elsewhere == pytest.approx(0.9 * own, abs=1e-4)
    assert content["top"][layers] == pytest.approx(found.own[1, 0].max(), rel=1e-6)
    use = content["use"]
    assert use["dead"] == [10, 11] and use["order"][-2:] == [10, 11]
    np.testing.assert_allclose(use["words"][0], data.use.words.mean(0), atol=1e-6)
    levels = numbers(use["levels"]).reshape(2, layers, SLOTS)
    assert levels[:, 0].max() == 255 and (levels[:, :, -2:] == 0).all() and levels[0, 1, 0] == 0
    assert "synthetic" in content["synthetic"] and payload(made(synthetic=False))["synthetic"] == ""


def test_a_crop_that_two_slots_share_travels_once():
    content = payload(made())
    sheet = content["sheet"]
    assert sheet["captions"] == ["s1, effusion", "s2"] and sheet["covered"] == [True, False]
    assert content["cards"]["1/0"] == {
        "words": [["heart", 4.0], ["size", 2.0]], "crops": [[0, 0.5], [1, 0.25]],
    }  # fmt: skip
    assert content["cards"]["0/3"]["crops"] == [[0, 0.75]]
    image = Image.open(io.BytesIO(base64.b64decode(sheet["image"].split(",")[1])))
    assert image.size == (2 * CROP, CROP)
    second = np.asarray(image)[:, CROP:].astype(float)
    assert np.abs(second - film(8)[:CROP, :CROP]).mean() < 12  # JPEG
    bare = made_use()
    assert payload(made(use=SlotUse(bare.patches, bare.words, 1)))["sheet"]["image"] == ""


def test_trial_payload_says_what_changed():
    (trial,) = made().trials
    content = trial_payload(trial, WORDS, MARKS)
    one = content["rewriting"]
    assert one["old_changed"] == [False] * 3 + [True] * 3 and one["new_changed"] == [False] * 3
    assert one["lost"] == [["pneumothorax", "negative"]] and one["gained"] == []
    assert one["changed"] == pytest.approx(3 / 9) and content["others"][0]["changed"] == 0
    assert content["sentence"] == trial_sentence(trial, WORDS)


def test_page_is_self_contained_and_escapes():
    hostile = "</script><script>alert(1)</script>"
    page = microscope_html(made(title=hostile, words=(hostile, *WORDS[1:])))
    assert page.count("<script") == 2 and "alert(1)</script>" not in page.split("<script id")[1]
    assert "http://" not in FRONT.script.replace("http://www.w3.org/2000/svg", "")
    assert "fetch(" not in FRONT.script and "innerHTML" not in FRONT.script


def test_widget_asks_what_it_is_given():
    asked = []

    def answer(question):
        asked.append(question)
        return {"sentence": "done"}

    widget = microscope_widget(made(), answer)
    assert widget.answers and widget.data["slots"] == SLOTS
    widget.question = {"without": [3], "number": 1}
    assert asked == [{"without": [3]}] and widget.answer == {"sentence": "done", "number": 1}
    assert not microscope_widget(made()).answers


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def test_figure_shows_the_same_numbers():
    data = made()
    found = meeting(data)
    row = 1 + WORDS.index("effusion")
    assert starting_word(data) == row
    figure = microscope_figure(data)
    shown = "\n".join(texts(figure))
    assert "“effusion”" in shown and "synthetic phantom images" in shown
    assert f"this study: {found.own[row, 0].mean():.1%} on average" in shown
    assert f"same places, 20 other studies: {data.elsewhere[row, 0].mean():.1%}" in shown
    assert "(usual: 0 to 3)" in shown and "2 dead" in shown
    maps = [image.get_array() for image in figure.findobj(plt.matplotlib.image.AxesImage)]
    heats = [np.asarray(m) for m in maps if m.shape == (GRID, GRID)]
    np.testing.assert_allclose(heats[0].ravel(), found.own[row, 0, 0])
    np.testing.assert_allclose(heats[2].ravel(), data.elsewhere[row, 0, 0])
    np.testing.assert_allclose(
        heats[5].ravel(), found.own[row, 0, 1] - data.elsewhere[row, 0, 1], atol=1e-6
    )
    lines = [line for axis in figure.findobj(plt.Axes) for line in axis.get_lines()]
    curves = {line.get_label(): line.get_ydata() for line in lines}
    np.testing.assert_allclose(curves["shuffled slots"], found.chance[:, 0].mean((1, 2)), rtol=1e-6)
    assert "33%" in shown  # of the words, in the trial
    other = "\n".join(texts(microscope_figure(data, "pneumothorax", trials=())))
    assert "“pneumothorax”" in other and "Without slots" not in other
    with pytest.raises(KitError, match="no word 'heart'"):
        microscope_figure(data, "heart")


def test_data_that_do_not_belong_together_are_refused():
    data = made()
    reads = data.word_reads
    with pytest.raises(KitError, match="sum to 1"):
        Readings(reads.slots, reads.weights * 2)
    with pytest.raises(KitError, match="slots as integers"):
        Readings(reads.slots.astype(float), reads.weights)
    with pytest.raises(KitError, match=r"words read \[6, 2, 3\]; expected \[7, 2, k\]"):
        made(word_reads=Readings(reads.slots[:-1], reads.weights[:-1]))
    with pytest.raises(KitError, match="patches read"):
        made(grid=(GRID, GRID + 1))
    with pytest.raises(KitError, match="12 slots do not have"):
        made(word_reads=Readings(reads.slots + SLOTS, reads.weights))
    with pytest.raises(KitError, match="elsewhere is"):
        made(elsewhere=np.asarray(data.elsewhere)[:, :1])
    with pytest.raises(KitError, match=r"reached is .* values in 0 to 1"):
        made(reached=np.full_like(data.reached, np.nan))
    with pytest.raises(KitError, match="usual is"):
        made(usual=np.zeros(3))
    with pytest.raises(KitError, match="report is empty"):
        made(words=())
    with pytest.raises(KitError, match="mask 'm'"):
        made(masks={"m": np.zeros((1, 64, 64), bool)})
    with pytest.raises(KitError, match="does not fit the 6 words"):
        made(findings=(FindingMark(5, 9, "x", "positive"),))
    with pytest.raises(KitError, match="names for 2 views"):
        made(view_names=("frontal",))
    with pytest.raises(KitError, match="no grey image"):
        made(views=(film(0), film(1).astype(float)))
    with pytest.raises(KitError, match="card of head 2"):
        SlotUse(data.use.patches, data.use.words, 1, {(2, 0): SlotCard()})
    with pytest.raises(KitError, match=r"both be \[heads, slots\]"):
        SlotUse(data.use.patches, data.use.words[:1], 1)


def test_no_torch_is_loaded():
    code = "import sys, r2genkit.viz.widgets.microscope; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
