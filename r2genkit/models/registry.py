"""Which name in recipes stands for which class.

Classes are imported when they are asked for: a run depends on the module of its own model and on
no other, so a new model leaves the finished runs of all others valid (``environment.code_hash``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from torch import nn

from r2genkit.errors import KitError

PLACES = {
    "show_tell": "r2genkit.models.cnn_rnn:ShowTell",
    "show_attend_tell": "r2genkit.models.cnn_rnn:ShowAttendTell",
    "cascade": "r2genkit.models.cascade:Cascade",
    "hier_rnn": "r2genkit.models.hier_rnn:HierRNN",
    "co_attention": "r2genkit.models.co_attention:CoAttention",
    "mrna": "r2genkit.models.mrna:MRNA",
    "r2gen": "r2genkit.models.r2gen:R2Gen",
    "cmn": "r2genkit.models.cmn:CMN",
    "cmn_retrieval": "r2genkit.models.cmn_retrieval:CMNRetrieval",
}
"""Name in recipes -> "module:Class"."""


def model_module(name: str) -> str:
    """The module that holds a model, "r2genkit.models.cmn".

    Raises:
        KitError: unknown name.
    """
    if name not in PLACES:
        raise KitError(f"there is no model {name!r}; choose one of {', '.join(sorted(PLACES))}.")
    return PLACES[name].partition(":")[0]


class _Classes(Mapping[str, type[nn.Module]]):
    """The classes by name, imported on access."""

    def __getitem__(self, name: str) -> type[nn.Module]:
        if name not in PLACES:
            raise KeyError(name)
        module, _, kind = PLACES[name].partition(":")
        return getattr(import_module(module), kind)

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


MODELS: Mapping[str, type[nn.Module]] = _Classes()
"""Name in recipes -> class. A class has ``Config`` and takes ``(config, *, vocabulary_size,
feature_dim, tag_count, encoder, full_stop)``."""
