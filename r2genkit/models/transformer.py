"""What R2Gen and R2GenCMN share: a Transformer that reads patches and writes a report.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, in the form of the released R2Gen code:
layer norm before each sublayer ("pre-norm"), with the unbiased standard deviation and epsilon
outside the root; positions as sines and cosines; feed-forward layers as wide as the model.

Training treats all positions of a text at once. Decoding advances by one token and keeps what it
needs in the :class:`~r2genkit.models.base.State`: keys and values of the patches are projected
once per study (``fixed``), those of the words are appended token by token (``moving``). Both go
through the same method, :meth:`TransformerReporter.read`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from r2genkit.batches import Batch
from r2genkit.errors import KitError
from r2genkit.models.base import FlatModel, ModelConfig, State, flatten_views
from r2genkit.models.embedding import WordEmbedding

MAX_POSITIONS = 5000  # rows of the released position table


class TransformerConfig(ModelConfig):
    """Options of every Transformer here; the defaults are those of both released systems."""

    size: int = Field(512, ge=2)
    """D, length of the vector of a patch or token."""
    feed_forward_size: int = Field(512, ge=1)
    """Width of the feed-forward layers (2,048 in Vaswani et al.)."""
    heads: int = Field(8, ge=1)
    """h, attention heads; each has D / h numbers."""
    encoder_layers: int = Field(3, ge=1)
    decoder_layers: int = Field(3, ge=1)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """On embedded tokens, attention weights, feed-forward layers and sublayer outputs."""
    patch_dropout: float = Field(0.5, ge=0.0, lt=1.0)
    """On projected patches."""
    patch_positions: bool = False
    """Add positions to the patches, numbered through all views (R2GenCMN yes, R2Gen no)."""
    patch_projection: int | None = Field(None, ge=1)
    """First bring patch features to this length, linearly (2,048 puts an encoder with other
    channels in the place of a ResNet-101); None = not at all."""
    checklist: bool = False
    """Strike findings off the list once they have been told (ours)."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> TransformerConfig:
        if self.size % self.heads:
            raise ValueError(f"size {self.size} must be a multiple of heads {self.heads}")
        if self.size % 2:
            raise ValueError(f"size {self.size} must be even (positions are sine-cosine pairs)")
        return self


def dropout(x: Tensor, rate: float) -> Tensor:
    """Each number of ``x`` is 0 with probability ``rate``, else divided by ``1 - rate``.

    On the CPU, torch draws one Bernoulli number after the other, a tenth to a third of a training
    step here. Sixteen random bits per number, four numbers per draw, do the same in a third of the
    time; the rate is rounded to 1/65,536.
    """
    if not rate:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    bits = draws.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
    keep = bits >= round(rate * 2**16) - 2**15
    return (x * keep).mul_(1.0 / (1.0 - rate))


class Dropout(nn.Module):
    """:func:`dropout` while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``[...] -> [...]``."""
        return dropout(x, self.rate) if self.training else x

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"


def normalise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """``(x - mean) / (std + eps)`` over the last dimension, as the released code does it.

    Not ``torch.nn.LayerNorm``: the standard deviation divides by D - 1, and eps is outside the
    root.
    """
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)
    # Not in the released code: the root has no gradient at 0, where a vector of equal numbers
    # (the projection of an absent view) would turn all gradients into NaN. Values do not change.
    return centred / (variance.clamp_min(1e-24).sqrt() + eps)


class LayerNorm(nn.Module):
    """``a * (x - mean) / (std + eps) + b``, see :func:`normalise`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))  # a
        self.shift = nn.Parameter(torch.zeros(size))  # b

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D] -> [..., D]``."""
        return torch.addcmul(self.shift, self.scale, normalise(x))


