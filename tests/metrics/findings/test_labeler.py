"""Phrases, negation, doubt, aggregation: rule by rule on made-up sentences."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from r2genkit.corpora.mesh import FINDING_TYPES
from r2genkit.errors import KitError
from r2genkit.metrics.findings import (
    ABSENT,
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    FindingLabeler,
    default_labeler,
    label_matrix,
)
from r2genkit.metrics.findings.labeler import PHRASES_FILE
from r2genkit.metrics.findings.phrases import compile_phrase

LABELER = default_labeler()


@pytest.mark.parametrize(
    ("phrase", "hits", "misses"),
    [
        ("effusion", ["effusion", "an effusion here"], ["effusions", "noneffusion"]),
        ("calcif*", ["calcified", "calcification x"], ["recalcified"]),
        ("large|small mass", ["a small mass"], ["small round mass", "large"]),
        ("heart ~2 large", ["heart large", "heart is very large"], ["heart is not very large"]),
        ("acute? disease", ["disease", "acute disease"], ["acute"]),
        (
            "no big|new?2 mass",
            ["no mass", "no new big mass"],
            ["no old mass", "no big big new mass"],
        ),
    ],
)
def test_phrase_language(phrase, hits, misses):
    compiled = compile_phrase(phrase)
    for sentence in hits:
        match = compiled.pattern.search(f" {sentence} ")
        assert match, sentence
        words = match.group().split()
        assert any(
            word == anchor or (anchor.endswith("*") and word.startswith(anchor[:-1]))
            for word in words
            for anchor in compiled.anchors
        )
    for sentence in misses:
        assert not compiled.pattern.search(f" {sentence} "), sentence


def test_gaps_stop_at_breaks():
    compiled = compile_phrase("calcified ~4 nodule", ("but", "no"))
    assert compiled.pattern.search(" calcified and noted nodule ")  # whole words only
    assert not compiled.pattern.search(" calcified granuloma but nodule ")
    assert not compiled.pattern.search(" calcified no nodule ")
    assert compile_phrase("heart ~2 no enlargement", ("no",)).pattern.search(
        " heart has no enlargement "
    )


@pytest.mark.parametrize("phrase", ["", "~2 heart", "heart ~2", "heart?", "a|", "t-spine", "b(c"])
def test_bad_phrases_are_refused(phrase):
    with pytest.raises(KitError):
        compile_phrase(phrase)


CASES = [
    # plain mentions, one per type
    ("Mild degenerative changes of the thoracic spine.", {"degen_spine": "positive"}),
    ("Degenerative changes of the left shoulder.", {"degen_spine": None, "other": "positive"}),
    ("The heart is mildly enlarged.", {"cardiomegaly": "positive"}),
    ("Calcified granuloma in the left lung.", {"calc_granuloma": "positive", "nodule": None}),
    ("Patchy opacity in the lingula.", {"opacity": "positive", "consolidation": None}),
    ("Streaky bibasilar opacities.", {"atelectasis": "positive", "opacity": None}),
    ("Low lung volumes.", {"hypoinflation": "positive"}),
    ("Flattened diaphragms.", {"hyperinflation": "positive"}),
    ("Prominent interstitial markings.", {"interstitial": "positive"}),
    ("Tortuous aorta.", {"tortuous_aorta": "positive"}),
    ("The thoracic aorta is calcified.", {"aortic_calc": "positive", "calc_node": None}),
    ("A 1.7 cm nodule in the right apex.", {"nodule": "positive"}),
    ("Blunting of the left costophrenic angle.", {"effusion": "positive"}),
    ("Right lower lobe infiltrate.", {"consolidation": "positive"}),
    ("Biapical scarring.", {"scar": "positive"}),
    ("Calcified hilar lymph nodes.", {"calc_node": "positive", "calc_granuloma": None}),
    ("Right IJ catheter tip in the SVC.", {"catheter": "positive"}),
    ("Elevated right hemidiaphragm.", {"elev_diaphragm": "positive"}),
    ("Surgical clips in the axilla.", {"clips": "positive"}),
    ("Mild pulmonary edema.", {"congestion": "positive"}),
    ("Thoracic scoliosis.", {"scoliosis": "positive"}),
    ("Left chest pacemaker.", {"pacemaker": "positive"}),
    ("Healed left rib fractures.", {"rib_fracture": "positive", "wedge_fracture": None}),
    ("Compression fracture of T12.", {"wedge_fracture": "positive", "rib_fracture": None}),
    ("Apical pleural thickening.", {"pleural_thick": "positive"}),
    ("Large hiatal hernia.", {"hiatal_hernia": "positive", "cardiomegaly": None}),
    ("Prominent left hilum.", {"hilar_prominence": "positive"}),
    ("The bones are osteopenic.", {"osteopenia": "positive"}),
    ("Exaggerated thoracic kyphosis.", {"kyphosis": "positive"}),
    ("Endotracheal tube in place.", {"tube": "positive"}),
    ("Widened mediastinum.", {"wide_mediastinum": "positive"}),
    ("Small left pneumothorax.", {"pneumothorax": "positive"}),
    ("Sternotomy wires are intact.", {"sternotomy": "positive"}),
    ("Cervical spinal fusion.", {"spinal_fusion": "positive"}),
    ("Overlying EKG leads.", {"leads": "positive"}),
    ("Bullae in both apices.", {"bulla": "positive"}),
    # negation before, after, inside; lists; terminators
    (
        "No focal consolidation, pleural effusion, or pneumothorax.",
        {"consolidation": "negative", "effusion": "negative", "pneumothorax": "negative"},
    ),
    ("Lungs are free of nodules.", {"nodule": "negative"}),
    ("Pneumothorax is not seen.", {"pneumothorax": "negative"}),
    ("The effusion has resolved.", {"effusion": "negative"}),
    ("The heart is not enlarged.", {"cardiomegaly": "negative"}),
    (
        "No pneumothorax but a small effusion.",
        {"pneumothorax": "negative", "effusion": "positive"},
    ),
    (
        "No effusion, however there is cardiomegaly.",
        {"effusion": "negative", "cardiomegaly": "positive"},
    ),
    ("Scarring without effusion.", {"scar": "positive", "effusion": "negative"}),
    ("No change in the effusion.", {"effusion": "positive"}),
    ("Small effusion and the heart size is normal.", {"effusion": "positive"}),
    ("no pneumothorax the heart is enlarged", {"cardiomegaly": "positive"}),
    ("No effusion seen or pneumothorax.", {"pneumothorax": "negative"}),
    ("Vascular engorgement appears within limits of normal.", {"congestion": None}),
    ("Noncalcified nodule.", {"nodule": "positive", "calc_granuloma": None}),
    # the normal stated in so many words
    ("Heart size is normal.", {"cardiomegaly": "negative"}),
    ("Heart size is not normal.", {"cardiomegaly": "positive"}),
    ("Normal cardiac silhouette.", {"cardiomegaly": "negative"}),
    ("The lungs are clear.", {"opacity": "negative", "consolidation": "negative"}),
    ("no effusion heart size normal", {"cardiomegaly": "negative", "effusion": "negative"}),
    # doubt
    ("Possible nodule.", {"nodule": "uncertain"}),
    ("This may represent pneumonia.", {"consolidation": "uncertain"}),
    ("Effusion cannot be excluded.", {"effusion": "uncertain"}),
    ("A mass is not excluded.", {"nodule": "uncertain"}),
    ("Cannot exclude pneumothorax.", {"pneumothorax": "uncertain"}),
    ("Heart size at the upper limits of normal.", {"cardiomegaly": "uncertain"}),
    ("Atelectasis versus infiltrate.", {"atelectasis": "uncertain", "consolidation": "uncertain"}),
    ("Borderline cardiomegaly.", {"cardiomegaly": "positive"}),
    # nothing
    ("", {}),
    ("XXXX XXXX.", {}),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_sentences(text, expected):
    found = LABELER.label(text)
    for finding, polarity in expected.items():
        assert found.get(finding) == polarity, LABELER.explain(text)
    if not expected:
        assert found == {}


# Ordinary sentences, by the rule they ask for: all types that they name, and
# no other. P affirmed, N denied, U doubted.
P, N, U = "positive", "negative", "uncertain"
ORDINARY = [
    # denied before the mention; lists with commas, "or", "and", "nor"
    ("There is no scoliosis.", {"scoliosis": N}),
    ("No evidence of effusion is seen.", {"effusion": N}),
    (
        "No consolidation, effusion and pneumothorax.",
        {"consolidation": N, "effusion": N, "pneumothorax": N},
    ),
    (
        "Neither effusion nor pneumothorax is identified.",
        {"effusion": N, "pneumothorax": N},
    ),
    (
        "The lungs are free of consolidation, nodules, or effusion.",
        {"consolidation": N, "nodule": N, "effusion": N},
    ),
    ("Negative for pneumothorax and effusion.", {"pneumothorax": N, "effusion": N}),
    ("Interval removal of the endotracheal tube.", {"tube": N}),
    ("Scarring rather than nodule.", {"scar": P, "nodule": N}),
    ("No findings compatible with pneumonia.", {"consolidation": N}),
    ("No opacity consistent with pneumonia.", {"opacity": N, "consolidation": N}),
    ("No opacity that would suggest pneumonia.", {"opacity": N, "consolidation": N}),
    ("No opacity is seen to suggest pneumonia.", {"opacity": N, "consolidation": N}),
    ("Opacity consistent with pneumonia.", {"opacity": P, "consolidation": P}),
    # denied after it
    ("Pneumothorax and effusion are absent.", {"pneumothorax": N, "effusion": N}),
    ("Effusion or pneumothorax is not identified.", {"effusion": N, "pneumothorax": N}),
    ("The effusion is no longer visible.", {"effusion": N}),
    ("Pulmonary edema has been ruled out.", {"congestion": N}),
    (
        "The previously seen effusion has resolved, but the nodule is unchanged.",
        {"effusion": N, "nodule": P},
    ),
    # denied in it
    ("The heart is not enlarged.", {"cardiomegaly": N}),
    ("The heart shows no enlargement.", {"cardiomegaly": N}),
    ("The mediastinum is without widening.", {"wide_mediastinum": N}),
    ("The ribs show no fracture.", {"rib_fracture": N, "other": N}),
    # "change" as the finding: denied
    ("No degenerative changes in the thoracic spine.", {"degen_spine": N}),
    ("There is no degenerative change.", {"degen_spine": N}),
    ("No significant arthritic changes or effusion.", {"degen_spine": N, "effusion": N}),
    ("Lungs without interstitial changes.", {"interstitial": N}),
    (
        "No emphysematous changes or pneumothorax.",
        {"hyperinflation": N, "pneumothorax": N},
    ),
    ("No chronic changes, nodule or effusion.", {"nodule": N, "effusion": N}),
    ("No acute osseous changes or effusion.", {"effusion": N}),
    ("No changes of pulmonary edema.", {"congestion": N}),
    ("No changes to suggest pulmonary edema.", {"congestion": N}),
    # "change" of a finding: denies nothing
    ("No interval change in the left effusion.", {"effusion": P}),
    (
        "No significant interval change in the effusion or the nodule.",
        {"effusion": P, "nodule": P},
    ),
    ("The nodule has not significantly changed.", {"nodule": P}),
    ("Degenerative changes without interval change.", {"degen_spine": P}),
    ("No change in the degenerative changes of the spine.", {"degen_spine": P}),
    ("No effusion, no change in the nodule.", {"effusion": N, "nodule": P}),
    ("No effusion, no increase in the opacity.", {"effusion": N, "opacity": P}),
    # other neutral words
    ("Not only cardiomegaly but also an effusion.", {"cardiomegaly": P, "effusion": P}),
    ("The nodule is not well seen.", {"nodule": P}),
    ("No prior studies, small effusion.", {"effusion": P}),
    ("No evidence that there is pneumonia.", {"consolidation": N}),
    # terminators, and gaps that end at them
    (
        "Lungs are clear without focal consolidation, effusion or pneumothorax, "
        "but there is a small nodule.",
        {"opacity": N, "consolidation": N, "effusion": N, "pneumothorax": N, "nodule": P},
    ),
    ("Calcified granuloma but no nodule.", {"calc_granuloma": P, "nodule": N}),
    ("Calcified granuloma, no nodule.", {"calc_granuloma": P, "nodule": N}),
    ("Calcified granuloma without opacity.", {"calc_granuloma": P, "opacity": N}),
    (
        "No definite effusion, although a nodule is present.",
        {"effusion": N, "nodule": P},
    ),
    (
        "No effusion with the exception of a small left pneumothorax.",
        {"effusion": N, "pneumothorax": P},
    ),
    (
        "The lungs are hyperinflated but clear.",
        {"hyperinflation": P, "opacity": N, "consolidation": N},
    ),
    (
        "The heart is enlarged but the mediastinum is normal.",
        {"cardiomegaly": P, "wide_mediastinum": N},
    ),
    # doubted before it
    (
        "Opacity may represent atelectasis or pneumonia.",
        {"opacity": P, "atelectasis": U, "consolidation": U},
    ),
    ("Opacity, which could be atelectasis.", {"opacity": P, "atelectasis": U}),
    ("Opacity may be due to atelectasis.", {"opacity": P, "atelectasis": U}),
    ("Opacity may be consistent with atelectasis.", {"opacity": P, "atelectasis": U}),
    ("Opacity concerning for pneumonia.", {"opacity": P, "consolidation": U}),
    ("Cannot rule out a nodule.", {"nodule": U}),
    ("No pneumothorax, possible small effusion.", {"pneumothorax": N, "effusion": U}),
    (
        "Findings are suggestive of pulmonary edema, but no effusion is seen.",
        {"congestion": U, "effusion": N},
    ),
    # doubted after it, and both ways
    ("Pneumonia and effusion cannot be excluded.", {"consolidation": U, "effusion": U}),
    ("Pneumonia is possible.", {"consolidation": U}),
    ("A small effusion may be present.", {"effusion": U}),
    ("Atelectasis versus pneumonia in the left base.", {"atelectasis": U, "consolidation": U}),
]


@pytest.mark.parametrize(("text", "expected"), ORDINARY)
def test_ordinary_sentences(text, expected):
    found = LABELER.label(text)
    assert found == expected, LABELER.explain(text)


def test_no_mention_runs_across_a_break():
    content = yaml.safe_load(PHRASES_FILE.read_text(encoding="utf-8"))
    breaks = set(content["scope"]["breaks"])
    seen = 0
    for text, _ in ORDINARY:
        for mention in LABELER.explain(text):
            inner = set(mention.phrase.split()) & breaks
            if inner and not mention.rule.startswith("normal: "):
                # only where the phrase asks for that very word
                assert inner <= set(mention.rule.replace("|", " ").split())
                seen += 1
    assert seen


def test_every_type_has_a_case():
    assert {name for _, e in CASES for name, p in e.items() if p == "positive"} >= set(
        FINDING_TYPES
    )


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        (["No effusion.", "Possible effusion."], "uncertain"),
        (["No effusion.", "Small effusion."], "positive"),
        (["Possible effusion.", "Small effusion."], "positive"),
        (["No effusion.", "No effusion."], "negative"),
    ],
)
def test_aggregation(sentences, expected):
    assert LABELER.label(" ".join(sentences))["effusion"] == expected
    assert LABELER.label(" ".join(reversed(sentences)))["effusion"] == expected


def test_matrix_codes_and_other():
    texts = ["Small effusion.", "No effusion.", "Possible effusion.", "Clear.", "Left mastectomy."]
    column = FINDING_TYPES.index("effusion")
    matrix = label_matrix(texts)
    assert matrix.dtype == np.int8 and matrix.shape == (5, len(FINDING_TYPES))
    assert matrix[:, column].tolist() == [POSITIVE, NEGATIVE, UNCERTAIN, ABSENT, ABSENT]
    assert LABELER.label_matrix(texts, other=True)[:, -1].tolist()[-1] == POSITIVE
    assert LABELER.abnormal(texts).tolist() == [True, False, True, False, True]
    assert LABELER.abnormal(texts, uncertain=False).tolist() == [True, False, False, False, True]
    assert label_matrix([]).shape == (0, len(FINDING_TYPES))


def test_denied_is_not_the_same_as_stated_normal():
    labels, denied = LABELER.label_matrix_and_denials(["No cardiomegaly.", "Heart size normal."])
    column = FINDING_TYPES.index("cardiomegaly")
    assert labels[:, column].tolist() == [NEGATIVE, NEGATIVE]
    assert denied[:, column].tolist() == [True, False]


def test_explanations_give_the_longest_of_nested_mentions():
    mentions = LABELER.explain("Mild degenerative changes of the spine. Degenerative changes.")
    assert [(m.phrase, m.sentence_index) for m in mentions] == [
        ("degenerative changes of the spine", 0),
        ("degenerative", 1),
    ]


def test_explanations_point_at_the_words():
    text = "Heart normal. No effusion but a small left-sided pneumothorax."
    mentions = LABELER.explain(text)
    for mention in mentions:
        words = mention.sentence.split()
        assert " ".join(words[slice(*mention.span)]) == mention.phrase
        assert mention.trigger in mention.sentence
    by_finding = {mention.finding: mention for mention in mentions}
    assert by_finding["effusion"].trigger == "no"
    assert by_finding["effusion"].sentence_index == 1
    assert by_finding["pneumothorax"].polarity == "positive"
    assert by_finding["pneumothorax"].trigger == ""
    assert by_finding["cardiomegaly"].rule.startswith("normal: ")


@given(st.lists(st.sampled_from([text for text, _ in CASES]), max_size=6))
@settings(max_examples=60, deadline=None)
def test_labels_do_not_depend_on_memory_case_or_order_of_sentences(texts):
    report = ". ".join(texts)  # one case has no full stop of its own
    fresh = LABELER.label(report)
    assert LABELER.label(report.upper()) == fresh
    assert LABELER.label(". ".join(reversed(texts))) == fresh
    assert {m.finding for m in LABELER.explain(report)} == set(fresh)


def test_raw_and_cleaned_reports_get_the_same_labels():
    from r2genkit.text import clean_report

    for text, _ in CASES:
        assert LABELER.label(clean_report(text)) == LABELER.label(text)


def test_phrase_file_is_checked(tmp_path):
    content = yaml.safe_load(PHRASES_FILE.read_text(encoding="utf-8"))

    def broken(change, message):
        changed = {key: dict(value) for key, value in content.items()}
        change(changed)
        path = tmp_path / "phrases.yaml"
        path.write_text(yaml.safe_dump(changed), encoding="utf-8")
        with pytest.raises(KitError, match=message):
            FindingLabeler(path)

    broken(lambda c: c.update(nonsense={"name": "x"}), "unknown finding type 'nonsense'")
    broken(lambda c: c.pop("scar"), "no phrases for finding type 'scar'")
    broken(lambda c: c["scar"].update(mention=["x"]), "unknown key 'mention'")
    broken(lambda c: c["scope"].pop("neutral"), "scope must have exactly")
    broken(lambda c: c["scope"].pop("breaks"), "scope must have exactly")
    broken(lambda c: c["scope"].update(breaks=[False]), "False in scope.breaks is no single word")
    broken(lambda c: c["scope"].update(breaks=["as of"]), "'as of' in scope.breaks")
    broken(lambda c: c["scar"].update(mentions=["~1 scar"]), "start and end with a word")


def test_every_phrase_can_match_and_every_type_is_described():
    content = yaml.safe_load(PHRASES_FILE.read_text(encoding="utf-8"))
    for name, entry in content.items():
        if name == "scope":
            continue
        assert entry["name"] and "chexpert" in entry
        for kind in ("mentions", "normal", "doubtful", "except"):
            phrases = entry.get(kind) or []
            assert len(phrases) == len(set(phrases)), f"{name}: a phrase stands there twice"
            for phrase in phrases:
                example = " ".join(
                    item.split("|")[0].rstrip("*?")
                    for item in phrase.split()
                    if not item.startswith("~")
                )
                assert compile_phrase(phrase).pattern.search(f" {example} "), phrase
    assert LABELER.chexpert["congestion"] == "Edema"
    assert LABELER.titles["degen_spine"] == "degenerative change of the spine"
