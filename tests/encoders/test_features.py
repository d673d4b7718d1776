"""The feature cache and its principal components."""

from __future__ import annotations

import pickle
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as SklearnPCA
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r2genkit.encoders import features as module
from r2genkit.encoders.features import PCA, PackedFeatures, cache_features, fit_pca
from r2genkit.encoders.networks import Encoder
from r2genkit.errors import KitError
from r2genkit.images import IMAGENET, PackedImages, pack_images
from r2genkit.study import Study, View


class Noise:
    """Renders seeded noise."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def digest(self) -> str:
        return f"noise-{self.seed}"

    def render(self, size: int) -> np.ndarray:
        return np.random.default_rng(self.seed).integers(0, 256, (size, size), dtype=np.uint8)


def make_images(folder, n: int, size: int = 32) -> PackedImages:
    studies = [
        Study(
            f"s{i}",
            tuple(View(f"s{i}-{v}", "unknown", Noise(2 * i + v)) for v in range(1 + (i % 3 > 0))),
            "",
            "",
        )
        for i in range(n)
    ]
    return pack_images(studies, size=size, cache_dir=folder, workers=1, progress=False)


def make_encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(3, 6, 8, stride=8, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 1)
    )
    body[1].running_mean.normal_()
    return Encoder("tiny", body, IMAGENET, {name: name for name in body.state_dict()})


def cached(folder, images, encoder=None, ids=None, **extra) -> PackedFeatures:
    extra = {"cache_dir": folder, "workers": 1, "progress": False} | extra
    return cache_features(encoder or make_encoder(), images, ids, **extra)


def test_features_are_the_encoders_with_absent_views_zero(tmp_path):
    images, encoder = make_images(tmp_path, 7), make_encoder()
    ids = ["s5", "s0", "s4"]
    features = cached(tmp_path, images, encoder, ids)
    assert features.study_ids == tuple(ids)
    assert features.array.shape == (3, 2, 16, 5)
    assert features.array.dtype == np.float16
    assert (features.tokens, features.dim, len(features)) == (16, 5, 3)
    assert features.view_mask.tolist() == [[True, True], [True, False], [True, True]]
    for study_id in ids:
        pixels = torch.tensor(images[study_id])
        mask = torch.from_numpy(images.view_mask[[images.row(study_id)]])
        want = encoder.encode_views(encoder.preprocess(pixels)[None], mask)[0]
        got = torch.tensor(features[study_id]).float()
        torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)
    assert not features["s0"][1].any()
    with pytest.raises(KitError, match="study s9 is not among"):
        features["s9"]


def test_key_follows_weights_pixels_studies_and_grid(tmp_path):
    images = make_images(tmp_path, 4)
    first = cached(tmp_path, images)
    assert cached(tmp_path, images).folder == first.folder
    others = [
        cached(tmp_path, images, make_encoder(1)),
        cached(tmp_path, make_images(tmp_path, 4, size=40)),
        cached(tmp_path, images, ids=["s1", "s0"]),
        cached(tmp_path, images, grid=2),
        cached(tmp_path, images, pca=2, pca_ids=["s0", "s1"]),
        cached(tmp_path, images, pca=2, pca_ids=["s0", "s2"]),
        cached(tmp_path, images, pca=3, pca_ids=["s0", "s2"]),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 8
    assert len({first.digest, *(other.digest for other in others)}) == 8


def test_grid_pools_neighbouring_patches(tmp_path):
    images = make_images(tmp_path, 3)
    fine, coarse = cached(tmp_path, images), cached(tmp_path, images, grid=2)
    assert coarse.array.shape == (3, 2, 4, 5)
    blocks = fine.array.astype(np.float32).reshape(3, 2, 2, 2, 2, 2, 5)
    want = blocks.mean(axis=(3, 5)).reshape(3, 2, 4, 5)
    np.testing.assert_allclose(coarse.array, want, atol=3e-3)


def test_gather_from_disk_and_from_memory(tmp_path):
    features = cached(tmp_path, make_images(tmp_path, 6))
    rows = np.array([4, 0, 4])
    from_disk = features.gather(rows)
    assert from_disk.dtype == torch.float32
    np.testing.assert_array_equal(from_disk, features.array[rows].astype(np.float32))
    copy = pickle.loads(pickle.dumps(features.in_memory()))
    assert copy._memory is None
    assert torch.equal(features.gather(rows), from_disk)
    assert torch.equal(features.in_memory(torch.float32).gather(rows), from_disk)


def test_interrupted_extraction_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2)
    images, seen = make_images(tmp_path, 9), []
    extract = module._extract_chunk

    def stopping(folder, images, extractor, rows):
        if len(seen) == 2 and 4 in [row for row, _ in rows]:
            raise KeyboardInterrupt
        seen.append([row for row, _ in rows])
        return extract(folder, images, extractor, rows)

    monkeypatch.setattr(module, "_extract_chunk", stopping)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, images)
    assert seen == [[0, 1], [2, 3]]
    seen.append("again")
    resumed = cached(tmp_path, images)
    assert seen[3:] == [[4, 5], [6, 7], [8]]
    assert resumed.info["computed"] == 5
    whole = cached(tmp_path / "other", images)
    np.testing.assert_array_equal(resumed.array, whole.array)


def test_two_processes_equal_one(tmp_path):
    images = make_images(tmp_path, 60)
    one = cached(tmp_path / "one", images)
    two = cached(tmp_path / "two", images, workers=2)
    assert one.digest == two.digest
    np.testing.assert_allclose(one.array, two.array, rtol=2e-3, atol=1e-3)
    assert two.array[:, 0].any(axis=(1, 2)).all()


def _cache_elsewhere(folder, meeting):
    images = PackedImages(next((folder / "images").glob("*/index.json")).parent)
    meeting.wait()  # importing took each process its own time
    ids = list(images.study_ids)
    made = cached(folder, images, pca=2, pca_ids=ids[:20])
    raw = cached(folder, images)
    return made.info["project_seconds"], raw.info["seconds"], float(made.array.sum())


def test_two_processes_asking_for_the_same_features_compute_them_once(tmp_path):
    make_images(tmp_path, 40)
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        meeting = manager.Barrier(2)
        told = pool.starmap(_cache_elsewhere, [(tmp_path, meeting)] * 2)
    assert told[0] == told[1]  # the very same index: one computed, the other read
    folders = sorted(path.name for path in (tmp_path / "features").iterdir() if path.is_dir())
    assert len(folders) == 2 and not any("partial" in name for name in folders)


def test_values_beyond_half_precision_are_clipped(tmp_path):
    encoder = make_encoder()
    with torch.no_grad():
        encoder.body[3].bias.fill_(1e6)
    assert np.isfinite(cached(tmp_path, make_images(tmp_path, 2), encoder).array).all()


# --- principal components -------------------------------------------------------------------------


def test_components_equal_sklearns_and_see_training_studies_only(tmp_path):
    images = make_images(tmp_path, 12)
    raw = cached(tmp_path, images)
    train = [f"s{i}" for i in range(8)]
    projected = cached(tmp_path, images, pca=3, pca_ids=train)
    rows = [raw.row(study_id) for study_id in train]
    tokens = raw.array[rows][raw.view_mask[rows]].reshape(-1, 5).astype(np.float64)
    oracle = SklearnPCA(3).fit(tokens)
    fitted = projected.pca
    np.testing.assert_allclose(
        np.abs(np.sum(fitted.components.numpy() * oracle.components_, axis=1)), 1, atol=1e-4
    )
    np.testing.assert_allclose(fitted.explained, oracle.explained_variance_ratio_, rtol=1e-3)
    assert projected.info["explained"] == pytest.approx(
        oracle.explained_variance_ratio_.sum(), 1e-3
    )
    np.testing.assert_allclose(fitted.mean, tokens.mean(0), rtol=1e-4, atol=1e-5)
    scores = projected.array[rows][raw.view_mask[rows]].astype(np.float64)
    assert scores.reshape(-1, 3).var(axis=0).mean() == pytest.approx(1, rel=0.01)
    want = np.abs(oracle.transform(tokens)) * float(fitted.scale)
    np.testing.assert_allclose(np.abs(scores.reshape(-1, 3)), want, atol=5e-3)
    assert not projected["s0"][1].any()  # an absent view stays zero
    assert fitted.fitted_on == module.ids_fingerprint(train[::-1])
    assert "of the variance" in projected.summary()


def test_large_training_sets_are_sampled_the_same_way_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PCA_STUDIES", 4)
    raw = cached(tmp_path, make_images(tmp_path, 12))
    train = [f"s{i}" for i in range(12)]
    one, two = fit_pca(raw, 2, train), fit_pca(raw, 2, train[::-1])
    torch.testing.assert_close(one.components, two.components)
    monkeypatch.setattr(module, "_PCA_STUDIES", 12)
    assert not torch.allclose(one.mean, fit_pca(raw, 2, train).mean)


def test_fitted_components_apply_to_other_studies_and_survive_saving(tmp_path):
    images = make_images(tmp_path, 10)
    train = [f"s{i}" for i in range(6)]
    whole = cached(tmp_path, images, pca=2, pca_ids=train)
    pca = whole.pca
    pca.save(tmp_path / "pca.safetensors")
    again = PCA.load(tmp_path / "pca.safetensors")
    assert again.fingerprint == pca.fingerprint
    assert again.fitted_on == pca.fitted_on
    new = cached(tmp_path, images, ids=["s9", "s7"], pca=again)
    np.testing.assert_array_equal(new["s9"], whole["s9"])
    with pytest.raises(KitError, match="are for patch features of 4 numbers"):
        wrong = PCA(torch.zeros(4), torch.zeros(2, 4), torch.ones(()), torch.ones(2), "x")
        cached(tmp_path, images, pca=wrong)
    with pytest.raises(KitError, match="no principal components"):
        PCA.load(tmp_path / "none.safetensors")


def test_raw_features_can_be_thrown_away(tmp_path):
    images, train = make_images(tmp_path, 6), ["s0", "s1", "s2"]
    kept = cached(tmp_path / "a", images, pca=2, pca_ids=train)
    thrown = cached(tmp_path / "b", images, pca=2, pca_ids=train, keep_raw=False)
    np.testing.assert_array_equal(kept.array, thrown.array)
    assert len(list((tmp_path / "a/features").glob("*/index.json"))) == 2
    assert len(list((tmp_path / "b/features").glob("*/index.json"))) == 1
    assert cached(tmp_path / "b", images, pca=2, pca_ids=train).folder == thrown.folder


def test_bad_requests(tmp_path):
    images = make_images(tmp_path, 3)
    for extra, says in [
        ({"pca": 2}, "needs pca_ids"),
        ({"pca": 2, "pca_ids": ["s0", "other"]}, "first: other"),
        ({"pca": 6, "pca_ids": ["s0"]}, r"1\.\.5 for tiny, not 6"),
        ({"ids": ["s0", "s8"]}, "study s8 is not among the 3 packed"),
        ({"ids": []}, "no studies"),
    ]:
        with pytest.raises(KitError, match=says):
            cached(tmp_path, images, **extra)
    features = cached(tmp_path, images)
    (features.folder / "index.json").write_text("{")
    with pytest.raises(KitError, match="no readable index"):
        PackedFeatures(features.folder)


def test_projection_is_placed_with_its_model():
    with FakeTensorMode():
        pca = PCA(torch.zeros(5), torch.zeros(2, 5), torch.ones(()), torch.ones(2), "x").to("cuda")
        assert pca(torch.zeros(1, 2, 4, 5, device="cuda")).device.type == "cuda"


@pytest.mark.gpu
def test_gpu_features_equal_cpu_features(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    images = make_images(tmp_path, 20)
    on_cpu = cached(tmp_path / "cpu", images)
    on_gpu = cached(tmp_path / "gpu", images, make_encoder().to("cuda"), device="cuda")
    assert on_gpu.digest == on_cpu.digest
    np.testing.assert_allclose(on_gpu.array, on_cpu.array, rtol=1e-2, atol=1e-2)
