"""The downloader against a server on the loopback: resume, damage, traversal, offline."""

import gzip
import http.server
import io
import json
import shutil
import socket
import tarfile
import threading
from pathlib import Path

import pytest

from r2genkit.corpora import download as module
from r2genkit.corpora.download import (
    CHUNK,
    Archive,
    check_archive,
    compare_reports,
    download,
    extract,
    fetch,
    sha256_file,
    verify,
)
from r2genkit.corpora.openi import REPORTS_NAME, index_images, wheel_file
from r2genkit.corpora.r2gen import DataWarning
from r2genkit.errors import KitError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files`` with Range support; can break off and count requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        data = server.files.get(self.path)
        if data is None:
            self.send_error(404, "Not Found")
            return
        etag = server.etag
        start = 0
        wanted = self.headers.get("Range")
        fresh = self.headers.get("If-Range") in (None, etag)
        if wanted and fresh and server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        if server.announce:
            self.send_header("Content-Length", str(len(body)))
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Connection", "close")
        self.end_headers()
        limit = server.break_after.pop(0) if server.break_after else len(body)
        self.wfile.write(body[:limit])
        self.close_connection = True

    def log_message(self, *_):
        """Silence."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.files, httpd.requests, httpd.break_after = {}, [], []
        httpd.etag, httpd.ranges, httpd.announce = '"v1"', True, True
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def tgz(members: dict[str, bytes], kind=tarfile.REGTYPE, link="") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def incompressible(n=200_000):
    import numpy as np

    return np.random.default_rng(1).bytes(n)


def quick(url, path, **options):
    return fetch(url, path, progress=False, pause_s=0, **options)


@pytest.fixture
def openi(server, monkeypatch):
    """The Open-i table pointed at the local server, with tiny archives."""
    reports = wheel_file(REPORTS_NAME).read_bytes()
    server.files["/c/NLMCXR_reports.tgz"] = reports
    server.files["/c/NLMCXR_png.tgz"] = tgz(
        {f"NLMCXR_png/CXR1_1_IM-0001-{k}001.png": bytes([k]) * 50 for k in (3, 4)}
    )
    table = (
        Archive("reports", f"{server.url}/c/NLMCXR_reports.tgz"),
        Archive("png", f"{server.url}/c/NLMCXR_png.tgz", "images", ".png"),
    )
    monkeypatch.setattr(module, "ARCHIVES", {"openi": table})
    return server


# ---------------------------------------------------------------- fetch


def test_plain_download(server, tmp_path):
    server.files["/a.bin"] = data = incompressible()
    digest = quick(f"{server.url}/a.bin", tmp_path / "sub" / "a.bin")
    assert (tmp_path / "sub" / "a.bin").read_bytes() == data
    assert digest == sha256_file(tmp_path / "sub" / "a.bin")
    record = json.loads((tmp_path / "sub" / "a.bin.sha256.json").read_text())
    assert record["sha256"] == digest and record["bytes"] == len(data)
    assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == ["a.bin", "a.bin.sha256.json"]


def test_a_broken_transfer_resumes_within_one_call(server, tmp_path):
    server.files["/a.bin"] = data = incompressible()
    server.break_after = [70_000, 70_000]
    quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == data
    ranges = [headers.get("Range") for headers in server.requests]
    assert ranges == [None, f"bytes={CHUNK}-", f"bytes={2 * CHUNK}-"]


def test_a_broken_transfer_resumes_in_the_next_call(server, tmp_path, monkeypatch):
    server.files["/a.bin"] = data = incompressible()
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.break_after = [120_000]
    with pytest.raises(KitError, match=r"65,536 bytes arrived, 200,000 bytes announced.*resume"):
        quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin.part").read_bytes() == data[:CHUNK]
    quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == data
    assert server.requests[1]["Range"] == f"bytes={CHUNK}-"


def test_a_new_version_on_the_server_starts_over(server, tmp_path, monkeypatch):
    old, new = incompressible(), incompressible()[::-1]
    server.files["/a.bin"] = old
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.break_after = [70_000]
    with pytest.raises(KitError):
        quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    server.files["/a.bin"], server.etag = new, '"v2"'
    quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == new


@pytest.mark.parametrize("flaw", ["no ranges", "no validator"])
def test_servers_that_cannot_resume_start_over(server, tmp_path, flaw):
    server.files["/a.bin"] = data = incompressible()
    server.ranges = flaw != "no ranges"
    server.etag = None if flaw == "no validator" else server.etag
    server.break_after = [90_000]
    quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == data


def test_a_complete_part_file_is_not_trusted_blindly(server, tmp_path):
    """The server answers 416 when nothing is left: the file is fetched afresh."""
    server.files["/a.bin"] = data = incompressible(1000)
    (tmp_path / "a.bin.part").write_bytes(data)
    state = {"url": f"{server.url}/a.bin", "validator": '"v1"'}
    (tmp_path / "a.bin.part.json").write_text(json.dumps(state))
    quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == data


def test_a_foreign_part_file_is_discarded(server, tmp_path):
    server.files["/a.bin"] = data = incompressible(1000)
    (tmp_path / "a.bin.part").write_bytes(b"something else")
    quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == data


def test_length_unknown(server, tmp_path):
    server.files["/a.bin"] = data = incompressible(5000)
    server.announce = False
    quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == data


def test_another_digest_than_the_first_time(server, tmp_path):
    server.files["/a.bin"] = incompressible(1000)
    quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    (tmp_path / "a.bin").unlink()
    server.files["/a.bin"] = incompressible(1000)[::-1]
    with pytest.raises(KitError, match="differs from that of the first download"):
        quick(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_error_answers_name_the_address(server, tmp_path):
    with pytest.raises(KitError, match=r"/gone\.bin: the server answers 404"):
        quick(f"{server.url}/gone.bin", tmp_path / "gone.bin")
    assert not list(tmp_path.iterdir())


def test_offline_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(KitError) as caught:
        quick(f"http://127.0.0.1:{port}/a.bin", tmp_path / "a.bin")
    message = str(caught.value)
    assert "127.0.0.1 cannot be reached" in message and "phantom" in message
    assert "\n" not in message and "Traceback" not in message


def test_no_room(server, tmp_path, monkeypatch):
    server.files["/a.bin"] = incompressible(5000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(KitError, match="5,000 bytes are still to come but only 100"):
        quick(f"{server.url}/a.bin", tmp_path / "a.bin")


# ---------------------------------------------------------------- archives


def test_check_archive(tmp_path):
    good = tmp_path / "good.tgz"
    good.write_bytes(tgz({"a.png": incompressible(), "b.png": b"x"}))
    assert check_archive(good) == 2
    whole = good.read_bytes()
    cases = {
        "cut": whole[: len(whole) // 2],
        "tail": whole[:-4] + b"\0\0\0\0",  # gzip's own length field
        "text": b"no archive",
        "inner": gzip.compress(b"no tar"),
        "empty": tgz({}),
    }
    for name, data in cases.items():
        (tmp_path / f"{name}.tgz").write_bytes(data)
        with pytest.raises(KitError, match=rf"{name}\.tgz: (damaged|the archive holds no file)"):
            check_archive(tmp_path / f"{name}.tgz")


def test_extract_appears_whole(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(tgz({"x.png": b"1", "y.png": b"2"}))
    assert extract(path, tmp_path / "images", ".png", progress=False) == 2
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == ["x.png", "y.png"]
    with pytest.raises(KitError, match="not empty"):
        extract(path, tmp_path / "images", ".png", progress=False)


def test_a_single_top_folder_is_dropped(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(tgz({"top/x.png": b"1", "top/y.png": b"2"}))
    extract(path, tmp_path / "images", ".png", progress=False)
    assert (tmp_path / "images" / "y.png").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tgz({"good.png": b"1", "../evil.png": b"2"}), "leaves the folder"),
        (tgz({"a/../../evil.png": b"2"}), "leaves the folder"),
        (tgz({"link.png": b""}, tarfile.SYMTYPE, "/etc/hostname"), "link or device"),
        (tgz({"hard.png": b""}, tarfile.LNKTYPE, "../evil.png"), "link or device"),
        (tgz({"pipe.png": b""}, tarfile.FIFOTYPE), "link or device"),
        (tgz({"run.sh": b"echo"}), r"no \.png file"),
        (tgz({"a.png": incompressible()})[:9000], "damaged archive"),
        (tgz({}), "holds no file"),
    ],
)
def test_bad_archives_leave_nothing_behind(tmp_path, data, words):
    inside = tmp_path / "target"
    inside.mkdir()
    path = inside / "bad.tgz"
    path.write_bytes(data)
    with pytest.raises(KitError, match=words):
        extract(path, inside / "images", ".png", progress=False)
    assert [p.name for p in inside.iterdir()] == ["bad.tgz"]
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_absolute_names_stay_below_the_folder(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(tgz({"/b/x.png": b"1", "y.png": b"2"}))
    extract(path, tmp_path / "images", ".png", progress=False)
    assert (tmp_path / "images" / "b" / "x.png").read_bytes() == b"1"


# ---------------------------------------------------------------- download


def test_whole_download_then_nothing_left_to_do(openi, tmp_path, recwarn):
    target = download("openi", tmp_path / "t", progress=False)
    assert set(index_images(target)) == {"CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"}
    assert not [w for w in recwarn if issubclass(w.category, DataWarning)]
    before = len(openi.requests)
    download("openi", target, progress=False)
    assert len(openi.requests) == before
    (target / "images" / "CXR1_1_IM-0001-3001.png").unlink()
    with pytest.raises(KitError, match="holds 1 files, 2 were extracted"):
        download("openi", target, progress=False)


def test_parts(openi, tmp_path):
    download("openi", tmp_path, progress=False, parts=["reports"])
    assert not (tmp_path / "images").exists() and (tmp_path / REPORTS_NAME).is_file()
    with pytest.raises(KitError, match=r"no part 'dicom': choose of reports, png"):
        download("openi", tmp_path, parts=["dicom"])


def test_default_target_is_where_the_reader_looks(openi, tmp_path, monkeypatch):
    from r2genkit.corpora import load_corpus

    monkeypatch.setenv("R2GENKIT_DOWNLOADS", str(tmp_path))
    monkeypatch.delenv("R2GENKIT_DATA", raising=False)
    assert download("openi", progress=False) == tmp_path / "openi"
    views = [v.image for v in load_corpus("openi")[0].views]
    assert [path.parent for path in views] == [tmp_path / "openi" / "images"] * 2


def test_a_damaged_archive_is_discarded_and_can_be_fetched_again(openi, tmp_path):
    good = openi.files["/c/NLMCXR_png.tgz"]
    openi.files["/c/NLMCXR_png.tgz"] = good[:-30] + bytes(30)
    with pytest.raises(KitError, match="damaged archive"):
        download("openi", tmp_path, progress=False, parts=["png"])
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    openi.files["/c/NLMCXR_png.tgz"] = good
    download("openi", tmp_path, progress=False, parts=["png"])
    assert len(index_images(tmp_path)) == 2


def test_an_archive_that_rots_on_disk_is_noticed(openi, tmp_path):
    download("openi", tmp_path, progress=False, parts=["png"])
    path = tmp_path / "NLMCXR_png.tgz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(KitError, match="differs from that of the first download"):
        download("openi", tmp_path, progress=False, parts=["png"])


def test_an_archive_fetched_by_hand_is_taken_and_recorded(openi, tmp_path):
    (tmp_path / "NLMCXR_png.tgz").write_bytes(openi.files["/c/NLMCXR_png.tgz"])
    download("openi", tmp_path, progress=False, parts=["png"])
    assert openi.requests == [] and len(index_images(tmp_path)) == 2
    assert verify(tmp_path / "NLMCXR_png.tgz") == sha256_file(tmp_path / "NLMCXR_png.tgz")


def test_reports_are_compared_with_the_wheel(tmp_path):
    wheel = wheel_file(REPORTS_NAME)
    assert compare_reports(wheel) == 0
    first, second = tmp_path / "a.tgz", tmp_path / "b.tgz"
    first.write_bytes(tgz({"e/1.xml": b"one", "e/2.xml": b"two", "e/3.xml": b"three"}))
    second.write_bytes(tgz({"e/1.xml": b"one", "e/2.xml": b"TWO"}))
    with pytest.warns(DataWarning, match="2 reports differ"):
        assert compare_reports(first, second) == 2


def test_what_cannot_be_downloaded_says_how_to_get_it():
    with pytest.raises(KitError, match="R2Gen repository"):
        download("r2gen")
    with pytest.raises(KitError, match="Unknown corpus"):
        download("chexpert")


def test_the_table_names_the_public_archives():
    archives = module.ARCHIVES["openi"]
    assert [a.file for a in archives] == ["NLMCXR_reports.tgz", "NLMCXR_png.tgz"]
    assert all(a.url.startswith("https://openi.nlm.nih.gov/") for a in archives)
    assert Path(archives[1].folder) == Path("images")
