"""Decoding, transforms and the packed cache."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv

from r2genkit import images as module
from r2genkit.errors import KitError
from r2genkit.images import (
    IMAGENET,
    UNIT,
    XRV,
    ImageTransform,
    PackedImages,
    RawImages,
    load_image,
    pack_images,
    smaller_pack,
)
from r2genkit.study import Renderable, Study, View


def noise(height: int, width: int, seed: int = 0, top: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, (height, width))


@dataclass(frozen=True)
class Square:
    """Renders one grey level and logs it; fails while ``obstacle`` exists; takes its time."""

    name: str
    level: int
    log: Path
    obstacle: Path | None = None
    pause: float = 0.0

    def digest(self) -> str:
        return f"square-{self.name}-{self.level}"

    def render(self, size: int) -> np.ndarray:
        if self.obstacle is not None and self.obstacle.exists():
            raise KitError("the obstacle is in the way")
        time.sleep(self.pause)
        with self.log.open("a") as file:
            file.write(f"{self.name}:{os.getpid()}\n")
        return np.full((size, size), self.level, dtype=np.uint8)


def study(number: int, log: Path, views: int = 2, **extra) -> Study:
    made = tuple(
        View(
            f"s{number}-{v}",
            ("frontal", "lateral", "unknown")[v],
            Square(f"{number}-{v}", (number * 3 + v) % 256, log, **extra),
        )
        for v in range(views)
    )
    return Study(f"s{number}", made, "text", "")


def rendered(log: Path) -> list[str]:
    return [line.split(":")[0] for line in log.read_text().splitlines()] if log.exists() else []


# --- decoding -------------------------------------------------------------------------------------


def test_grey_and_colour_files_give_the_same_pixels(tmp_path):
    grey = noise(9, 7).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([grey] * 3 + [np.full_like(grey, 255)])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([grey, np.full_like(grey, 255)])).save(tmp_path / "la.png")
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "palette.png")
    for file in tmp_path.iterdir():
        np.testing.assert_array_equal(load_image(file, None), grey, err_msg=file.name)
        assert load_image(file, None).dtype == np.uint8


def test_transparent_pixels_are_black(tmp_path):
    grey = np.full((4, 4), 200, dtype=np.uint8)
    alpha = np.full((4, 4), 255, dtype=np.uint8)
    alpha[0] = 0
    alpha[1] = 51  # one fifth opaque
    Image.fromarray(np.dstack([grey] * 3 + [alpha])).save(tmp_path / "a.png")
    np.testing.assert_allclose(
        load_image(tmp_path / "a.png", None)[:, 0], [0, 40, 200, 200], atol=1
    )
    indexed = Image.new("P", (4, 4), 1)
    indexed.putpalette([0, 0, 0, 200, 200, 200])
    indexed.putpixel((0, 0), 0)
    indexed.save(tmp_path / "p.png", transparency=1)
    assert load_image(tmp_path / "p.png", None).max() == 0


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bit_files_use_the_depth_of_their_brightest_pixel(tmp_path, bits):
    wide = noise(12, 10, top=2**bits).astype(np.uint16)
    wide[0, 0], wide[0, 1] = 0, 2**bits - 1
    Image.fromarray(wide).save(tmp_path / "deep.png")
    got = load_image(tmp_path / "deep.png", None)
    exact = wide / (2**bits - 1) * 255
    assert np.abs(got - exact).max() <= 0.5
    assert (got.min(), got.max()) == (0, 255)


def test_float_and_one_bit_files(tmp_path):
    unit = (noise(6, 6) / 255).astype(np.float32)
    Image.fromarray(unit).save(tmp_path / "float.tiff")
    np.testing.assert_array_equal(load_image(tmp_path / "float.tiff", None), noise(6, 6))
    Image.fromarray(noise(6, 6).astype(np.uint8) > 99).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(
        load_image(tmp_path / "bit.png", None), np.where(noise(6, 6) > 99, 255, 0)
    )


def test_exif_orientation_turns_the_image_upright(tmp_path):
    upright = np.zeros((8, 16), dtype=np.uint8)
    upright[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn counter-clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png", None), upright)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    whole = tmp_path / "whole.png"
    Image.fromarray(noise(64, 64).astype(np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:900])
    for name, says in [("text.png", "cannot be read"), ("cut.png", "cannot be read"),
                       ("none.png", "does not exist")]:  # fmt: skip
        with pytest.raises(KitError, match=f"{name}.*{says}"):
            load_image(tmp_path / name, 32)


# --- transforms -----------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(height=st.integers(20, 400), width=st.integers(20, 400), seed=st.integers(0, 9))
def test_resizing_equals_torchvision(height, width, seed):
    grey = noise(height, width, seed).astype(np.uint8)
    for mode, size in [("r2gen_eval", 224), ("kit2018", 299)]:
        want = np.asarray(tv.Resize((size, size))(Image.fromarray(grey)))
        np.testing.assert_array_equal(ImageTransform(mode)(grey), want)


@pytest.mark.parametrize("shape", [(300, 500), (500, 301), (256, 256), (90, 90)])
def test_training_transform_is_a_crop_of_torchvisions_resize(shape):
    grey = noise(*shape, seed=4).astype(np.uint8)
    resized = np.asarray(tv.Resize(256)(Image.fromarray(grey)))
    windows = np.lib.stride_tricks.sliding_window_view(resized, (224, 224))
    corners = {windows[i, j].tobytes(): (i, j, False)
               for i in range(windows.shape[0]) for j in range(windows.shape[1])}  # fmt: skip
    rng = np.random.default_rng(0)
    transform, found = ImageTransform("r2gen_train"), []
    for _ in range(40):
        got = transform(grey, rng)
        plain, mirrored = corners.get(got.tobytes()), corners.get(got[:, ::-1].tobytes())
        assert plain or mirrored
        corner = plain or mirrored
        found.append((corner[0], corner[1], plain is None))
    assert 8 <= sum(flipped for _, _, flipped in found) <= 32
    if len(corners) > 1:
        assert len({(i, j) for i, j, _ in found}) > 15
    unflipped = ImageTransform("r2gen_train", flip=False)
    assert all(unflipped(grey, rng).tobytes() in corners for _ in range(10))


def test_transform_refuses_bad_use():
    with pytest.raises(KitError, match="needs an rng"):
        ImageTransform("r2gen_train")(noise(300, 300).astype(np.uint8))
    with pytest.raises(KitError, match="unknown image transform 'crop'"):
        ImageTransform("crop")


def test_normalisation_equals_torchvision_and_documented_ranges():
    pixels = torch.from_numpy(noise(6, 5).astype(np.uint8))[None]
    want = tv.Normalize(IMAGENET.mean, IMAGENET.std)(pixels.expand(3, -1, -1).float() / 255)
    torch.testing.assert_close(IMAGENET(pixels)[0], want)
    ends = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    assert UNIT(ends)[0, 2].tolist() == [[0, 1]]
    assert XRV(ends)[0, 0].tolist() == [[-1024, 1024]]


# --- packing --------------------------------------------------------------------------------------


def test_pack_keeps_pixels_masks_and_projections(tmp_path):
    log = tmp_path / "log"
    studies = [study(1, log), study(2, log, views=1), study(3, log, views=3)]
    no_file = View("s4-0", "unknown", None)
    studies.append(replace(study(4, log), views=(no_file, *study(4, log).views[1:])))
    pack = pack_images(studies, size=8, cache_dir=tmp_path, progress=False)
    assert pack.study_ids == ("s1", "s2", "s3", "s4")
    assert pack.view_mask.tolist() == [[True, True], [True, False], [True, True], [True, False]]
    assert pack.views.tolist() == [2, 1, 2, 1]
    assert pack["s1"].shape == (2, 8, 8)
    assert pack["s1"].dtype == np.uint8
    assert [np.unique(v).tolist() for v in pack["s1"]] == [[3], [4]]
    assert [np.unique(v).tolist() for v in pack["s2"]] == [[6], [0]]
    assert np.unique(pack["s4"][0]).tolist() == [13]  # the view that has an image moves up
    assert pack.projections("s3") == ("frontal", "lateral")
    assert pack.projections("s4") == ("lateral",)
    assert pack.pixels(1)[1] is None
    assert "4 studies, 6 views at 8 px" in pack.summary()
    with pytest.raises(KitError, match="study s9 is not among"):
        pack["s9"]


def test_pack_is_found_again_and_follows_content(tmp_path):
    log = tmp_path / "log"
    studies = [study(1, log), study(2, log)]
    first = pack_images(studies, size=8, cache_dir=tmp_path, progress=False)
    again = pack_images(studies, size=8, cache_dir=tmp_path, progress=False)
    assert again.digest == first.digest
    assert len(rendered(log)) == 4
    brighter = replace(studies[1], views=tuple(
        replace(v, image=replace(v.image, level=99)) for v in studies[1].views))  # fmt: skip
    changed = pack_images([studies[0], brighter], size=8, cache_dir=tmp_path, progress=False)
    assert changed.digest != first.digest
    assert np.unique(changed["s2"]).tolist() == [99]
    assert rendered(log)[4:] == ["2-0", "2-1"]  # study 1 was copied from the first pack
    np.testing.assert_array_equal(changed["s1"], first["s1"])
    larger = pack_images(studies, size=12, cache_dir=tmp_path, progress=False)
    assert larger.digest != first.digest
    assert larger["s1"].shape == (2, 12, 12)


def test_files_are_packed_and_a_changed_file_is_noticed(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(noise(20, 30).astype(np.uint8)).save(file)
    one = [Study("p", (View("a", "unknown", file),), "", "")]
    first = pack_images(one, size=16, views=1, cache_dir=tmp_path, progress=False)
    np.testing.assert_array_equal(first["p"][0], load_image(file, 16))
    os.utime(file, (1, 1))  # a new time stamp alone changes nothing
    assert pack_images(one, size=16, views=1, cache_dir=tmp_path).digest == first.digest
    Image.fromarray(noise(20, 30, seed=1).astype(np.uint8)).save(file)
    second = pack_images(one, size=16, views=1, cache_dir=tmp_path, progress=False)
    assert second.digest != first.digest
    np.testing.assert_array_equal(second["p"][0], load_image(file, 16))


def test_interrupted_pack_resumes_with_the_missing_studies(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 3)
    log, obstacle = tmp_path / "log", tmp_path / "obstacle"
    obstacle.touch()
    studies = [study(i, log) for i in range(10)]
    studies[7] = study(7, log, obstacle=obstacle)
    with pytest.raises(KitError, match="study s7, view s7-0: the obstacle"):
        pack_images(studies, size=8, cache_dir=tmp_path, progress=False)
    before = rendered(log)
    assert set(before) >= {f"{i}-{v}" for i in range(6) for v in (0, 1)}
    obstacle.unlink()
    pack = pack_images(studies, size=8, cache_dir=tmp_path, progress=False)
    after = rendered(log)[len(before) :]
    assert sorted(after) == sorted(f"{i}-{v}" for i in range(6, 10) for v in (0, 1))
    assert [int(pack[f"s{i}"][1, 0, 0]) for i in range(10)] == [3 * i + 1 for i in range(10)]
    assert not list((tmp_path / "images").glob("*.partial"))
    assert not (pack.folder / "done.npy").exists()


def test_two_workers_name_errors_and_give_the_pixels_of_one(tmp_path):
    log, obstacle = tmp_path / "log", tmp_path / "obstacle"
    obstacle.touch()
    studies = [study(i, log) for i in range(60)]
    studies[40] = study(40, log, obstacle=obstacle)
    two = tmp_path / "two"
    with pytest.raises(KitError, match="study s40, view s40-0: the obstacle"):
        pack_images(studies, size=8, cache_dir=two, workers=2, progress=False)
    worker_of = dict(line.split(":") for line in log.read_text().splitlines())
    assert str(os.getpid()) not in worker_of.values()
    pairs = [(worker_of[f"{i}-0"], worker_of[f"{i}-1"]) for i in range(32)]
    assert all(first == second for first, second in pairs)
    obstacle.unlink()
    resumed = pack_images(studies, size=8, cache_dir=two, workers=1, progress=False)
    one = pack_images(studies, size=8, cache_dir=tmp_path / "one", workers=1, progress=False)
    np.testing.assert_array_equal(one.array, resumed.array)


@pytest.mark.slow
def test_a_killed_pack_leaves_no_workers_and_resumes(tmp_path):
    log, script = tmp_path / "log", tmp_path / "script.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from r2genkit.images import pack_images
from test_images import study
if __name__ == "__main__":
    folder = Path({str(tmp_path)!r})
    studies = [study(i, folder / "log", pause=0.04) for i in range(96)]
    pack_images(studies, size=8, cache_dir=folder, workers=2, progress=False)
"""
    )
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 60
    while len(rendered(log)) < 90:  # each worker has then finished a chunk of 16 studies
        assert process.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(1)
    stopped = rendered(log)
    assert len(stopped) < 192
    time.sleep(0.5)
    assert rendered(log) == stopped  # at a view every 20 ms, a live worker would show
    pack = pack_images([study(i, log) for i in range(96)], size=8, cache_dir=tmp_path, workers=1,
                       progress=False)  # fmt: skip
    assert len(rendered(log)) - len(stopped) <= 192 - 32
    assert [int(pack[f"s{i}"][1, 0, 0]) for i in range(96)] == [
        (3 * i + 1) % 256 for i in range(96)
    ]


