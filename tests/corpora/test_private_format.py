"""Your own images and reports: layouts, aliases, and messages that say which line to mend."""

import numpy as np
import pytest
from PIL import Image

from r2genkit.corpora import load_corpus
from r2genkit.corpora.private import find_table, read_private, read_table, write_private
from r2genkit.errors import KitError
from r2genkit.study import Study


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a_pa.png", "a_lat.png", "images/b.jpg", "c1.png", "c2.png"):
        Image.fromarray(np.zeros((70, 70), np.uint8)).save(tmp_path / name)
    return tmp_path


def write(folder, text, name="studies.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder


def summary(studies):
    return [
        (s.id, [(v.id, v.projection) for v in s.views], s.findings_text, s.impression_text)
        for s in studies
    ]


EXPECTED = [
    ("a", [("a_pa.png", "frontal"), ("a_lat.png", "lateral")], "Heart, big.", ""),
    ("b", [("b.jpg", "unknown")], "", ""),
]


@pytest.mark.parametrize(
    "text",
    [
        'study,image,view,report\na,a_lat.png,lateral,"Heart, big."\na,a_pa.png,PA,\nb,b.jpg,,\n',
        "study;image;view;report\r\na;a_pa.png;ap;Heart, big.\r\n"
        "a;a_lat.png;LL;Heart, big.\r\nb;b.jpg;;\r\n",
        "Study_ID\tFileName\tProjection\tFindings\na\ta_pa.png\tfrontal\t\n\n"
        "b\tb.jpg\tunknown\t\na\ta_lat.png\tlat\tHeart, big.\n",
        'study,frontal,lateral,report\na,a_pa.png,a_lat.png,"Heart, big."\nb,,,\n',
    ],
)
def test_layouts(folder, text):
    if text.endswith("b,,,\n"):
        text = text.replace("b,,,\n", "")
        assert summary(read_private(write(folder, text))) == EXPECTED[:1]
    else:
        assert summary(load_corpus("private", data_dir=write(folder, text))) == EXPECTED


def test_wide_layout_with_numbered_images(folder):
    text = "id,image1,image_2,report,impression\nc,c1.png,c2.png,Clear.,Normal.\nb,b.jpg,,,\n"
    assert summary(read_private(write(folder, text))) == [
        ("c", [("c1.png", "unknown"), ("c2.png", "unknown")], "Clear.", "Normal."),
        ("b", [("b.jpg", "unknown")], "", ""),
    ]


def test_line_breaks_inside_a_report_and_a_byte_order_mark(folder):
    text = '\ufeffstudy,image,report\nb,b.jpg,"Clear.\nNo effusion."\n'
    (study,) = read_private(write(folder, text))
    assert study.findings_text == "Clear.\nNo effusion."
    assert study.views[0].image == folder / "images" / "b.jpg"


def test_the_table_is_found(folder):
    write(folder, "study,image\nb,b.jpg\n", name="mine.csv")
    assert find_table(folder).name == "mine.csv"
    write(folder, "study,image\nb,b.jpg\n", name="other.csv")
    with pytest.raises(KitError, match=r"2 CSV files and no studies\.csv"):
        find_table(folder)
    assert find_table(folder, "other.csv").name == "other.csv"
    assert summary(load_corpus("private", data_dir=folder, table="mine.csv"))[0][0] == "b"
    with pytest.raises(KitError, match=r"third\.csv: no such file"):
        read_private(folder, "third.csv")


def test_no_table(tmp_path):
    with pytest.raises(KitError, match="no CSV file"):
        read_private(tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("study,image\n,b.jpg\n", 2, ["study id is empty"]),
        ("study,image\nb,\n", 2, ["study b", "no image"]),
        ("study,image\nb,b.jpg\nd,gone.png\n", 3, ["study d", "no image gone.png"]),
        ("study,image\nb,b.jpg\nd,b.jpg\n", 3, ["b.jpg", "belongs to study b"]),
        ("study,image,view\nb,b.jpg,side\n", 2, ["study b", "'side'", "frontal, lateral"]),
        ("study,image,report\na,a_pa.png,X\na,a_lat.png,Y\n", 3, ["study a", "different report"]),
        ("study,image\na,a.dcm\n", 2, ["a.dcm", "PNG nor JPEG"]),
        ("study,image1\nb,b.jpg\nb,c1.png\n", 3, ["study b", "already has line 2"]),
        ("study,image1,image2\nb,,\n", 2, ["study b", "no image"]),
    ],
)
def test_every_flaw_names_line_and_study(folder, text, line, words):
    write(folder, text)
    _, problems = read_table(folder / "studies.csv")
    assert problems[0].line == line
    assert all(word in problems[0].message for word in words)
    with pytest.raises(KitError, match=rf"studies\.csv, line {line}: "):
        read_private(folder)


@pytest.mark.parametrize(
    ("text", "encoding", "words"),
    [
        ("", "utf-8", "is empty"),
        ("study,picture\nb,b.jpg\n", "utf-8", "it has study, picture"),
        ("image,report\nb.jpg,x\n", "utf-8", "needs the column study"),
        ("study,image,report\nb,b.jpg,na\u00efve\n", "latin-1", "not UTF-8"),
        ("study,image\n", "utf-8", "lists no study"),
    ],
)
def test_unusable_tables(folder, text, encoding, words):
    write(folder, text, encoding=encoding)
    with pytest.raises(KitError, match=words):
        read_private(folder)


def test_ten_problems_then_a_count(folder):
    write(folder, "study,image\n" + "".join(f"s{k},gone{k}.png\n" for k in range(14)))
    with pytest.raises(KitError) as caught:
        read_private(folder)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11 and lines[-1] == "... and 4 more problems."


def test_written_folder_reads_back(folder, tmp_path):
    write(
        folder,
        'study,image,view,report\na/1,a_pa.png,pa,"Clear, ""really"".\nNew line"\na_1,b.jpg,,\n',
    )
    studies = read_private(folder)
    table = write_private(studies, tmp_path / "copy")
    again = read_private(table.parent)
    assert [(s.id, s.findings_text) for s in again] == [(s.id, s.findings_text) for s in studies]
    assert [v.projection for s in again for v in s.views] == ["frontal", "unknown"]
    for study, copy in zip(studies, again, strict=True):
        assert copy.views[0].image.read_bytes() == study.views[0].image.read_bytes()
    with pytest.raises(KitError, match="not empty"):
        write_private(studies, tmp_path / "copy")
    with pytest.raises(KitError, match="study p9 has no image"):
        write_private([Study("p9", (), "", "")], tmp_path / "third")
