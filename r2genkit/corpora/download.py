"""Fetch the public Open-i archives: resumable, verified, extracted safely.

The National Library of Medicine publishes no checksums. So: the length the server announces must
arrive; the digest of a first download is kept in a side file (``NAME.sha256.json``) and every later
run is checked against it; the archive must decompress to the end (gzip carries a checksum of its
own); and the reports are compared with the copy in the torchxrayvision wheel.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from r2genkit import paths
from r2genkit.corpora import CORPORA
from r2genkit.corpora.openi import REPORTS_NAME, wheel_file
from r2genkit.corpora.r2gen import DataWarning
from r2genkit.errors import KitError
from r2genkit.files import write_json

CHUNK = 1 << 16
"""Bytes per write; what a broken connection can lose at most."""
ATTEMPTS = 5
"""Connections made for one file before giving up; each resumes where the last one broke off."""
TIMEOUT_S = (10, 60)
"""Seconds to wait for a connection and for the next piece of data."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One file to fetch.

    Attributes:
        part: name under which it is asked for.
        url: where it lies.
        folder: folder below the target that its members are extracted to; "" = leave it packed
            (the reports are read straight from the archive).
        members: suffix that every extracted file must have.
    """

    part: str
    url: str
    folder: str = ""
    members: str = ""

    @property
    def file(self) -> str:
        """File name of the archive."""
        return PurePosixPath(urlsplit(self.url).path).name


ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "openi": (
        Archive("reports", "https://openi.nlm.nih.gov/imgs/collections/NLMCXR_reports.tgz"),
        Archive(
            "png", "https://openi.nlm.nih.gov/imgs/collections/NLMCXR_png.tgz", "images", ".png"
        ),
    )
}
"""What can be fetched, by corpus; the one place where addresses stand."""


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _side_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _recorded(path: Path) -> dict | None:
    side = _side_file(path)
    if not side.is_file():
        return None
    try:
        record = json.loads(side.read_text(encoding="utf-8"))
        return {"sha256": str(record["sha256"]), "bytes": int(record["bytes"])}
    except (ValueError, KeyError, TypeError):
        raise KitError(f"{side}: not a digest record; delete it and download again.") from None


def _state_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _validator(headers) -> str | None:
    """What identifies this version of the file on the server: a strong ETag, else its date."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _total(response: requests.Response, offset: int) -> int | None:
    """Full length of the file in bytes, as the server states it; None if it does not."""
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return offset + int(length) if length.isdigit() and not encoded else None


def _connect(url: str, partial: Path) -> tuple[requests.Response, int]:
    """Open the file from where ``partial`` ends. Returns the response and that offset in bytes."""
    offset = partial.stat().st_size if partial.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    state = _state_file(partial)
    if offset:
        known = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
        if known.get("url") == url and known.get("validator"):
            # If-Range: the server sends the whole file if it is another version by now.
            headers |= {"Range": f"bytes={offset}-", "If-Range": known["validator"]}
        else:
            offset = 0
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    if response.status_code == 416:  # nothing left to send, or the pieces do not fit
        response.close()
        partial.unlink()
        return _connect(url, partial)
    if response.status_code not in (200, 206):
        response.close()
        raise KitError(
            f"{url}: the server answers {response.status_code} {response.reason}; try again later "
            "or fetch the file by hand into the target folder."
        )
    if response.status_code == 206:
        start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if start != str(offset):
            response.close()
            partial.unlink()
            return _connect(url, partial)
    else:
        offset = 0
    write_json(state, {"url": url, "validator": _validator(response.headers)})
    return response, offset


def _receive(url: str, partial: Path, progress: bool) -> tuple[int | None, bool]:
    """One connection: append to ``partial`` what comes.

    Returns:
        (announced full length in bytes or None, whether the transfer ended as it should).
    """
    response, offset = _connect(url, partial)
    with response:
        total = _total(response, offset)
        free = shutil.disk_usage(partial.parent).free
        if total is not None and total - offset > free:
            raise KitError(
                f"{partial.parent}: {total - offset:,} bytes are still to come but only {free:,} "
                "are free; make room or name another target folder."
            )
        bar = tqdm(
            total=total,
            initial=offset,
            unit="B",
            unit_scale=True,
            desc=partial.name.removesuffix(".part"),
            disable=not progress,
        )
        with bar, partial.open("ab" if offset else "wb") as file:
            try:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
            except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError):
                return total, False
    return total, total is None or partial.stat().st_size == total


