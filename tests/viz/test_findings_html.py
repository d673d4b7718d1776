"""The marked report says what the labeler says, escapes its text and needs nothing from outside."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2genkit.errors import KitError
from r2genkit.metrics.findings import default_labeler
from r2genkit.text import clean_report
from r2genkit.viz.findings import SIGNS, findings_html


class Reader(HTMLParser):
    """Collects marks (class, title, text), plain text without style, and checks nesting."""

    def __init__(self, page):
        super().__init__()
        self.open, self.marks, self.text, self.inside = [], [], "", []
        self.feed(page)
        assert not self.open, "a tag is left open"

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        attributes = dict(attributes)
        assert not {"src", "href", "onclick"} & set(attributes)
        mark = None
        if attributes.get("title"):
            mark = {"class": attributes["class"], "title": attributes["title"], "text": ""}
            self.marks.append(mark)
        self.inside.append(mark)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.inside.pop()

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        for mark in filter(None, self.inside):
            mark["text"] += data


def read(report, **options):
    return Reader(findings_html(report, **options).data)


def test_marks_carry_polarity_sign_rule_and_trigger():
    page = read("The heart is enlarged. No effusion. Possible pneumonia. Thank you.")
    by_class = {mark["class"]: mark for mark in page.marks}
    assert by_class["m positive"]["text"] == "heart is enlarged+"
    assert by_class["m negative"]["text"] == "effusion−"
    assert by_class["m uncertain"]["text"] == "pneumonia?"
    assert "trigger: no" in by_class["m negative"]["title"]
    assert "rule: mentions: effusion|effusions" in by_class["m negative"]["title"]
    assert "enlarged heart: positive" in by_class["m positive"]["title"]
    assert "thank you." in page.text
    for meaning in ("affirmed", "denied or stated normal", "doubted", "trigger"):
        assert meaning in page.text


SENTENCES = [
    "Mild degenerative changes of the thoracic spine.",
    "Aorta is tortuous and calcified.",
    "No effusion or pneumothorax, but left-sided rib fracture.",
    "Lungs are clear.",
    "Old granulomatous disease may be present.",
    "Nothing to say here.",
]


@given(st.lists(st.sampled_from(SENTENCES), max_size=5))
@settings(max_examples=40, deadline=None)
def test_no_word_is_lost_and_every_mention_is_in_a_tooltip(sentences):
    text = " ".join(sentences)
    labeler = default_labeler()
    page = read(text)
    body = page.text.split("word+")[0]  # before the legend
    body = re.sub(r"[+−?]+", "", body).replace("(empty report)", "")
    words = clean_report(text).replace("-", " ").replace(" .", ".").split()
    assert body.split() == words
    titles = "\n".join(mark["title"] for mark in page.marks)
    for mention in labeler.explain(text):
        assert f"{labeler.titles[mention.finding]}: {mention.polarity}" in titles
        assert mention.rule in titles
        assert any(SIGNS[mention.polarity] in mark["text"] for mark in page.marks)


def test_comparison_marks_hits_false_and_missed_findings():
    page = read(
        "Enlarged heart. Small effusion. No nodule.",
        reference="Cardiomegaly. No effusion. Calcified granuloma. Humerus fracture.",
    )
    marks = {mark["text"] for mark in page.marks}
    assert {"enlarged heart+✓", "effusion+✗", "nodule−"} <= marks
    assert {"cardiomegaly+✓", "effusion−", "calcified granuloma+○"} <= marks
    assert "✓ Hits (1): enlarged heart" in page.text
    assert "✗ False findings (1): pleural effusion" in page.text
    assert "○ Missed findings (1): calcified granuloma" in page.text  # "other" is not scored
    same = read("Cardiomegaly.", reference="Cardiomegaly.")
    assert "False findings (0): –" in same.text and "Missed findings (0): –" in same.text


def test_text_is_escaped_and_each_view_has_its_own_style():
    first, second = (findings_html('<b onload="x">Cardiomegaly</b> & <script>').data for _ in "ab")
    assert "<b onload" not in first and "<script" not in first
    ids = [re.search(r'<div id="([^"]+)"', page)[1] for page in (first, second)]
    assert ids[0] != ids[1]
    assert f"#{ids[0]} .m" in first and f"#{ids[1]} .m" not in first
    assert "http" not in first


def test_empty_and_wrong_reports():
    assert "(empty report)" in read("").text
    assert "(empty report)" in read("Cardiomegaly.", reference="").text
    with pytest.raises(KitError, match="must be text but is int"):
        findings_html(3)
    with pytest.raises(KitError, match="must be text but is list"):
        findings_html("x", reference=[])


def test_table_of_explanations():
    labeler = default_labeler()
    table = labeler.explain_table("Heart normal. No effusion. Later a small effusion.")
    assert table["finding"].tolist() == ["cardiomegaly", "effusion", "effusion"]
    assert table["label"].tolist() == ["negative", "positive", "positive"]
    assert table["polarity"].tolist() == ["negative", "negative", "positive"]
    assert table["decides"].tolist() == [True, False, True]
    assert table.loc[1, "trigger"] == "no" and table.loc[2, "phrase"] == "effusion"
    assert table.loc[0, "rule"].startswith("normal: ")
    empty = labeler.explain_table("Thank you.")
    assert len(empty) == 0 and list(empty.columns) == list(table.columns)
