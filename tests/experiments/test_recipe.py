import re

import pytest
import yaml

from r2genkit.errors import KitError
from r2genkit.experiments.baselines import build_baseline, needs_features
from r2genkit.experiments.recipe import PROFILES, RECIPES, load_recipe, recipe_names
from r2genkit.models import build_model

MINIMAL = """
run: 03_tiny
title: tiny
about: a test
encoder: null
baseline:
  name: most_frequent
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "03_tiny.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("profile", PROFILES)
def test_shipped_recipes_are_valid_down_to_model_settings(name, profile):
    recipe = load_recipe(name, profile=profile)
    assert recipe.run == name
    if recipe.model:
        build_model(
            recipe.model.name,
            recipe.model.settings,
            vocabulary_size=20,
            feature_dim=8,
            tag_count=3 if recipe.tags else 0,
            full_stop=1,
        )
    elif not needs_features(recipe.baseline.name):
        build_baseline(
            recipe.baseline.name, recipe.baseline.settings, seed=0, findings={"study": ()}
        )


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_of_a_shipped_recipe_is_commented(name):
    """A value has a comment on its line, or on the line above it."""
    lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if not re.match(r"^\s*\w+:\s*\S", line):
            continue
        assert "#" in line or lines[number - 1].lstrip().startswith("#"), f"line {number + 1}"


def test_profiles_override_nested_keys_only(tiny):
    tiny.write_text(MINIMAL + "data: {min_words: 7}\nprofiles: {smoke: {data: {limit_test: 9}}}\n")
    smoke, lab = (load_recipe(tiny, profile=profile).data for profile in ("smoke", "lab"))
    assert (smoke.limit_test, smoke.min_words) == (9, 7)
    assert (lab.limit_test, lab.min_words) == (None, 7)


def test_corpus_brings_its_protocol_and_text_rules(tiny):
    default = load_recipe(tiny)
    assert (default.data.split, default.text.compat, default.text.references) == (
        "grouped",
        "default",
        "full",
    )
    r2gen = load_recipe(tiny, corpus="r2gen")
    assert (r2gen.data.split, r2gen.text.compat, r2gen.text.references) == (
        "r2gen",
        "r2gen",
        "truncated",
    )
    kit2018 = load_recipe(tiny, corpus="kit2018")
    assert kit2018.data.section == "impression+findings" and kit2018.text.drop_full_stops is True
    assert default.text.drop_full_stops is False


def test_fingerprint_follows_settings_and_not_prose(tiny):
    before = load_recipe(tiny).fingerprint()
    tiny.write_text(MINIMAL.replace("a test", "other words"))
    assert load_recipe(tiny).fingerprint() == before
    assert load_recipe(tiny, overrides=["text.min_count=2"]).fingerprint() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("surprise: 1", r"03_tiny.yaml.*surprise"),
        ("text: {min_cuont: 3}", r"text\.min_cuont"),
        ("text: {min_count: 0}", r"text\.min_count"),
        ("profiles: {lap: {}}", r"unknown profile\(s\) lap"),
        ("profiles: {paper: {text: {min_count: -1}}}", r"profile paper: text\.min_count"),
        ("model: {name: show_tell}", "either a model or a baseline"),
        ("text: [", "line"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_sentence(tiny, change, message):
    tiny.write_text(MINIMAL + change + "\n")
    with pytest.raises(KitError, match=message) as caught:
        load_recipe(tiny)
    assert "\n" not in str(caught.value)


def test_unknown_names_list_the_known_ones(tiny):
    with pytest.raises(KitError, match="02_constant"):
        load_recipe("03_nothing")
    with pytest.raises(KitError, match="smoke, lab, paper"):
        load_recipe(tiny, profile="fast")
    with pytest.raises(KitError, match="phantom"):
        load_recipe(tiny, corpus="mimic")
    with pytest.raises(KitError, match=r"key\.subkey=value"):
        load_recipe(tiny, overrides=["training.epochs"])


def test_baseline_options_are_checked():
    with pytest.raises(KitError, match="unknown baseline 'oracle'"):
        build_baseline("oracle", {}, seed=0)
    with pytest.raises(KitError, match=r"no option 'candidate' \(options: candidates\)"):
        build_baseline("best_single", {"candidate": 3}, seed=0)
    with pytest.raises(KitError, match="no option 'seed'"):
        build_baseline("constant", {"seed": 3}, seed=0)


def test_recipes_are_plain_yaml():
    for name in recipe_names():
        assert isinstance(yaml.safe_load((RECIPES / f"{name}.yaml").read_text()), dict)
