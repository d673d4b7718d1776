"""Cross-modal memory networks: this package against a plain textbook formulation.

    python benchmarks/bench_transformer.py [--threads 2] [--out folder] [--growth]
    python benchmarks/bench_transformer.py --threads 1 --only-growth --out folder

Both compute the same numbers from the same weights (``tests/models/test_released.py`` compares
log-probabilities, gradients and beam texts). The textbook writes the equations down one by one:
the memory is expanded to every study and projected at each call, chosen values are gathered from
``[B, h, T, slots, D/h]``, and beam search is a Python loop over studies and beams that reads the
whole prefix for every word.

Prints one table of a training step (forward, backward, Adam) and of beam-3 decoding, both at the
sizes of the paper. Decoding runs all steps in both (random weights would end texts at once). Peak
memory of a step is what the process needs above what stays resident between steps (Linux only).
The textbook decodes one study after the other, so it is timed on ``--studies`` of them and
multiplied. Times are wall times, or CPU times with ``--threads 1``. ``--growth`` adds how a
training step grows with slots, patches, length and minibatch, and with ``--out`` draws it;
``--only-growth`` measures nothing else.
"""

import argparse
import ctypes
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from r2genkit.batches import Batch, collate
from r2genkit.decoding import DecodingConfig, search
from r2genkit.models import build_model
from r2genkit.models.base import ReportModel, target_mask
from r2genkit.models.released import TEXT, released_tensors

WORDS, PATCH = 761, 2048