def _pack_elsewhere(folder, meeting):
    studies = [study(i, folder / "log", pause=0.01) for i in range(20)]
    meeting.wait()  # importing took each process its own time
    return pack_images(studies, size=8, cache_dir=folder, progress=False).digest


def test_two_processes_asking_for_the_same_pack_render_it_once(tmp_path):
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        meeting = manager.Barrier(2)
        digests = pool.starmap(_pack_elsewhere, [(tmp_path, meeting)] * 2)
    assert digests[0] == digests[1]
    assert sorted(rendered(tmp_path / "log")) == sorted(
        f"{i}-{v}" for i in range(20) for v in (0, 1)
    )
    assert not list((tmp_path / "images").glob("*.partial"))


UNGUARDED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from r2genkit.errors import KitError
from r2genkit.images import pack_images
from test_images import study
{comment}
folder = Path({folder!r})
studies = [study(i, folder / "log") for i in range(60)]
try:
    pack_images(studies, size=8, cache_dir=folder, workers=2, progress=False)
except KitError as error:
    print(error, flush=True)
    raise SystemExit(3)
"""


@pytest.mark.parametrize("comment", ["", "# __name__ is not looked at"])
def test_a_script_without_the_main_line_is_told_of_it(tmp_path, comment):
    """Found before workers start, or, where the word stands there without effect, by a worker."""
    script = tmp_path / "script.py"
    here = str(Path(__file__).parent)
    script.write_text(UNGUARDED.format(tests=here, folder=str(tmp_path), comment=comment))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert 'if __name__ == "__main__":' in done.stdout
    assert rendered(tmp_path / "log") == []


def test_pack_refuses_bad_input(tmp_path, monkeypatch):
    log = tmp_path / "log"
    good = study(1, log)
    bare = Study("s9", (View("s9-0", "frontal", None),), "", "")
    cases = [
        ([], "no studies"),
        ([good, good], "study id s1 occurs more than once"),
        ([good, bare], "1 of 2 studies have no image .first: s9"),
        ([Study("s5", (View("x", "frontal", 7),), "", "")], "study s5, view x: its image is a int"),
        ([Study("s6", (View("x", "frontal", tmp_path / "no.png"),), "", "")], "s6.*no.png"),
    ]
    for studies, says in cases:
        with pytest.raises(KitError, match=says):
            pack_images(studies, size=8, cache_dir=tmp_path, progress=False)

    class Wrong(Square):
        def render(self, size: int) -> np.ndarray:
            return np.zeros((size, size + 1), dtype=np.uint8)

    odd = Study("s7", (View("x", "frontal", Wrong("w", 1, log)),), "", "")
    with pytest.raises(KitError, match=r"study s7, view x: .*renders uint8 \[8, 9\]"):
        pack_images([odd], size=8, cache_dir=tmp_path, progress=False)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(KitError, match="R2GENKIT_CACHE"):
        pack_images([study(2, log)], size=64, cache_dir=tmp_path, progress=False)


def test_a_smaller_pack_is_made_of_the_pixels_of_a_pack(tmp_path):
    log = tmp_path / "log"
    studies = [study(1, log), study(2, log, views=1)]
    pack = pack_images(studies, size=24, cache_dir=tmp_path, progress=False)
    drawn = len(rendered(log))
    small = smaller_pack(pack, 8)
    assert len(rendered(log)) == drawn  # nothing is rendered again
    assert small["s1"].shape == (2, 8, 8) and small.size == 8
    assert (small.study_ids, small.view_mask.tolist()) == (pack.study_ids, pack.view_mask.tolist())
    transform = ImageTransform("resize", 8)
    assert np.array_equal(small["s1"][1], transform(pack["s1"][1]))
    assert small["s2"][1].sum() == 0
    assert small.digest != pack.digest
    assert smaller_pack(pack, 8).folder == small.folder
    assert smaller_pack(pack, 24) is pack
    # Pixels at second hand are not taken for those of a rendering at that size.
    pack_images(studies, size=8, cache_dir=tmp_path, progress=False)
    assert len(rendered(log)) == 2 * drawn
    with pytest.raises(KitError, match="24 px cannot be made 32 px"):
        smaller_pack(pack, 32)


def test_damaged_neighbours_do_not_matter_but_a_damaged_pack_is_named(tmp_path):
    log = tmp_path / "log"
    broken = tmp_path / "images" / "broken"
    broken.mkdir(parents=True)
    (broken / "index.json").write_text("{")
    pack = pack_images([study(1, log)], size=8, cache_dir=tmp_path, progress=False)
    (pack.folder / "index.json").write_text("{")
    with pytest.raises(KitError, match="no readable index"):
        PackedImages(pack.folder)


def test_pickled_pack_maps_its_file_again(tmp_path):
    pack = pack_images([study(1, tmp_path / "log")], size=64, cache_dir=tmp_path, progress=False)
    assert pack.array.nbytes == 2 * 64 * 64
    copy = pickle.loads(pickle.dumps(pack))
    assert len(pickle.dumps(pack)) < 2000
    np.testing.assert_array_equal(copy["s1"], pack["s1"])
    assert not copy.array.flags.writeable


def test_raw_images_keep_file_sizes(tmp_path):
    Image.fromarray(noise(20, 30).astype(np.uint8)).save(tmp_path / "a.png")
    views = (View("a", "frontal", tmp_path / "a.png"), study(5, tmp_path / "log").views[0])
    raw = RawImages([Study("p", views, "", ""), study(1, tmp_path / "log", views=1)])
    assert [image.shape for image in raw.pixels(0)] == [(20, 30), (256, 256)]
    assert raw.pixels(1)[1] is None
    assert raw.view_mask.tolist() == [[True, True], [True, False]]
    assert isinstance(views[1].image, Renderable)


@pytest.mark.data
def test_real_radiographs_pack(tmp_path):
    root = os.environ.get("R2GENKIT_DATA")
    if not root or not (Path(root) / "annotation_subset.json").is_file():
        pytest.skip("R2GENKIT_DATA does not name a folder with annotation_subset.json")
    parts = json.loads((Path(root) / "annotation_subset.json").read_text())
    entries = [entry for part in parts.values() for entry in part]
    files = sorted((Path(root) / "images").iterdir())
    studies = []
    for entry in entries:
        stem = str(entry["id"]).split("_")[0]
        own = [f for f in files if f.name.split("_")[0] == stem]
        if own:
            studies.append(
                Study(entry["id"], tuple(View(f.stem, "unknown", f) for f in own), "", "")
            )
    assert studies
    pack = pack_images(studies, size=224, cache_dir=tmp_path, progress=False)
    for one in studies:
        for slot, view in enumerate(one.views[:2]):
            with Image.open(view.image) as image:
                want = np.asarray(tv.Resize((224, 224))(image.convert("L")))
            np.testing.assert_array_equal(pack[one.id][slot], want)
            assert 20 < want.mean() < 235
            assert want.std() > 10
