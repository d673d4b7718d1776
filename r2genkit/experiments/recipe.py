"""Recipes: one YAML file per result row, validated, with overrides per profile.

A recipe says everything that decides a number: corpus, split, text, encoder, tags, model,
training, decoding, scoring. Its ``profiles`` block holds what changes with the budget ("smoke",
"lab", "paper"); which data is used is independent of the profile. Unknown keys are errors.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from r2genkit.decoding import DecodingConfig
from r2genkit.errors import KitError
from r2genkit.paths import PACKAGE
from r2genkit.study import Section
from r2genkit.training import TrainingConfig

Profile = Literal["smoke", "lab", "paper"]
PROFILES: tuple[str, ...] = ("smoke", "lab", "paper")
RECIPES = PACKAGE / "recipes"
PRETRAINING = RECIPES / "pretraining"
TAG_WEIGHTS = "tags"
"""Encoder weights from tag pre-training: "tags", or "tags:NAME" for settings of another name."""

# What a profile sets for every recipe; a recipe's own ``profiles`` block is applied on top.
PROFILE_DEFAULTS: dict[str, dict] = {
    "smoke": {
        "data": {"limit_train": 240, "limit_validation": 40, "limit_test": 60},
        "scoring": {"bootstrap": 200},
    },
    "lab": {},
    "paper": {"threads": None},
}
# The same for pre-training.
PRETRAINING_DEFAULTS: dict[str, dict] = {
    "smoke": {"bootstrap": 200},
    "lab": {},
    "paper": {"threads": None},
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Settings = TypeVar("_Settings", bound=_Strict)


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _from_tags(weights: object) -> bool:
    return str(weights).partition(":")[0] == TAG_WEIGHTS


class DataConfig(_Strict):
    """Which studies, and how they are divided.

    ``split="auto"`` takes the protocol that belongs to the corpus (see ``PROTOCOL_OF``); the
    limits keep the first studies of a seeded shuffle of each part, None keeps all.
    """

    corpus: str = "phantom"
    split: Literal["auto", "grouped", "r2gen", "kit2018", "course2025"] = "auto"
    split_seed: int = 0
    section: Section = "findings"
    min_words: int = Field(4, ge=0, description="shorter target reports are left out")
    limit_train: int | None = Field(None, ge=1)
    limit_validation: int | None = Field(None, ge=1)
    limit_test: int | None = Field(None, ge=1)


class TextConfig(_Strict):
    """Cleaning, vocabulary, and what references are scored against.

    ``references="truncated"`` scores against what the vocabulary can say (rare words replaced by
    ``<unk>``, cut at ``max_length``), as the released R2Gen trainers do; "full" scores against the
    whole cleaned report.
    """

    compat: Literal["auto", "default", "r2gen", "r2gen_mimic", "kit2018"] = "auto"
    min_count: int = Field(3, ge=1)
    max_length: int = Field(60, ge=4, description="tokens incl. begin and end mark")
    references: Literal["auto", "full", "truncated"] = "auto"
    drop_full_stops: Literal["auto"] | bool = Field(
        "auto", description="leave full stops out of both sides when n-grams are scored"
    )


class PretrainingConfig(_Strict):
    """How an encoder is trained end to end as a finding classifier (one YAML per encoder).

    ``seed`` is the pre-training's own: runs of all seeds then share one encoder, as they would
    share published weights.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="name of the settings file")
    profile: Profile = Field("lab", description="the budget that these settings belong to")
    encoder: str = Field(description="network, see encoders/networks.py")
    weights: str = Field("none", description="where training starts; none = random")
    image_size: int = Field(112, ge=32, description="side of the images it is trained on, pixels")
    packed_size: int = Field(224, ge=32, description="side of the packed images they come from")
    augment: Literal["none", "crop"] = Field(
        "none", description="crop: random crops of 7/8 of the side, never flipped"
    )
    studies: int | None = Field(None, ge=1, description="at most so many training studies")
    min_positives: int = Field(10, ge=1, description="training studies a finding type must have")
    epochs: int = Field(ge=1)
    batch_size: int = Field(16, ge=1)
    lr: float = Field(1e-3, gt=0, description="peak rate of the classifier")
    encoder_lr: float = Field(1e-3, gt=0, description="peak rate of the encoder")
    width: int = Field(256, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    bn_eval: bool = Field(False, description="keep the batch statistics that training starts from")
    bootstrap: int = Field(1000, ge=1, description="resamples of the test studies")
    threads: int | None = Field(1, ge=1, description="torch threads on the CPU; None = all")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> PretrainingConfig:
        if self.packed_size < self.image_size:
            raise ValueError(
                "packed_size must be at least image_size: images are only made smaller"
            )
        if _from_tags(self.weights):
            raise ValueError("pre-training starts from none, default, published or local weights")
        return self

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over every setting."""
        return _digest(self.model_dump(mode="json"))


class EncoderConfig(_Strict):
    """Image encoder: its features are cached when frozen, computed in the loop when trained.

    With ``weights: tags`` the run pre-trains the encoder on the findings of its own training
    studies, or takes it from an equal pre-training that is finished. ``load_recipe`` then fills in
    ``pretraining`` from ``recipes/pretraining/<encoder>.yaml`` (``tags:NAME``: from that file), on
    top of which the recipe's own ``pretraining`` keys are set, and takes its image size where the
    recipe names none. Such patch features know the findings of training studies better than those
    of others: tags made from them want ``teacher_forcing``.
    """

    name: str = "efficientnet_lite0"
    weights: str = "default"
    image_size: int = Field(224, ge=32)
    packed_size: int | None = Field(
        None, ge=32, description="side of the packed images that smaller ones are made from"
    )
    trainable: bool = False
    pca: int | None = Field(None, ge=1, description="keep this many principal components")
    augment: Literal["none", "r2gen"] = "none"
    pretraining: PretrainingConfig | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> EncoderConfig:
        if _from_tags(self.weights) != (self.pretraining is not None):
            raise ValueError("weights: tags and a pretraining block need one another")
        if self.packed_size is not None and self.packed_size < self.image_size:
            raise ValueError(
                "packed_size must be at least image_size: images are only made smaller"
            )
        if self.pretraining is not None and self.pretraining.encoder != self.name:
            raise ValueError(
                f"pre-training {self.pretraining.name} trains {self.pretraining.encoder} and not "
                f"{self.name}: name the same encoder"
            )
        return self


class TagsConfig(_Strict):
    """Finding classifier whose probabilities the decoder is given.

    The classifier knows its training studies nearly by heart and is unsure elsewhere, so a decoder
    that learns from its probabilities there learns to doubt them and to go by what it remembers.
    With ``teacher_forcing`` the decoder reads the true findings of training studies: what a yes
    means is then never in doubt, and at test it stands or falls with the classifier.
    """

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(1e-3, gt=0)
    width: int = Field(512, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    crossfit: int = Field(0, ge=0, description="folds for the tags of training studies; 0 = none")
    min_positives: int = Field(10, ge=1, description="training studies a finding type must have")
    teacher_forcing: bool = Field(
        False, description="training studies: the decoder reads true findings, not predicted ones"
    )
    sharpness: float = Field(
        1.0, gt=0, description="factor on the log-odds that the decoder reads; above 1 = yes or no"
    )
    called_at: float = Field(
        0.5, gt=0, lt=1, description="probability that the decoder reads as one half"
    )

    @model_validator(mode="after")
    def _one_source(self) -> TagsConfig:
        if self.crossfit and self.teacher_forcing:
            raise ValueError("true findings leave crossfit nothing to do: set one of the two")
        return self


class SamplingConfig(_Strict):
    """How training studies are drawn and which tokens count more (0 or 1 = plain)."""

    batch_size: int = Field(16, ge=1)
    balance_cap: float = Field(0.0, ge=0, description="cap of sqrt(N / n_rarest finding); 0 = off")
    duplicate_power: float = Field(0.0, ge=0, le=1, description="weight / count^power")
    positive_weight: float = Field(1.0, gt=0, description="loss weight of positive sentences")
    sentence_order: Literal["written", "findings_first"] = Field(
        "written", description="order of the sentences of the reports to learn from"
    )
    epoch_studies: int | None = Field(
        None, ge=1, description="end an epoch after so many studies, others in the next; None = all"
    )


class ModelConfig(_Strict):
    """Model name in ``r2genkit.models`` and its own settings (validated there)."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class ObjectiveConfig(_Strict):
    """What training minimises instead of the model's own loss, and its settings.

    ``self_critical``: expected reward of sampled reports (``r2genkit.training.scst``).
    """

    name: Literal["self_critical"]
    settings: dict[str, Any] = Field(default_factory=dict)


class StartConfig(_Strict):
    """The run whose best weights training begins with; ``load_recipe`` fills it in.

    ``fingerprint`` is that of the whole recipe of that run, with the studies, texts, encoder, tags,
    retrieval and model of the run that starts from it.
    """

    run: str = Field(pattern=r"^\d\d_[a-z0-9_]+$")
    profile: Profile = "lab"
    fingerprint: str = ""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """``start_from: 07_cmn`` is short for ``start_from: {run: 07_cmn}``."""
        return {"run": value} if isinstance(value, str) else value


class BaselineConfig(_Strict):
    """Trivial baseline: name in ``r2genkit.metrics.baselines`` and its settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class ScoringConfig(_Strict):
    """What is computed of the test hypotheses."""

    bootstrap: int = Field(1000, ge=0, description="resamples of the studies; 0 = no intervals")
    meteor: bool = True
    swap: int = Field(10, ge=0, description="exchanges of test images between studies; 0 = none")


class Recipe(_Strict):
    """One result row: what it is, and everything that decides its numbers."""

    run: str = Field(pattern=r"^\d\d_[a-z0-9_]+$")
    title: str
    about: str
    order: int = Field(50, description="place in tables; baselines come first")
    on_request: bool = Field(False, description="too long for a re-run of all notebooks")
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    encoder: EncoderConfig | None = EncoderConfig()
    tags: TagsConfig | None = None
    sampling: SamplingConfig = SamplingConfig()
    retrieval: dict[str, Any] | None = Field(
        None, description="settings of r2genkit.retrieval.RetrievalConfig; None = none"
    )
    model: ModelConfig | None = None
    baseline: BaselineConfig | None = None
    start_from: StartConfig | None = None
    objective: ObjectiveConfig | None = None
    training: TrainingConfig | None = None
    decoding: DecodingConfig = DecodingConfig()
    scoring: ScoringConfig = ScoringConfig()
    threads: int | None = Field(
        1, ge=1, description="torch threads on the CPU; one is fastest for small models; None = all"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Recipe:
        if (self.model is None) == (self.baseline is None):
            raise ValueError("name either a model or a baseline")
        if self.model is not None and (self.training is None or self.encoder is None):
            raise ValueError("a model needs an encoder and a training block")
        if self.tags is not None and self.encoder is not None and self.encoder.trainable:
            raise ValueError("tags are computed from frozen features: set encoder.trainable: false")
        if self.baseline is not None and (self.start_from or self.objective):
            raise ValueError("a baseline is not trained: leave out start_from and objective")
        frozen = self.encoder is not None and not self.encoder.trainable
        if frozen and self.encoder.augment != "none":
            raise ValueError("augmentation needs encoder.trainable: true (features are cached)")
        return self

    @property
    def notebook(self) -> str:
        """Two-digit number of the notebook this row belongs to."""
        return self.run[:2]

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over every setting (titles and prose left out)."""
        content = self.model_dump(mode="json", exclude={"title", "about", "order", "on_request"})
        # A block that says nothing leaves the names of finished runs as they are.
        if self.encoder is not None and self.encoder.pretraining is None:
            del content["encoder"]["pretraining"]
        if self.encoder is not None and self.encoder.packed_size is None:
            del content["encoder"]["packed_size"]
        for key in ("retrieval", "start_from", "objective"):
            if content[key] is None:
                del content[key]
        if self.sampling.epoch_studies is None:
            del content["sampling"]["epoch_studies"]
        return _digest(content)


# The protocol each corpus is published under; "grouped" keeps equal texts in one part.
PROTOCOL_OF = {
    "phantom": "grouped",
    "openi": "grouped",
    "private": "grouped",
    "r2gen": "r2gen",
    "kit2018": "kit2018",
}
# Text rules that make a protocol's numbers comparable with its papers: cleaning, references, and
# whether full stops are dropped before n-grams are scored (finding labels always keep them).
TEXT_OF = {
    "grouped": ("default", "full", False),
    "course2025": ("default", "full", False),
    "r2gen": ("r2gen", "truncated", False),
    "kit2018": ("default", "full", True),
}


def recipe_names() -> list[str]:
    """Names of the shipped recipes, in order."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def pretraining_names() -> list[str]:
    """Names of the shipped pre-trainings, in order."""
    return sorted(path.stem for path in PRETRAINING.glob("*.yaml"))


def _merge(base: dict, override: dict) -> dict:
    """Override nested keys; a mapping replaces None, anything else replaces what was there."""
    merged = copy.deepcopy(base)
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _assignment(text: str) -> dict:
    """``"training.epochs=3"`` -> ``{"training": {"epochs": 3}}``."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise KitError(f"cannot read the setting {text!r}: write it as key.subkey=value")
    nested: Any = yaml.safe_load(value)
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


def load_recipe(
    name: str | Path,
    *,
    profile: str = "lab",
    corpus: str | None = None,
    overrides: tuple[str, ...] | list[str] = (),
) -> Recipe:
    """Read a recipe, apply its profile, a corpus and ``key=value`` overrides, and validate it.

    Args:
        name: a shipped recipe's name ("03_show_tell") or a path to a YAML file.
        profile: "smoke", "lab" or "paper".
        corpus: replaces ``data.corpus``; protocol, cleaning and references follow it where the
            recipe says "auto".
        overrides: settings such as ``"training.epochs=3"``, applied last.

    Raises:
        KitError: unknown recipe or profile, unreadable YAML, unknown or invalid key.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise KitError(f"no recipe {name!r}: the shipped ones are {', '.join(recipe_names())}")
    merged = _read_profiles(path, profile, PROFILE_DEFAULTS)
    # Every profile is checked, so that a mistake in one that is rarely run is found at once.
    for key, content in merged.items():
        _validate(_with_pretraining(content, key), f"{path.name}, profile {key}")
    content = merged[profile]
    if corpus is not None:
        content = _merge(content, {"data": {"corpus": corpus, "split": "auto"}})
    for text in overrides:
        content = _merge(content, _assignment(text))
    recipe = _validate(_with_pretraining(content, profile), path.name)
    data, text = settle(recipe.data, recipe.text)
    recipe = recipe.model_copy(update={"data": data, "text": text})
    if recipe.start_from is None:
        return recipe
    start = recipe.start_from.model_copy(update={"profile": profile})
    started = start_recipe(recipe.model_copy(update={"start_from": start}))
    filled = start.model_copy(update={"fingerprint": started.fingerprint()})
    return recipe.model_copy(update={"start_from": filled})


def start_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the run that ``recipe.start_from`` names.

    Trained as that recipe says, on the studies, texts, images and with the model of ``recipe``.

    Raises:
        KitError: it cannot be read, or it trains another kind of model.
    """
    start = recipe.start_from
    base = load_recipe(start.run, profile=start.profile)
    if base.model is None or base.model.name != recipe.model.name:
        other = "no model" if base.model is None else f"the model {base.model.name}"
        raise KitError(
            f"{recipe.run}: start_from names {start.run}, which trains {other} and not "
            f"{recipe.model.name}: start from a run of the same model"
        )
    shared = ("data", "text", "encoder", "tags", "retrieval", "model", "scoring", "threads")
    return base.model_copy(update={key: getattr(recipe, key) for key in shared})


def _read_profiles(path: Path, profile: str, defaults: dict[str, dict]) -> dict[str, dict]:
    """Content of a settings file under each profile, not yet validated.

    Raises:
        KitError: unknown profile, unreadable YAML, or no mapping.
    """
    if profile not in PROFILES:
        raise KitError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" line {place.line + 1}" if place else ""
        raise KitError(f"{path.name}{line} is not valid YAML: {error.problem}") from error  # type: ignore[attr-defined]
    if not isinstance(raw, dict):
        raise KitError(
            f"{path.name} does not hold a recipe: its top level must be key: value lines"
        )
    profiles = raw.pop("profiles", {}) or {}
    unknown = set(profiles) - set(PROFILES)
    if unknown:
        raise KitError(f"{path.name}: unknown profile(s) {', '.join(sorted(unknown))} in profiles")
    return {key: _merge(_merge(raw, defaults[key]), profiles.get(key) or {}) for key in PROFILES}


def _validate(content: dict, where: str, kind: type[_Settings] = Recipe) -> _Settings:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise KitError(f"{where}: {key}: {first['msg'].lower()}") from error


def _with_pretraining(content: dict, profile: str) -> dict:
    """Recipe content whose ``encoder.weights: tags`` is spelt out as settings."""
    encoder = content.get("encoder")
    if not isinstance(encoder, dict) or not _from_tags(encoder.get("weights")):
        return content
    network = encoder.get("name", EncoderConfig.model_fields["name"].default)
    name = str(encoder["weights"]).partition(":")[2] or network
    path = _pretraining_file(name)
    own = encoder.get("pretraining") or {}
    settings = _merge(_pretraining_content(path, profile)[profile], own)
    sized = {"image_size": settings.get("image_size", 112), **encoder}
    return {**content, "encoder": {**sized, "name": network, "pretraining": settings}}


def _pretraining_file(name: str | Path) -> Path:
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else PRETRAINING / f"{name}.yaml"
    if not path.is_file():
        raise KitError(
            f"no pre-training {str(name)!r}: the shipped ones are {', '.join(pretraining_names())};"
            " for another encoder copy one of their YAML files and name the copy"
        )
    return path


def _pretraining_content(path: Path, profile: str) -> dict[str, dict]:
    """Content of a pre-training file under each profile, every profile checked."""
    contents = {
        key: {"name": path.stem, **content, "profile": key}
        for key, content in _read_profiles(path, profile, PRETRAINING_DEFAULTS).items()
    }
    for key, content in contents.items():
        _validate(content, f"{path.name}, profile {key}", PretrainingConfig)
    return contents


def load_pretraining(
    name: str | Path,
    *,
    profile: str = "lab",
    corpus: str | None = None,
    seed: int = 0,
    overrides: tuple[str, ...] | list[str] = (),
) -> tuple[PretrainingConfig, DataConfig, TextConfig]:
    """Settings of a pre-training, and the studies and text rules that recipes have by default.

    Args:
        name: a shipped pre-training ("resnet18") or a path to a YAML file.
        profile: "smoke", "lab" or "paper".
        corpus: default phantom.
        seed: of the pre-training.
        overrides: settings such as ``"epochs=3"`` or ``"data.limit_train=100"``, applied last.

    Raises:
        KitError: unknown name or profile, unreadable YAML, unknown or invalid key.
    """
    path = _pretraining_file(name)
    content = {**_pretraining_content(path, profile)[profile], "seed": seed}
    data = copy.deepcopy(PROFILE_DEFAULTS[profile].get("data", {}))
    content["data"] = data | ({} if corpus is None else {"corpus": corpus})
    for text in overrides:
        content = _merge(content, _assignment(text))
    studies = _validate(content.pop("data"), f"{path.name}: data", DataConfig)
    config = _validate(content, path.name, PretrainingConfig)
    return config, *settle(studies, TextConfig())


def settle(data: DataConfig, text: TextConfig) -> tuple[DataConfig, TextConfig]:
    """Replace every "auto" by what the corpus and its protocol ask for.

    Raises:
        KitError: unknown corpus.
    """
    if data.split == "auto":
        if data.corpus not in PROTOCOL_OF:
            raise KitError(
                f"unknown corpus {data.corpus!r}: choose one of {', '.join(PROTOCOL_OF)}"
            )
        data = data.model_copy(update={"split": PROTOCOL_OF[data.corpus]})
    if data.split == "kit2018" and data.section == "findings":
        # The 2018 kit's target is the impression followed by the findings (systems it reports
        # never saw the findings alone).
        data = data.model_copy(update={"section": "impression+findings"})
    compat, references, drop = TEXT_OF[data.split]
    changes = {
        "compat": compat if text.compat == "auto" else text.compat,
        "references": references if text.references == "auto" else text.references,
        "drop_full_stops": drop if text.drop_full_stops == "auto" else text.drop_full_stops,
    }
    return data, text.model_copy(update=changes)
