"""Nothing but the finding may tell a finding: grey histograms must not, and noise must not."""

from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from r2genkit.phantom import PROJECTIONS, Patient, PlacedFinding, prepare, render_patient
from r2genkit.phantom.film import draw_film
from r2genkit.phantom.population import Population
from r2genkit.seeds import numpy_rng

COUNT, SIZE = 50, 64


@cache
def histograms(name: str) -> np.ndarray:
    found = (
        () if not name else (PlacedFinding(name, "midline", "", None, False, "", "code", "code"),)
    )
    rows = []
    for index in range(COUNT):
        films = render_patient(Patient(f"{name or 'normal'} {index}", found), SIZE)
        rows.append([np.histogram(films[p], 12, (0, 256))[0] for p in PROJECTIONS])
    return np.array(rows, float).reshape(COUNT, -1) / SIZE**2


@pytest.mark.parametrize("name", ["cardiomegaly", "hyperinflation", "hypoinflation"])
def test_grey_histograms_hardly_tell_organ_findings(name):
    x = np.concatenate([histograms(""), histograms(name)])
    y = np.repeat([0, 1], COUNT)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05))
    score = cross_val_predict(model, x, y, cv=5, method="decision_function")
    # standard error .055; a plain window between two quantiles gives .80 to .90
    assert roc_auc_score(y, score) < 0.75


def test_film_and_habitus_draws_do_not_know_the_findings():
    finding = PlacedFinding("cardiomegaly", "midline", "", "severe", False, "", "code", "code")
    well, ill = prepare(Patient("x")), prepare(Patient("x", (finding,)))
    one, other = well.scene.anatomy.habitus, ill.scene.anatomy.habitus
    assert one.numbers == other.numbers
    assert one.traits == other.traits
    for name in one.arrays:
        np.testing.assert_array_equal(one.arrays[name], other.arrays[name])
    shifted = {k for k in one.traits if ill.scene.anatomy.traits[k] != one.traits[k]}
    assert shifted == {"heart"}


def test_film_draws_are_named_by_study_and_view():
    draws = [
        draw_film(numpy_rng(0, f"phantom/{s}/film/{p}"), Population(), p)
        for s in ("a", "b")
        for p in PROJECTIONS
    ]
    assert len({d.gamma for d in draws}) == 4
    for d in draws:
        assert 0.55 <= d.match <= 1.0
        assert d.low < d.high <= 1.0