def fetch(
    url: str,
    path: Path,
    *,
    check: Callable[[Path], object] | None = None,
    progress: bool = True,
    pause_s: float = 1.0,
) -> str:
    """Download a file; resumes ``path.part`` of an earlier, broken-off call.

    Args:
        url: http(s) address.
        path: destination; appears only when complete and checked.
        check: called with the finished file; what it raises discards the file.
        progress: show a bar.
        pause_s: wait before the second attempt, doubled for each further one.

    Returns:
        sha256 (hex) of the file.

    Raises:
        KitError: no connection, an error answer, a transfer that keeps breaking off, no room, or a
            digest other than the one recorded at the first download.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    total: int | None = None
    reached = whole = False
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            total, whole = _receive(url, partial, progress)
            reached = True
        except (requests.ConnectionError, requests.Timeout):
            if not reached and not partial.is_file():
                break
        except requests.RequestException as error:
            raise KitError(f"{url}: cannot be fetched ({error}).") from error
        if whole:
            return _accept(partial, path, url, check)
    size = partial.stat().st_size if partial.is_file() else 0
    host = urlsplit(url).hostname
    if not reached:
        kept = f" ({size:,} bytes of {path.name} are kept)" if size else ""
        raise KitError(
            f"{host} cannot be reached{kept}: check the internet connection and run again, or work "
            "offline with the embedded corpus 'phantom'."
        )
    said = "no length" if total is None else f"{total:,} bytes"
    if total is not None and size > total:
        partial.unlink()
    raise KitError(
        f"{path.name}: the transfer from {host} broke off ({size:,} bytes arrived, {said} "
        "announced); run the same command again to resume."
    )


def _accept(
    partial: Path, path: Path, url: str, check: Callable[[Path], object] | None = None
) -> str:
    """Check, compare with the recorded digest or record it, then give the file its name."""
    if check is not None:
        try:
            check(partial)
        except KitError:
            # Resuming a complete but damaged file would never end, so it goes.
            partial.unlink()
            _state_file(partial).unlink(missing_ok=True)
            raise
    digest, size = sha256_file(partial), partial.stat().st_size
    record = _recorded(path)
    if record is not None and record["sha256"] != digest:
        raise KitError(
            f"{partial}: sha256 {digest[:12]}... differs from that of the first download; delete "
            f"the file, or delete {_side_file(path).name} if the server has a new version."
        )
    if record is None:
        content = {"sha256": digest, "bytes": size, "url": url}
        write_json(_side_file(path), content, indent=1)
    partial.replace(path)
    _state_file(partial).unlink(missing_ok=True)
    return digest


def verify(path: Path) -> str:
    """sha256 (hex) of an archive that lies here already, compared with its record (or recorded).

    Raises:
        KitError: it differs from the record, or does not decompress to the end.
    """
    digest = sha256_file(path)
    record = _recorded(path)
    if record is not None and record["sha256"] != digest:
        raise KitError(
            f"{path}: sha256 {digest[:12]}... differs from that of the first download; delete the "
            "file and download again."
        )
    if record is None:
        check_archive(path)
        content = {"sha256": digest, "bytes": path.stat().st_size, "url": None}
        write_json(_side_file(path), content, indent=1)
    return digest


_BROKEN = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, OSError)


def check_archive(path: Path) -> int:
    """Read an archive to its end. Returns the number of regular files in it.

    Raises:
        KitError: it is damaged, truncated, or no tar archive.
    """
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                count = sum(member.isfile() for member in archive)
            while stream.read(CHUNK):  # to the end: only there stands gzip's checksum
                continue
    except _BROKEN as error:
        raise KitError(f"{path}: damaged archive ({error}); download it again.") from error
    if not count:
        raise KitError(f"{path}: the archive holds no file; delete it and download again.")
    return count


def extract(path: Path, folder: Path, suffix: str = "", progress: bool = True) -> int:
    """Extract an archive into a folder that appears only when complete.

    Members may be regular files and folders only, and must lie below the folder. Nothing of a
    member but its name and its bytes is taken over: no links, no owners, no permissions. A single
    top folder in the archive is dropped.

    Args:
        path: tar archive, compressed or not.
        folder: destination; must not exist or be empty.
        suffix: what every file name must end in ("" = anything).
        progress: show a bar.

    Returns:
        Number of files.

    Raises:
        KitError: damaged archive, forbidden member, or a destination that holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise KitError(f"{folder}: is not empty; move it away before extracting {path.name}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".extract-", dir=folder.parent))
    count = 0
    try:
        with tarfile.open(path, "r:*") as archive:
            members = tqdm(
                archive, desc=f"extract {path.name}", unit=" files", disable=not progress
            )
            for member in members:
                if member.isdir():
                    continue
                if not member.isfile():
                    raise KitError(f"{path}: member {member.name!r} is a link or device; refused.")
                if not member.name.lower().endswith(suffix):
                    raise KitError(f"{path}: member {member.name!r} is no {suffix} file; refused.")
                target = _below(temporary, member.name)
                if target is None:
                    raise KitError(
                        f"{path}: refused to extract, member {member.name!r} leaves the folder."
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.extractfile(member) as content, target.open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
                count += 1
        if not count:
            raise KitError(f"{path}: the archive holds no file; delete it and download again.")
        inner = list(temporary.iterdir())
        source = inner[0] if len(inner) == 1 and inner[0].is_dir() else temporary
        if folder.exists():
            folder.rmdir()
        source.replace(folder)
    except _BROKEN as error:
        raise KitError(
            f"{path}: damaged archive ({error}); delete it and download again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


def _below(folder: Path, name: str) -> Path | None:
    """Where a member of this name goes; None if that is not below the folder.

    Written out because ``tarfile`` of Python 3.11.0 to 3.11.3 has no filters.
    """
    folder = folder.resolve()
    # Resolved as this system reads it: drive letters and backslashes where they mean something.
    target = (folder / name.lstrip("/")).resolve()
    return target if folder in target.parents else None


def _contents(path: Path) -> dict[str, str]:
    """sha256 of every regular file of an archive by base name."""
    with tarfile.open(path, "r:*") as archive:
        return {
            PurePosixPath(member.name).name: hashlib.sha256(
                archive.extractfile(member).read()
            ).hexdigest()
            for member in archive
            if member.isfile()
        }


def compare_reports(path: Path, reference: Path | None = None) -> int:
    """Reports that differ from the copy in the torchxrayvision wheel (missing ones included).

    Args:
        path: downloaded report archive.
        reference: the archive to compare with; default: the wheel's.

    Returns:
        Number of differing files; 0 also if there is nothing to compare with.

    Warns:
        DataWarning: if there are any.
    """
    reference = reference or wheel_file(REPORTS_NAME)
    if reference is None:
        return 0
    ours, theirs = _contents(path), _contents(reference)
    different = sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys())
    if different:
        warnings.warn(
            f"{path}: {different} reports differ from the copy in the torchxrayvision wheel; the "
            "kit reads the wheel's.",
            DataWarning,
            stacklevel=2,
        )
    return different


def download(
    name: str,
    target: Path | str | None = None,
    progress: bool = True,
    parts: Sequence[str] | None = None,
) -> Path:
    """Fetch a public corpus into a folder that ``load_corpus`` can read.

    Run it again after an interruption: finished archives are verified, not fetched; a broken-off
    transfer resumes; a finished extraction is left alone.

    Args:
        name: "openi" (about 1.3 GB packed, with the radiographs).
        target: folder; default: ``paths.downloads_dir() / name``, where the readers look.
        progress: show bars.
        parts: "reports", "png"; default: all.

    Returns:
        The folder. Radiographs are in its ``images``.

    Raises:
        KitError: the corpus cannot be fetched, unknown part, no connection, damaged archive, ...
    """
    if name not in CORPORA:
        raise KitError(f"Unknown corpus {name!r}: choose one of {', '.join(CORPORA)}.")
    if name not in ARCHIVES:
        raise KitError(f"Corpus {name!r} has no public archive. {CORPORA[name].how_to_get}")
    known = {archive.part: archive for archive in ARCHIVES[name]}
    for part in parts or ():
        if part not in known:
            raise KitError(f"Corpus {name!r} has no part {part!r}: choose of {', '.join(known)}.")
    target = paths.downloads_dir() / name if target is None else Path(target).expanduser()
    for part in parts or known:
        archive = known[part]
        path = target / archive.file
        if path.is_file():
            verify(path)
        else:
            fetch(archive.url, path, check=check_archive, progress=progress)
        if part == "reports":
            compare_reports(path)
        if archive.folder:
            _unpack(path, target / archive.folder, archive.members, progress)
    return target


def _unpack(path: Path, folder: Path, suffix: str, progress: bool) -> None:
    """Extract once: a side file says for which archive, and how many files there must be."""
    done = folder.with_name(f".{folder.name}.extracted.json")
    digest = (_recorded(path) or {}).get("sha256")
    if done.is_file() and folder.is_dir():
        record = json.loads(done.read_text(encoding="utf-8"))
        present = sum(one.is_file() for one in folder.rglob("*"))
        if record == {"sha256": digest, "files": present}:
            return
        raise KitError(
            f"{folder}: holds {present} files, {record.get('files')} were extracted; delete the "
            "folder and run again."
        )
    count = extract(path, folder, suffix, progress)
    write_json(done, {"sha256": digest, "files": count})