class Positions(nn.Module):
    """Sinusoidal positions (Vaswani et al., section 3.5).

    ``PE(p, 2i) = sin(p / 10000^(2i/D))``, ``PE(p, 2i+1) = cos(p / 10000^(2i/D))``.
    """

    table: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        place = torch.arange(MAX_POSITIONS).float().unsqueeze(1)
        rate = torch.exp(torch.arange(0, size, 2).float() * -(math.log(10000.0) / size))
        angles = place * rate
        table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add positions ``start ...`` to ``x [N, T, D]``.

        Raises:
            KitError: the table has no such position.
        """
        end = start + x.shape[1]
        if end > len(self.table):
            raise KitError(
                f"position {end} is beyond the {len(self.table)} that this model knows; "
                "use fewer patches or a smaller max_length."
            )
        return x + self.table[start:end]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with h heads (Vaswani et al., section 3.2.2).

    ``head_i = softmax(q_i k_i^T / sqrt(D / h)) v_i``; the output is ``W_o [head_1 ... head_h]``.
    Keys and values are projected apart from queries, so that they can be kept.

    Args:
        size: D.
        heads: h.
        dropout: on attention weights.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        """``[N, L, D] -> [N, h, L, D/h]``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``x [N, L, D]``, each ``[N, h, L, D/h]``."""
        return self.split(self.key(x)), self.split(self.value(x))

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        trace: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Read ``values`` with queries made of ``x``.

        Args:
            x: ``[N, T, D]``.
            keys: ``[N, h, L, D/h]``; values: the same, both from :meth:`project`.
            mask: bool, broadcast to ``[N, h, T, L]``: True where a key may be read.
            causal: position t reads keys 0 ... t only (needs L = T, and no mask).
            trace: return the attention weights too.

        Returns:
            ``[N, T, D]`` and the weights ``[N, h, T, L]``, or None if they were not asked for.
        """
        queries = self.split(self.query(x))
        dropping = self.training and self.dropout.rate > 0
        weights = None
        if trace or (dropping and x.device.type == "cpu"):
            allowed = mask
            if causal:
                square = (x.shape[1], x.shape[1])
                allowed = torch.ones(square, dtype=torch.bool, device=x.device).tril()
            scores = queries @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])
            if allowed is not None:
                # The released code writes -1e9; the weight is 0 either way.
                scores = scores.masked_fill(~allowed, -math.inf)
            weights = scores.softmax(-1)
        if dropping and x.device.type == "cpu":  # torch has no fused product with dropout here
            heads = self.dropout(weights) @ values
        else:  # when tracing, too: a text must not depend on being traced
            heads = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                dropout_p=self.dropout.rate if dropping else 0.0,
                is_causal=causal,
            )
        weights = weights.detach() if trace else None
        return self.output(heads.transpose(1, 2).flatten(2)), weights


class FeedForward(nn.Module):
    """``W_2 dropout(relu(W_1 x))`` (Vaswani et al., section 3.3)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.size, config.feed_forward_size)
        self.outer = nn.Linear(config.feed_forward_size, config.size)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D] -> [..., D]``."""
        return self.outer(self.dropout(self.inner(x).relu()))


