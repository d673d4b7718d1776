"""Named random streams: one seed per run, one independent stream per purpose.

Streams are spawned by name and not by order, so adding a consumer never shifts another one's
draws: ``spawn(7, "loader")`` is the same stream whatever else the run draws.
"""

import hashlib

import numpy as np
import torch


def spawn(seed: int, name: str) -> np.random.SeedSequence:
    """Seed sequence of the stream ``name`` ("init", "loader", "phantom/CXR1") below ``seed``."""
    digest = hashlib.sha256(name.encode()).digest()[:16]
    words = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.SeedSequence(entropy=seed, spawn_key=tuple(words))


def numpy_rng(seed: int, name: str) -> np.random.Generator:
    """Numpy generator of the stream ``name``."""
    return np.random.Generator(np.random.PCG64(spawn(seed, name)))


def integer(seed: int, name: str) -> int:
    """A 63-bit integer of the stream ``name``, for libraries that take plain integers."""
    return int(spawn(seed, name).generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(seed: int, name: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Torch generator of the stream ``name`` on ``device``."""
    return torch.Generator(device=device).manual_seed(integer(seed, name))
