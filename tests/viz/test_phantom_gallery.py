"""The gallery shows both films of every patient and says that they are synthetic."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.phantom import RENDERED_TYPES, Patient, PlacedFinding, render_patient
from r2genkit.viz.phantom import TAG, caption, example_patients, gallery, same_patient

NODULE = PlacedFinding("nodule", "left", "upper lobe", "mild", True, "", "code", "code")


def test_gallery_holds_both_films_captions_and_the_tag():
    patients = [Patient("a"), Patient("b", (NODULE,))]
    figure = gallery(patients, size=96, masks=True)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 2
    films = render_patient(patients[1], 96)
    np.testing.assert_array_equal(
        shown[1].images[0].get_array(), np.hstack([films["frontal"], films["lateral"]])
    )
    assert shown[1].get_title(loc="left") == "mild multiple nodule left upper lobe"
    for axis in shown:
        assert sum(TAG in text.get_text() for text in axis.texts) == 2
    assert len(shown[1].collections) > len(shown[0].collections)  # outlines of masks
    plt.close(figure)


def test_own_captions_and_bad_input():
    figure = gallery([Patient("a")], size=64, captions=["mine"])
    assert figure.axes[0].get_title(loc="left") == "mine"
    plt.close(figure)
    with pytest.raises(KitError, match="no patients"):
        gallery([])
    with pytest.raises(KitError, match="2 captions"):
        gallery([Patient("a")], captions=["x", "y"])


def test_examples_cover_two_normals_and_many_findings():
    patients = example_patients()
    assert [p.findings for p in patients[:2]] == [(), ()]
    names = {p.findings[0].name for p in patients[2:]}
    assert len(names) >= 18
    assert names <= set(RENDERED_TYPES)
    assert len({p.study_id for p in patients}) == len(patients)
    assert caption(patients[0]) == "no finding"


def test_same_patient_changes_only_the_finding():
    healthy, ill = same_patient([NODULE], "c")
    assert healthy.study_id == ill.study_id
    assert (healthy.findings, ill.findings) == ((), (NODULE,))