class EncoderLayer(nn.Module):
    """Self-attention over patches, then a feed-forward layer: ``x + dropout(f(norm(x)))`` each."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config.size, config.heads, config.dropout)
        self.feed_forward = FeedForward(config)
        self.norms = nn.ModuleList(LayerNorm(config.size) for _ in range(2))
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, *, trace: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """``[B, L, D] -> [B, L, D]`` and the attention ``[B, h, L, L]`` if asked for."""
        normed = self.norms[0](x)
        read, weights = self.attention(
            normed, *self.attention.project(normed), mask=mask, trace=trace
        )
        x = x + self.dropout(read)
        return x + self.dropout(self.feed_forward(self.norms[1](x))), weights


class PatchEncoder(nn.Module):
    """A stack of :class:`EncoderLayer` and a last layer norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = LayerNorm(config.size)

    def forward(
        self, x: Tensor, mask: Tensor | None, *, trace: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """``[B, L, D] -> [B, L, D]`` and the attention of each layer if asked for."""
        seen = []
        for layer in self.layers:
            x, weights = layer(x, mask, trace=trace)
            seen.append(weights)
        return self.norm(x), seen if trace else []


class DecoderLayer(nn.Module):
    """Self-attention over words, attention over patches, feed-forward.

    Args:
        config: sizes.
        norms: the three layer norms; those of R2Gen take the relational memory as a second argument
            (:class:`~r2genkit.models.r2gen.ConditionalLayerNorm`).
    """

    def __init__(self, config: TransformerConfig, norms: list[nn.Module]) -> None:
        super().__init__()
        self.self_attention, self.cross_attention = (
            MultiHeadAttention(config.size, config.heads, config.dropout) for _ in range(2)
        )
        self.feed_forward = FeedForward(config)
        self.norms = nn.ModuleList(norms)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        patches: tuple[Tensor, Tensor],
        mask: Tensor | None,
        words: tuple[Tensor, Tensor],
        condition: Tensor | None,
        *,
        trace: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """Further T positions of N texts.

        Args:
            x: ``[N, T, D]``.
            patches: keys and values of the patches, ``[N, h, L, D/h]`` each.
            mask: ``[N, 1, 1, L]`` bool, True where a patch may be read.
            words: keys and values of the t words before, ``[N, h, t, D/h]`` each; t = 0 unless
                T = 1.
            condition: ``[N, T, M]`` for the layer norms, or None.
            trace: return the attention over patches.

        Returns:
            ``[N, T, D]``, keys and values of all t + T words, attention ``[N, h, T, L]`` or None.
        """

        def norm(place: int, x: Tensor) -> Tensor:
            return self.norms[place](x) if condition is None else self.norms[place](x, condition)

        normed = norm(0, x)
        own = self.self_attention.project(normed)
        if words[0].shape[2]:
            own = tuple(torch.cat(pair, 2) for pair in zip(words, own))
        # Padding stands behind the text, so the causal mask alone keeps every word from seeing it.
        # The released code masks padding too, which changes outputs at padding only; those have
        # weight 0 in the loss.
        read, _ = self.self_attention(normed, *own, causal=x.shape[1] > 1)
        x = x + self.dropout(read)
        read, weights = self.cross_attention(norm(1, x), *patches, mask=mask, trace=trace)
        x = x + self.dropout(read)
        return x + self.dropout(self.feed_forward(norm(2, x))), own, weights


class Decoder(nn.Module):
    """A stack of :class:`DecoderLayer` and a last, plain layer norm.

    Args:
        config: sizes.
        norm: class of the layer norms inside the layers.
        arguments: of that class; by default the length D.
    """

    def __init__(
        self, config: TransformerConfig, norm: type[nn.Module] = LayerNorm, *arguments: int
    ) -> None:
        super().__init__()
        arguments = arguments or (config.size,)
        self.layers = nn.ModuleList(
            DecoderLayer(config, [norm(*arguments) for _ in range(3)])
            for _ in range(config.decoder_layers)
        )
        self.norm = LayerNorm(config.size)


class TransformerReporter(FlatModel):
    """Patches -> Transformer encoder -> Transformer decoder -> words.

    A subclass adds its memory: it may replace :meth:`encode_memory`, :meth:`embed_patches`,
    :meth:`embed_tokens` and :meth:`predict`; and :meth:`visual_tokens`, to put further tokens
    behind the patches.

    Traces of every model here:

    * "attention" ``[N, V, S]``: of the last decoder layer over the patches, mean over heads;
    * "cross_attention" ``[N, layers, h, V, S]``: of every decoder layer and head;
    * "further_attention" ``[N, layers, h, E]``: the same over E tokens behind the patches, where
      there are any.
    """

    Config = TransformerConfig
    config: TransformerConfig
    conditions_norms: bool = False
    """Whether the layer norms inside the decoder take the memory."""

    def __init__(self, config: TransformerConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        self.projection = None
        if config.patch_projection is not None:
            self.projection = nn.Linear(self.feature_dim, config.patch_projection)
        # att_embed in the released code
        self.patches = nn.Linear(config.patch_projection or self.feature_dim, config.size)
        self.patch_dropout = Dropout(config.patch_dropout)
        self.embedding = WordEmbedding(
            self.vocabulary_size,
            config.size,
            self.tag_count,
            checklist=config.checklist,
            factor=math.sqrt(config.size),
        )
        self.positions = Positions(config.size)
        self.dropout = Dropout(config.dropout)
        self.patch_encoder = PatchEncoder(config)
        self.decoder = self.build_decoder()
        self.output = nn.Linear(self.output_size(), self.vocabulary_size)

    # --- what a subclass may replace --------------------------------------------------------

    def build_decoder(self) -> Decoder:
        """The decoder; layer norms of its own kind for R2Gen."""
        return Decoder(self.config)

    def output_size(self) -> int:
        """Length of the vector from which words are predicted."""
        return self.config.size

    def encode_memory(self, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the memory adds to a state of ``count`` rows before the first token.

        Returns:
            ``moving`` and ``shared`` tensors.
        """
        return {}, {}

    def visual_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the patch encoder reads: ``[B, L, C]`` and its mask ``[B, L]`` bool.

        The patches of all views come first (V*S of them); C is ``patch_projection``, or the length
        of a patch feature.
        """
        features = self.patch_features(batch)
        if self.projection is not None:
            features = self.projection(features)
        return flatten_views(features, batch.view_mask)

    def further_tokens(self, state: State) -> int:
        """E, tokens behind the patches in :meth:`visual_tokens`."""
        return 0

    def embed_patches(self, x: Tensor, shared: dict[str, Tensor]) -> Tensor:
        """Projected patches ``[B, L, D]`` -> input of the patch encoder."""
        return self.dropout(self.positions(x)) if self.config.patch_positions else x

    def embed_tokens(
        self, x: Tensor, state: State
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
        """Embedded tokens with positions ``[N, T, D]`` -> input of the decoder.

        Returns:
            The input ``[N, T, D]``, the condition of the layer norms ``[N, T, M]`` or None, new
            ``moving`` tensors, and traces ``[N, T, ...]`` (filled if ``state.tracing``).
        """
        return self.dropout(x), None, {}, {}

    def predict(self, x: Tensor, memory: Tensor | None) -> Tensor:
        """Log-probabilities ``[N, T, K]`` from decoder outputs ``[N, T, D]``."""
        return self.output(x).log_softmax(-1)

    # --- shared -----------------------------------------------------------------------------

    def initialise(self, *modules: nn.Module) -> None:
        """Xavier-uniform for every matrix of the Transformer and of ``modules``.

        As in the released code, patch projection and output layer keep PyTorch's default.
        """
        for module in (self.embedding, self.patch_encoder, self.decoder, *modules):
            for name, parameter in module.named_parameters():
                if parameter.dim() > 1 and not name.startswith("checklist"):
                    nn.init.xavier_uniform_(parameter)

    def look(
        self, batch: Batch, shared: dict[str, Tensor], *, trace: bool = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encoded patches ``[B, L, D]``, their mask ``[B, L]`` and attention per layer."""
        features, mask = self.visual_tokens(batch)
        # Back to single precision under autocast: sums of sublayers and means need it.
        x = self.patch_dropout(self.patches(features).relu()).to(self.patches.weight.dtype)
        x, seen = self.patch_encoder(
            self.embed_patches(x, shared), mask[:, None, None], trace=trace
        )
        return x, mask, seen

    def encode(self, batch: Batch) -> State:
        """Encode the patches and project their keys and values, once for all words."""
        tags = self.embedding.project_tags(self.required_tags(batch))
        moving, shared = self.encode_memory(len(batch))
        x, mask, _ = self.look(batch, shared)
        fixed = {"mask": mask, "view_mask": batch.view_mask, **tags}
        heads = self.config.heads
        for number, layer in enumerate(self.decoder.layers):
            keys, values = layer.cross_attention.project(x)
            fixed[f"patch_keys{number}"], fixed[f"patch_values{number}"] = keys, values
            empty = x.new_zeros(len(batch), heads, 0, self.config.size // heads)
            moving[f"keys{number}"] = moving[f"values{number}"] = empty
        return State(fixed, moving, shared=shared)

    def read(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read further tokens and predict the one after each: training and decoding in one.

        Args:
            tokens: ``[N, T]``; T > 1 only for a state that has read nothing yet.
            state: from :meth:`encode` or :meth:`read`.

        Returns:
            Log-probabilities ``[N, T, K]`` and the new state, its traces ``[N, T, ...]``.
        """
        x, told = self.embedding.read(tokens, state)
        x = self.positions(x, start=state["keys0"].shape[2])
        x, condition, moving, trace = self.embed_tokens(x, state)
        moving |= told
        mask, seen = state["mask"][:, None, None], []
        given = condition if self.conditions_norms else None
        for number, layer in enumerate(self.decoder.layers):
            x, (keys, values), weights = layer(
                x,
                (state[f"patch_keys{number}"], state[f"patch_values{number}"]),
                mask,
                (state[f"keys{number}"], state[f"values{number}"]),
                given,
                trace=state.tracing,
            )
            moving[f"keys{number}"], moving[f"values{number}"] = keys, values
            seen.append(weights)
        log_probs = self.predict(self.decoder.norm(x), condition)
        if state.tracing:
            views = state["view_mask"].shape[1]
            weights = torch.stack(seen, 1).permute(0, 3, 1, 2, 4)  # [N, T, layers, h, L]
            patches = weights.shape[-1] - self.further_tokens(state)
            if patches < weights.shape[-1]:
                trace = {"further_attention": weights[..., patches:], **trace}
            weights = weights[..., :patches].unflatten(-1, (views, -1))
            trace = {"attention": weights[:, :, -1].mean(2), "cross_attention": weights, **trace}
        return log_probs, state.advance(trace, **moving)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One token per text; see the base class."""
        log_probs, state = self.read(tokens.unsqueeze(1), state)
        state.trace = {name: value.squeeze(1) for name, value in state.trace.items()}
        return log_probs.squeeze(1), state

    def unroll(self, batch: Batch, *, trace: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """All positions at once."""
        state = self.encode(batch)
        state.tracing = trace
        log_probs, state = self.read(batch.tokens[:, :-1], state)
        return log_probs, state.trace

    @torch.no_grad()
    def patch_traces(self, batch: Batch) -> dict[str, Tensor]:
        """What the patch side of the model does with a minibatch, for figures.

        Dropout is what the model's mode says; call it in evaluation mode.

        Returns:
            "patch_attention" ``[B, layers, h, L, L]``: encoder attention, row = reading patch.
        """
        _, shared = self.encode_memory(len(batch))
        _, _, seen = self.look(batch, shared, trace=True)
        return {"patch_attention": torch.stack(seen, 1)}