class Textbook:
    """R2GenCMN written down plainly, on tensors under the names of a released checkpoint.

    Args:
        weights: released key (without "encoder_decoder.") -> tensor.
        heads: attention heads; chosen: slots that a query reads; dropout, patch_dropout: rates
            (0 = evaluation).
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        *,
        heads: int = 8,
        chosen: int = 32,
        dropout: float = 0.0,
        patch_dropout: float = 0.0,
    ) -> None:
        self.weights, self.heads, self.chosen = weights, heads, chosen
        self.dropout, self.patch_dropout = dropout, patch_dropout

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout)

    def layers(self, side: str) -> int:
        return len({key.split(".")[3] for key in self.weights if key.startswith(f"model.{side}.l")})

    def norm(self, x: Tensor, name: str, memory: Tensor | None = None) -> Tensor:
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        scale, shift = self.weights[f"{name}.a_2"], self.weights[f"{name}.b_2"]
        return scale * (x - mean) / (std + 1e-6) + shift

    def split(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, h, L, D/h]"""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def attention(self, x: Tensor, read: Tensor, mask: Tensor | None, name: str) -> Tensor:
        queries, keys, values = (
            self.split(self.linear(source, f"{name}.linears.{number}"))
            for number, source in enumerate((x, read, read))
        )
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -1e9)
        heads = self.drop(scores.softmax(-1)) @ values
        return self.linear(heads.transpose(1, 2).flatten(2), f"{name}.linears.3")

    def feed_forward(self, x: Tensor, name: str) -> Tensor:
        return self.linear(self.drop(self.linear(x, f"{name}.w_1").relu()), f"{name}.w_2")

    def read_memory(self, x: Tensor) -> Tensor:
        matrix = self.weights["memory_matrix"]
        memory = matrix.unsqueeze(0).expand(len(x), *matrix.shape)  # [B, slots, D]
        queries, keys, values = (
            self.split(self.linear(source, f"cmn.linears.{number}"))
            for number, source in enumerate((x, memory, memory))
        )
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        best, place = scores.topk(self.chosen)  # [B, h, T, k]
        weights = self.drop(best.softmax(-1))
        size = queries.shape[-1]
        every = values.unsqueeze(2).expand(*scores.shape, size)  # [B, h, T, slots, D/h]
        picked = every.gather(3, place.unsqueeze(-1).expand(*place.shape, size))
        heads = (weights.unsqueeze(-1) * picked).sum(3)
        return self.linear(heads.transpose(1, 2).flatten(2), "cmn.linears.3")

    def embed_patches(self, x: Tensor) -> Tensor:
        x = x + self.read_memory(x)
        return self.drop(x + self.weights["model.src_embed.0.pe"][:, : x.shape[1]])

    def encode(self, patches: Tensor) -> Tensor:
        """[B, L, F] -> [B, L, D]"""
        x = F.dropout(self.linear(patches, "att_embed.0").relu(), self.patch_dropout)
        x = self.embed_patches(x)
        for layer in range(self.layers("encoder")):
            name = f"model.encoder.layers.{layer}"
            normed = self.norm(x, f"{name}.sublayer.0.norm")
            x = x + self.drop(self.attention(normed, normed, None, f"{name}.self_attn"))
            normed = self.norm(x, f"{name}.sublayer.1.norm")
            x = x + self.drop(self.feed_forward(normed, f"{name}.feed_forward"))
        return self.norm(x, "model.encoder.norm")

    def embed(self, tokens: Tensor) -> Tensor:
        table = self.weights["model.tgt_embed.0.lut.weight"]
        x = table[tokens] * math.sqrt(table.shape[1])
        return self.drop(x + self.weights["model.tgt_embed.1.pe"][:, : tokens.shape[1]])

    def embed_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.embed(tokens)
        return x + self.read_memory(x), None

    def decode(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """Log-probabilities [B, T, K] after each of the tokens [B, T]"""
        x, memory = self.embed_tokens(tokens)
        length = tokens.shape[1]
        known = tokens > 0
        known[:, 0] = True
        mask = known[:, None, None] & torch.ones(length, length, dtype=torch.bool).tril()
        for layer in range(self.layers("decoder")):
            name = f"model.decoder.layers.{layer}"
            normed = self.norm(x, f"{name}.sublayer.0.norm", memory)
            x = x + self.drop(self.attention(normed, normed, mask, f"{name}.self_attn"))
            normed = self.norm(x, f"{name}.sublayer.1.norm", memory)
            x = x + self.drop(self.attention(normed, encoded, None, f"{name}.src_attn"))
            normed = self.norm(x, f"{name}.sublayer.2.norm", memory)
            x = x + self.drop(self.feed_forward(normed, f"{name}.feed_forward"))
        return self.linear(self.norm(x, "model.decoder.norm"), "logit").log_softmax(-1)

    def loss(self, batch: Batch) -> Tensor:
        log_probs = self.decode(batch.tokens[:, :-1], self.encode(batch.features.flatten(1, 2)))
        chosen = log_probs.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
        mask = target_mask(batch.lengths, batch.tokens.shape[1]).float()
        return -(chosen * mask).sum() / mask.sum()

    def beam(self, patches: Tensor, width: int = 3, steps: int = 60) -> list[tuple[list, float]]:
        """Best text (with its end mark) and summed log-probability of each study.

        The rule of the released code: every step is run; a finished text is stored with its sum
        and goes on with the score -1000; the best unnormalised sum wins.
        """
        results = []
        for study in patches:
            encoded = self.encode(study.unsqueeze(0))
            beams: list[tuple[list[int], float]] = [([], 0.0)]
            finished: list[tuple[list[int], float]] = []
            for step in range(steps):
                options = []
                for text, score in beams:
                    tokens = torch.tensor([[0, *text]])
                    log_probs = self.decode(tokens, encoded)[0, -1]
                    options += [
                        (text, word, score + value)
                        for value, word in zip(*(part.tolist() for part in log_probs.topk(width)))
                    ]
                options.sort(key=lambda option: -option[2])
                beams = []
                for text, word, score in options[:width]:
                    longer = [*text, word]
                    if word == 0 or step == steps - 1:
                        finished.append((longer, score))
                        score = -1000.0
                    beams.append((longer, score))
            results.append(max(finished, key=lambda text: text[1]))
        return results


def make_batch(count: int, patches: int, length: int, width: int = PATCH) -> Batch:
    """Random features, two views, texts of full length."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, WORDS, (count, length - 2), generator=generator)
    return collate(
        [f"s{i}" for i in range(count)],
        torch.ones(count, 2, dtype=torch.bool),
        features=torch.randn(count, 2, patches // 2, width, generator=generator).relu(),
        tokens=[[0, *row, 0] for row in words.tolist()],
    )


def textbook_of(model: ReportModel, **options: float) -> Textbook:
    """The textbook on the very tensors of ``model``."""
    return Textbook(
        {key.removeprefix(TEXT): v for key, v in released_tensors(model).items()}, **options
    )


def resident(field: str) -> int | None:
    """Bytes of this process: "VmRSS" now, "VmHWM" the most since the last reset."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def clock() -> float:
    """CPU time on one thread, which other work on the machine disturbs less; else wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def measure(work: Callable[[], object], repeats: int) -> dict[str, float | None]:
    """Median seconds and peak memory above the resting state; the first run warms up."""
    work()
    gc.collect()
    peak = None
    if resident("VmRSS") is not None:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
        before = resident("VmRSS")
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    if resident("VmRSS") is not None:
        peak = resident("VmHWM") - before
    return {"seconds": statistics.median(times), "peak_bytes": peak}


def training_step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def compare_training(sizes: dict[str, int], repeats: int, bf16: bool = False) -> dict[str, dict]:
    """A training step of both formulations (and of ours in bf16) at the given sizes."""
    model = build_model(
        "cmn",
        {"size": sizes["size"], "feed_forward_size": sizes["size"], "slots": sizes["slots"]},
        vocabulary_size=WORDS,
        feature_dim=PATCH,
        seed=0,
    ).train()
    batch = make_batch(sizes["batch"], sizes["patches"], sizes["tokens"])
    optimizer = torch.optim.Adam(
        model.parameters(), lr=1e-6, betas=(0.9, 0.98), eps=1e-9, weight_decay=5e-5, amsgrad=True
    )
    textbook = textbook_of(model, dropout=0.1, patch_dropout=0.5)

    def ours() -> Tensor:
        return model.loss(batch)["loss"]

    def in_bf16() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ours()

    found = {"kit": measure(lambda: training_step(ours, optimizer), repeats)}
    if bf16:
        found["kit_bf16"] = measure(lambda: training_step(in_bf16, optimizer), repeats)
    found["textbook"] = measure(
        lambda: training_step(lambda: textbook.loss(batch), optimizer), repeats
    )
    return found


@torch.no_grad()
def compare_decoding(sizes: dict[str, int], repeats: int, studies: int) -> dict[str, dict]:
    """Beam-3 decoding of a minibatch by both formulations."""
    model = build_model(
        "cmn",
        {"size": sizes["size"], "feed_forward_size": sizes["size"], "slots": sizes["slots"]},
        vocabulary_size=WORDS,
        feature_dim=PATCH,
        seed=0,
    ).eval()
    batch = make_batch(sizes["batch"], sizes["patches"], sizes["tokens"])
    config = DecodingConfig(
        method="beam", beam_size=3, max_length=sizes["tokens"], early_stop=False
    )
    textbook, some = textbook_of(model), min(studies, sizes["batch"])
    patches = batch.features[:some].flatten(1, 2)
    found = {"kit": measure(lambda: search(model, batch, config), repeats)}
    start = clock()
    textbook.beam(patches, steps=sizes["tokens"])
    seconds = (clock() - start) * sizes["batch"] / some
    found["textbook"] = {"seconds": seconds, "studies_timed": some, "peak_bytes": None}
    return found


GROWTH = {
    "slots": (256, 1024, 4096),
    "patches": (26, 98, 196),
    "tokens": (15, 60, 120),
    "batch": (1, 4, 8),
}


def growth(base: dict[str, int], repeats: int) -> list[dict]:
    """Training steps with one size varied at a time around ``base``."""
    rows = []
    for name, values in GROWTH.items():
        for value in values:
            found = compare_training({**base, name: value}, repeats)
            rows.append({"varied": name, "value": value, **found})
            print(f"{name} {value}: {line(found)}", flush=True)
    return rows


def line(found: dict[str, dict]) -> str:
    """Both figures and their ratios, in words."""
    kit, textbook = found["kit"], found["textbook"]
    text = f"{kit['seconds']:.2f} s against {textbook['seconds']:.2f} s"
    text += f" ({textbook['seconds'] / kit['seconds']:.1f} times)"
    if kit["peak_bytes"] and textbook["peak_bytes"]:
        text += f"; {kit['peak_bytes'] / 2**20:,.0f} MiB against"
        text += f" {textbook['peak_bytes'] / 2**20:,.0f} MiB"
        text += f" ({kit['peak_bytes'] / textbook['peak_bytes']:.2f})"
    return text


def plot(rows: list[dict], base: dict[str, int], path: Path) -> None:
    """One panel per size: seconds of a step (full lines) and peak memory (broken lines)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    lines = []
    for panel, name in zip(axes.flat, GROWTH):
        own = [row for row in rows if row["varied"] == name]
        values = [row["value"] for row in own]
        memory_axis = panel.twinx()
        for system, label, color in (("kit", "ours", "C0"), ("textbook", "textbook", "C1")):
            seconds = [row[system]["seconds"] for row in own]
            memory = [(row[system]["peak_bytes"] or math.nan) / 2**20 for row in own]
            lines += panel.loglog(values, seconds, "o-", color=color, label=f"{label}, time")
            lines += memory_axis.loglog(
                values, memory, "s--", color=color, label=f"{label}, memory"
            )
        panel.set_xticks(values, values)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(f"{name} (otherwise {base[name]})")
        panel.set_ylabel("seconds per training step")
        memory_axis.set_ylabel("peak memory, MiB")
    named = {line.get_label(): line for line in lines}
    figure.legend(named.values(), named.keys(), loc="upper center", ncols=4, frameon=False)
    figure.supxlabel(f"Training step of R2GenCMN, model size {base['size']}; all axes logarithmic")
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("batch", 16), ("patches", 98), ("tokens", 60), ("slots", 2048)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--size", type=int, default=512, help="d, of the model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--studies", type=int, default=2, help="that the textbook decodes")
    parser.add_argument("--growth", action="store_true", help="also vary each size")
    parser.add_argument("--only-growth", action="store_true", help="vary sizes, nothing else")
    parser.add_argument("--growth-size", type=int, default=128, help="d while sizes are varied")
    parser.add_argument("--bf16", action="store_true", help="also ours under bf16 autocast")
    parser.add_argument("--out", type=Path, help="folder for transformer.json and transformer.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    sizes = {
        name: getattr(options, name) for name in ("batch", "patches", "tokens", "slots", "size")
    }
    print(f"torch {torch.__version__}, cpu, {options.threads} thread(s), {sizes}")
    result = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": options.threads,
        "sizes": sizes,
    }
    if not options.only_growth:
        result["training"] = compare_training(sizes, options.repeats, options.bf16)
        print(f"training step: {line(result['training'])}", flush=True)
        if options.bf16:
            print(f"training step in bf16: {result['training']['kit_bf16']['seconds']:.2f} s")
        result["decoding"] = compare_decoding(sizes, options.repeats, options.studies)
        print(f"beam 3, minibatch: {line(result['decoding'])}", flush=True)
    varied = options.growth or options.only_growth
    base = {**sizes, "batch": min(4, options.batch), "size": options.growth_size}
    if varied:
        result["growth"] = {"base": base, "rows": growth(base, options.repeats)}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "transformer.json").write_text(json.dumps(result, indent=1) + "\n")
        if varied:
            plot(result["growth"]["rows"], base, options.out / "transformer.png")


if __name__ == "__main__":
    main()
