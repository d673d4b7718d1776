"""Speed of the recurrent models at lab scale: training steps and decoding.

    python benchmarks/bench_decoding.py [--threads 1] [--repeats 5]

256-number patch features, 98 patches, hidden 256, 700 words; training texts of 20 to 60 tokens, a
full stop after every eighth. Weights are random, so for decoding each study is given the length
(20 to 45 words) at which its text ends; sentences end after seven words. Prints a Markdown table;
times are medians, and on one CPU thread they are CPU time, so that other work on the machine
disturbs them less.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from r2genkit.batches import Batch, SentenceLayout, collate
from r2genkit.decoding import Decoded, DecodingConfig, Writer, search
from r2genkit.models import ReportModel, State, build_model

WORDS, PATCH, PATCHES, TAGS, HIDDEN = 700, 256, 49, 20, 256
STOP, SENTENCE = 1, 8  # id of the full stop; words of a sentence and its full stop
SIZES = {"embedding_size": HIDDEN, "hidden_size": HIDDEN}
MODELS = {
    "Show and Tell": ("show_tell", SIZES),
    "Show, Attend and Tell, soft": ("show_attend_tell", {**SIZES, "attention_size": HIDDEN}),
    "Show, Attend and Tell, post": (
        "show_attend_tell",
        {**SIZES, "attention_size": HIDDEN, "attention": "post"},
    ),
    "Cascade": ("cascade", SIZES),
    "Hier-RNN": ("hier_rnn", SIZES),
    "Co-attention": ("co_attention", {**SIZES, "attention_size": 64}),
    "MRNA": ("mrna", {**SIZES, "attention_size": 64, "channels": 128}),
    "MRNA, improved": (
        "mrna",
        {
            **SIZES,
            "attention_size": 64,
            "channels": 128,
            "memory": "all",
            "tag_topic": True,
            "self_feeding": 0.25,
        },
    ),
}
SEARCHES = {
    "greedy": DecodingConfig(),
    "greedy, all steps": DecodingConfig(early_stop=False),
    "beam 3": DecodingConfig(method="beam", beam_size=3),
    "beam 3, all steps": DecodingConfig(method="beam", beam_size=3, early_stop=False),
}


def make_batch(count: int, device: str, layout: SentenceLayout | None, width: int = PATCH) -> Batch:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 61, (count,), generator=generator).tolist()
    tokens = []
    for length in lengths:
        words = torch.randint(2, WORDS, (length - 2,), generator=generator)
        words[SENTENCE - 1 :: SENTENCE] = STOP
        tokens.append([0, *words.tolist(), 0])
    return collate(
        [f"s{i}" for i in range(count)],
        torch.ones(count, 2, dtype=torch.bool),
        features=torch.randn(count, 2, PATCHES, width, generator=generator),
        tokens=tokens,
        tags=torch.rand(count, TAGS, generator=generator),
        neighbours=_reports(count, generator),
        layout=layout,
    ).to(device)


def _reports(count: int, generator: torch.Generator) -> torch.Tensor:
    """Five retrieved reports of 35 words per study, for models that read some."""
    reports = torch.randint(2, WORDS, (count, 5, 61), generator=generator)
    reports[..., 0] = reports[..., 36:] = 0
    return reports


class Ending(torch.nn.Module):
    """A model whose text for study i ends after ``lengths[i]`` words, or with that sentence."""

    def __init__(self, model: ReportModel, lengths: torch.Tensor) -> None:
        super().__init__()
        self.model, self.lengths, self.vocabulary_size = model, lengths, model.vocabulary_size
        self.layout = model.layout

    def write(self, batch: Batch, writer: Writer) -> Decoded:
        if self.layout is not None:
            return writer.reports(self, batch)
        return writer.texts(self.step, self.encode(batch), batch.study_ids)

    def encode(self, batch: Batch) -> State:
        state = self.model.encode(batch)
        state.moving["left"] = self.lengths
        return state

    def step(self, tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        log_probs, new = self.model.step(tokens, state)
        log_probs[:, 0] = torch.where(state["left"] > 0, -50.0, 50.0)
        return log_probs, new.advance(left=state["left"] - 1)

    def plan(self, state: State) -> tuple[torch.Tensor, State]:
        return self.model.plan(state)

    def begin(self, topic: torch.Tensor, state: State) -> State:
        begun = self.model.begin(topic, state)
        return begun.advance(left=torch.full_like(state["left"], SENTENCE - 1))

    def tell(self, tokens: torch.Tensor, state: State) -> State:
        return self.model.tell(tokens, state)

    def sentence_vectors(self, tokens: torch.Tensor) -> torch.Tensor | None:
        return self.model.sentence_vectors(tokens)

    def read(self, vector: torch.Tensor | None, state: State) -> tuple[torch.Tensor, State]:
        _, new = self.model.read(vector, state)
        left = state["left"] - SENTENCE
        return torch.where(left > 0, -50.0, 50.0), new.advance(left=left)


def median_seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times[1:])


def training_step(model: torch.nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(batch)["loss"].backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s)\n")
    print("| model | minibatch | training ms/step | training tokens/s |", end="")
    print("".join(f" {name}, studies/s |" for name in SEARCHES))
    print("| --- " * (4 + len(SEARCHES)) + "|")
    for label, (name, settings) in MODELS.items():
        for count in (8, 32):
            model = build_model(
                name,
                settings,
                vocabulary_size=WORDS,
                feature_dim=PATCH,
                tag_count=TAGS,
                full_stop=STOP,
                seed=0,
            ).to(options.device)
            batch = make_batch(count, options.device, model.layout)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
            step = median_seconds(
                lambda m=model, b=batch, o=optimizer: training_step(m, b, o),
                options.repeats,
                options.device,
            )
            speeds = [step * 1e3, float(batch.token_weights.sum()) / step]
            lengths = torch.randint(20, 46, (count,), device=options.device)
            ending = Ending(model, lengths).eval()
            with torch.no_grad():
                for config in SEARCHES.values():
                    seconds = median_seconds(
                        lambda m=ending, b=batch, c=config: search(m, b, c),
                        options.repeats,
                        options.device,
                    )
                    speeds.append(count / seconds)
            cells = " | ".join(f"{speed:,.0f}" for speed in speeds)
            print(f"| {label} | {count} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
