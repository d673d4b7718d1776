"""Checkpoints in the format of the released R2Gen and R2GenCMN code: read and write.

``load_released`` gives a model of this package with the weights of a released file; its
log-probabilities and beam texts are those of the released equations (tested against a plain
restatement that reads the file's keys directly). ``export_released`` writes the same format.

A released file says nothing about the number of heads nor about how many slots are read, and holds
no vocabulary: the vocabulary must be built from the same training reports with the same cleaning
(``compat: r2gen``) and threshold, or the words come out wrong without any error.

The released beam search is ``DecodingConfig(method="beam", beam_size=3, length_penalty=0)`` with
``max_length`` 60 (IU X-Ray) or 100 (MIMIC-CXR). It sets a finished text to the score -1000 where
ours frees its place; both find the same text unless sums fall below -1000, which takes an average
word of probability below e^-16.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from r2genkit.encoders.networks import build_encoder
from r2genkit.errors import KitError
from r2genkit.files import replacing
from r2genkit.models import build_model
from r2genkit.models.cmn import CMN
from r2genkit.models.r2gen import R2Gen
from r2genkit.models.transformer import TransformerReporter
from r2genkit.text.vocabulary import Vocabulary

System = Literal["r2gencmn", "r2gen"]
TEXT, IMAGE = "encoder_decoder.", "visual_extractor.model."

# Our module -> released module, tried in this order on every parameter name. "norm" parameters and
# what only one system has follow in ``_released_names``.
_RENAMED = (
    (r"^patches\.", "att_embed.0."),
    (r"^output\.", "logit."),
    (r"^embedding\.words\.", "model.tgt_embed.0.lut."),
    (r"^patch_encoder\.", "model.encoder."),
    (r"^decoder\.", "model.decoder."),
    (r"\.(self_)?attention\.(?=(query|key|value|output)\.)", ".self_attn."),
    (r"\.cross_attention\.", ".src_attn."),
    (r"\.feed_forward\.inner\.", ".feed_forward.w_1."),
    (r"\.feed_forward\.outer\.", ".feed_forward.w_2."),
    (r"\.norms\.(\d)\.", r".sublayer.\1.norm."),
)
_R2GEN = (
    (r"^memory\.attention\.", "model.rm.attn."),
    (r"^memory\.mlp\.", "model.rm.mlp."),
    (r"^memory\.input_to_gates\.", "model.rm.W."),
    (r"^memory\.memory_to_gates\.", "model.rm.U."),
    (r"\.memory_to_scale\.", ".mlp_gamma."),
    (r"\.memory_to_shift\.", ".mlp_beta."),
    (r"\.scale$", ".gamma"),
    (r"\.shift$", ".beta"),
)
_CMN = (
    (r"^memory\.matrix$", "memory_matrix"),
    (r"^memory\.", "cmn."),
    (r"\.scale$", ".a_2"),
    (r"\.shift$", ".b_2"),
)
_LINEARS = {"query": 0, "key": 1, "value": 2, "output": 3}


def _released_names(model: TransformerReporter) -> dict[str, str]:
    """Released key -> our parameter name, for every parameter outside the image encoder."""
    own = _CMN if isinstance(model, CMN) else _R2GEN
    table = {}
    for name, _ in model.named_parameters():
        if name.startswith("encoder."):
            continue
        key = name
        for pattern, replacement in (*own, *_RENAMED):
            key = re.sub(pattern, replacement, key)
        key = re.sub(
            r"(attn|cmn)\.(query|key|value|output)\.",
            lambda found: f"{found[1]}.linears.{_LINEARS[found[2]]}.",
            key,
        )
        table[TEXT + key] = name
        if key.startswith("cmn."):  # the same tensors stand in the file twice
            table[f"{TEXT}model.{key}"] = name
    return table


def _position_keys(model: TransformerReporter) -> list[str]:
    places = ["tgt_embed.1"] + (["src_embed.0"] if isinstance(model, CMN) else [])
    return [f"{TEXT}model.{place}.pe" for place in places]


def _listed(keys: set[str]) -> str:
    first = sorted(keys)[:4]
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return ", ".join(first) + more


# What torch.load raises for files that are damaged, no checkpoint, or hold more than tensors.
_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError),
    pickle.UnpicklingError,
)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise KitError(f"{path} does not exist; name a released checkpoint (.pth).") from error
    except _UNREADABLE as error:
        raise KitError(
            f"{path} cannot be read as weights only ({type(error).__name__}); only plain "
            "PyTorch checkpoints are read, since a pickled file could run code."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise KitError(f"{path} holds no state dict; name a checkpoint written by the trainer.")
    # A trainer that wrapped the model for several GPUs puts "module." before every key.
    return {key.removeprefix("module."): value for key, value in state.items()}


def _settings(state: dict[str, Tensor], system: System, path: Path) -> dict[str, int]:
    """The settings that the shapes in a file imply."""

    def shape(key: str) -> torch.Size:
        if TEXT + key not in state:
            raise KitError(f"{path} is no {system} checkpoint: it has no key {TEXT + key}.")
        return state[TEXT + key].shape

    def layers(side: str) -> int:
        pattern = re.compile(rf"{re.escape(TEXT)}model\.{side}\.layers\.(\d+)\.")
        return len({found[1] for key in state if (found := pattern.match(key))})

    size = shape("att_embed.0.weight")[0]
    sizes = {
        "size": size,
        "feed_forward_size": shape("model.encoder.layers.0.feed_forward.w_1.weight")[0],
        "encoder_layers": layers("encoder"),
        "decoder_layers": layers("decoder"),
    }
    if system == "r2gencmn":
        return {**sizes, "slots": shape("memory_matrix")[0]}
    gates = shape("model.decoder.layers.0.sublayer.0.norm.mlp_gamma.0.weight")
    return {**sizes, "slots": gates[1] // size}


def load_released(
    path: str | Path,
    system: System,
    vocabulary: Vocabulary | None = None,
    *,
    image_encoder: bool = True,
    trainable_encoder: bool = False,
    **options: Any,
) -> TransformerReporter:
    """A model with the weights of a released checkpoint, in evaluation mode.

    Args:
        path: a file written by the released trainer: ``{"state_dict": ...}`` or the state dict.
        system: "r2gencmn" or "r2gen".
        vocabulary: checked against the number of words in the file.
        image_encoder: also load the ResNet-101; False leaves it out (the model then reads patch
            features, ``[B, V, 49, 2048]`` from the released network).
        trainable_encoder: whether gradients reach the ResNet; its batch normalisation then follows
            the minibatches, as in the released code.
        options: settings that a file does not tell: ``heads`` (8), ``read_slots`` (32, R2GenCMN),
            ``memory_heads`` (8, R2Gen), dropouts.

    Raises:
        KitError: an unreadable file, missing or unexpected keys, wrong shapes, or a vocabulary of
            another size.
    """
    path = Path(path)
    if system not in ("r2gencmn", "r2gen"):
        raise KitError(f"there is no released system {system!r}; choose r2gencmn or r2gen.")
    state = _read(path)
    settings = {**_settings(state, system, path), **options}
    words = state.get(f"{TEXT}logit.weight", torch.empty(0)).shape[0]
    if vocabulary is not None and len(vocabulary) != words:
        raise KitError(
            f"{path} predicts {words} ids and the vocabulary has {len(vocabulary)}; build it from "
            "the same training reports, cleaned and counted the same way."
        )
    encoder = None
    if image_encoder:
        encoder = build_encoder(
            "resnet101",
            weights="none",
            trainable=trainable_encoder,
            bn_eval=not trainable_encoder,
        )
    model = build_model(
        "cmn" if system == "r2gencmn" else "r2gen",
        settings,
        vocabulary_size=max(words, 2),
        feature_dim=state[f"{TEXT}att_embed.0.weight"].shape[1],
        encoder=encoder,
    )
    _fill(model, state, path)
    return model.eval()


def released_tensors(model: TransformerReporter) -> dict[str, Tensor]:
    """Every released key and the tensor of ``model`` that belongs to it (no copies)."""
    parameters = dict(model.named_parameters())
    targets: dict[str, Tensor] = {
        key: parameters[name] for key, name in _released_names(model).items()
    }
    for key in _position_keys(model):
        targets[key] = model.positions.table.unsqueeze(0)
    if model.encoder is not None:
        body: nn.Module = model.encoder.body
        targets.update({IMAGE + name: value for name, value in body.state_dict().items()})
    return targets


@torch.no_grad()
def _fill(model: TransformerReporter, state: dict[str, Tensor], path: Path) -> None:
    targets = released_tensors(model)
    given = state.keys()
    if model.encoder is None:
        given = {key for key in given if not key.startswith("visual_extractor.")}
    missing, unexpected = targets.keys() - given, given - targets.keys()
    if missing or unexpected:
        told = [f"misses {_listed(missing)}"] if missing else []
        told += [f"has unexpected {_listed(unexpected)}"] if unexpected else []
        raise KitError(
            f"{path} does not fit: it {' and '.join(told)}; check the system"
            " (r2gencmn or r2gen) and image_encoder."
        )
    for key, target in targets.items():
        if state[key].shape != target.shape:
            raise KitError(
                f"{path}: {key} has shape {list(state[key].shape)} where "
                f"{list(target.shape)} is expected."
            )
    for key in targets:
        twin = key.replace(f"{TEXT}model.cmn.", f"{TEXT}cmn.", 1).replace(
            "src_embed.0", "tgt_embed.1"
        )
        if not torch.equal(state[key], state[twin]):
            raise KitError(f"{path}: {key} and {twin} must be the same tensor and differ.")
    for key, target in targets.items():
        target.copy_(state[key])


def export_released(model: TransformerReporter, path: str | Path) -> None:
    """Write ``model`` as the released trainers do, so that their code can load it.

    The file holds ``{"epoch", "state_dict", "optimizer", "monitor_best"}``; only the state dict
    carries anything. Without an image encoder in the model the file has no ResNet.

    Raises:
        KitError: the format has no place for this model (tags, a patch projection, a smaller R2Gen
            variant).
    """
    if not isinstance(model, (CMN, R2Gen)):
        raise KitError("only R2Gen and R2GenCMN models can be written in the released format.")
    if isinstance(model, R2Gen) and not model.conditions_norms:
        raise KitError(
            f"the released R2Gen format has no variant {model.config.variant!r}; "
            "only rm_mcln can be written."
        )
    if model.tag_count:
        raise KitError("the released format has no place for tags; train without them.")
    if model.projection is not None:
        raise KitError(
            "the released format has no place for a patch projection; train without "
            "patch_projection."
        )
    name = getattr(model.encoder, "name", None)
    if model.encoder is not None and name != "resnet101":
        raise KitError(f"the released format holds a resnet101, and this model has {name}.")
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in released_tensors(model).items()
    }
    for key in state:
        if key.startswith(f"{TEXT}model.cmn."):  # stored once, named twice
            state[key] = state[key.replace("model.cmn.", "cmn.", 1)]
    content = {"epoch": 0, "state_dict": state, "optimizer": {}, "monitor_best": 0.0}
    with replacing(Path(path)) as temporary:
        torch.save(content, temporary)
