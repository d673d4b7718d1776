"""R2Gen: a Transformer with a relational memory that steers its layer norms.

Chen et al., "Generating Radiology Reports via Memory-driven Transformer", EMNLP 2020. Three
variants, those of the paper's ablation (BASE, +RM, +RM+MCLN):

* ``base``: the Transformer alone;
* ``rm``: the memory is put beside the decoder's output, ahead of the softmax;
* ``rm_mcln``: the memory sets scale and shift of every layer norm inside the decoder (R2Gen).

The released code computes the memory anew from the first token at each decoding step; here the
state carries it, which gives the same numbers.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from r2genkit.models.base import State
from r2genkit.models.transformer import (
    Decoder,
    Dropout,
    MultiHeadAttention,
    TransformerConfig,
    TransformerReporter,
    normalise,
)


class R2GenConfig(TransformerConfig):
    """Options of :class:`R2Gen`."""

    variant: Literal["base", "rm", "rm_mcln"] = "rm_mcln"
    """Which parts are there; see the module."""
    slots: int = Field(3, ge=1)
    """Rows of the relational memory."""
    memory_heads: int = Field(8, ge=1)
    """Attention heads of the relational memory."""

    @model_validator(mode="after")
    def _memory_fits(self) -> R2GenConfig:
        if self.size % self.memory_heads:
            raise ValueError(
                f"size {self.size} must be a multiple of memory_heads {self.memory_heads}"
            )
        if self.slots > self.size:
            raise ValueError(f"slots {self.slots} must not exceed size {self.size}")
        return self


class RelationalMemory(nn.Module):
    """A few slots that are rewritten at every token (paper, "Relational Memory").

    With slots m (``[s, D]``) and the embedded token x_t:

    * ``m' = m + attention(q = m, k = v = [m; x_t])``, ``m' = m' + MLP(m')``
    * ``[i, f] = sigmoid(W x_t + U tanh(m))``
    * ``m_t = i * tanh(m') + f * m``

    Everything that reads only x_t is computed for all tokens at once; the loop holds the rest.

    Args:
        size: D.
        slots: s.
        heads: attention heads.
        dropout: on attention weights.
    """

    def __init__(self, size: int, slots: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.size, self.slots, self.dropout = size, slots, Dropout(dropout)
        self.attention = MultiHeadAttention(size, heads, dropout)
        # Two layers with a ReLU behind each, the last one too, as in the released code.
        self.mlp = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())
        self.input_to_gates = nn.Linear(size, 2 * size)  # W
        self.memory_to_gates = nn.Linear(size, 2 * size)  # U

    def initial(self, count: int) -> Tensor:
        """m_0 ``[N, s * D]``: the first s rows of the identity."""
        weight = self.input_to_gates.weight
        slots = torch.eye(self.slots, self.size, dtype=weight.dtype, device=weight.device)
        return slots.flatten().repeat(count, 1)

    def forward(
        self, x: Tensor, memory: Tensor, *, trace: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over T tokens.

        Args:
            x: embedded tokens ``[N, T, D]``.
            memory: m before the first of them, ``[N, s * D]``.

        Returns:
            m after each token ``[N, T, s * D]``, and if asked for the traces "memory",
            "input_gate" and "forget_gate", each ``[N, T, s, D]``.
        """
        attention, heads = self.attention, self.attention.heads
        token_keys, token_values = attention.project(x)  # [N, h, T, D/h]
        token_gates = self.input_to_gates(x)  # [N, T, 2D]
        layers = (attention.query, attention.key, attention.value)
        weight = torch.cat([layer.weight for layer in layers])  # one product instead of three
        bias = torch.cat([layer.bias for layer in layers])
        scale = 1.0 / math.sqrt(self.size // heads)
        memory = memory.unflatten(-1, (self.slots, -1))  # [N, s, D]
        steps = []
        for t in range(x.shape[1]):
            own = F.linear(memory, weight, bias).unflatten(-1, (3, heads, -1))
            queries, keys, values = own.permute(2, 0, 3, 1, 4)  # [N, h, s, D/h] each
            keys = torch.cat([keys, token_keys[:, :, t : t + 1]], 2)
            values = torch.cat([values, token_values[:, :, t : t + 1]], 2)
            weights = (queries @ keys.transpose(-1, -2) * scale).softmax(-1)  # [N, h, s, s+1]
            read = (self.dropout(weights) @ values).transpose(1, 2).flatten(2)
            new = memory + attention.output(read)
            new = new + self.mlp(new)
            gates = token_gates[:, t : t + 1] + self.memory_to_gates(memory.tanh())
            take, keep = gates.sigmoid().chunk(2, -1)  # i, f
            memory = take * new.tanh() + keep * memory
            steps.append((memory, take, keep) if trace else (memory,))
        columns = [torch.stack(column, 1) for column in zip(*steps)]
        names = ("memory", "input_gate", "forget_gate")
        return columns[0].flatten(2), dict(zip(names, columns)) if trace else {}


class ConditionalLayerNorm(nn.Module):
    """Memory-driven conditional layer norm, MCLN (paper, "Memory-driven
    Conditional Layer Normalization").

    ``(gamma + f_g(m_t)) * (x - mean) / (std + eps) + (beta + f_b(m_t))`` with f two layers and a
    ReLU between them.

    Args:
        size: D.
        memory_size: length of m_t, ``s * D``.
    """

    def __init__(self, size: int, memory_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))  # gamma
        self.shift = nn.Parameter(torch.zeros(size))  # beta
        self.memory_to_scale, self.memory_to_shift = (
            nn.Sequential(nn.Linear(memory_size, size), nn.ReLU(), nn.Linear(size, size))
            for _ in range(2)
        )
        for part in (*self.memory_to_scale, *self.memory_to_shift):
            if isinstance(part, nn.Linear):
                nn.init.constant_(part.bias, 0.1)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """``x [N, T, D]``, ``memory [N, T, s * D]`` -> ``[N, T, D]``."""
        shift = self.shift + self.memory_to_shift(memory)
        return torch.addcmul(shift, self.scale + self.memory_to_scale(memory), normalise(x))


class R2Gen(TransformerReporter):
    """R2Gen and the two smaller systems of its ablation.

    Traces beside those of :class:`~r2genkit.models.transformer.TransformerReporter`, with a
    memory: "memory", "input_gate" and "forget_gate" ``[N, s, D]``, after the token was read.
    """

    Config = R2GenConfig
    config: R2GenConfig

    def __init__(self, config: R2GenConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        self.memory = None
        if config.variant != "base":
            self.memory = RelationalMemory(
                config.size, config.slots, config.memory_heads, config.dropout
            )
        self.initialise(*([] if self.memory is None else [self.memory]))

    @property
    def conditions_norms(self) -> bool:
        """Whether the decoder has MCLN."""
        return self.config.variant == "rm_mcln"

    def build_decoder(self) -> Decoder:
        """MCLN in the decoder's layers for the whole system; plain norms otherwise."""
        if not self.conditions_norms:
            return Decoder(self.config)
        size = self.config.size
        return Decoder(self.config, ConditionalLayerNorm, size, self.config.slots * size)

    def output_size(self) -> int:
        """With "rm", words are predicted from the decoder's output and the memory."""
        beside = self.config.slots if self.config.variant == "rm" else 0
        return (1 + beside) * self.config.size

    def encode_memory(self, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The memory before the first token."""
        return ({} if self.memory is None else {"memory": self.memory.initial(count)}), {}

    def embed_tokens(
        self, x: Tensor, state: State
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
        """The memory after each token, beside the decoder's input."""
        if self.memory is None:
            return super().embed_tokens(x, state)
        # Memory and decoder see the same tokens under different dropout masks, as in the released
        # code, which embeds them twice.
        rows, trace = self.memory(self.dropout(x), state["memory"], trace=state.tracing)
        return self.dropout(x), rows, {"memory": rows[:, -1]}, trace

    def predict(self, x: Tensor, memory: Tensor | None) -> Tensor:
        """Words from the decoder's output, with "rm" from the memory too."""
        if self.config.variant == "rm":
            x = torch.cat([x, memory], -1)
        return super().predict(x, memory)
