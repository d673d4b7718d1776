"""Word vectors with findings added, and findings that are struck off once told."""

import math

import pytest
import torch

from r2genkit.models.base import State
from r2genkit.models.embedding import Checklist, WordEmbedding

torch.set_num_threads(1)

WORDS, SIZE, TAGS = 6, 4, 3


def embedding(**options):
    torch.manual_seed(0)
    made = WordEmbedding(WORDS, SIZE, TAGS, **options)
    if made.checklist is not None:
        torch.nn.init.uniform_(made.checklist.strikes.weight, -0.7, 0.3)
    return made


@torch.no_grad()
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_what_is_left_follows_the_equation_word_by_word(factor):
    made = embedding(checklist=True, factor=factor)
    tokens = torch.tensor([[0, 2, 5, 0, 3], [0, 1, 1, 4, 0]])
    tags = torch.rand(2, TAGS)
    state = State(made.project_tags(tags))
    vectors, moving = made.read(tokens, state)
    strikes = made.checklist.strikes.weight
    for row in range(2):
        told = [0.0] * TAGS
        for t, token in enumerate(tokens[row].tolist()):
            if token:
                told = [a + math.exp(4 * strikes[token, f]) for f, a in enumerate(told)]
            left = torch.tensor([tags[row, f] * math.exp(-told[f]) for f in range(TAGS)])
            want = factor * (made.words.weight[token] + made.tags.weight @ left)
            torch.testing.assert_close(vectors[row, t], want)
        torch.testing.assert_close(moving["told"][row], torch.tensor(told))


@torch.no_grad()
def test_reading_in_two_parts_is_reading_at_once():
    made = embedding(checklist=True)
    tokens, tags = torch.tensor([[0, 2, 5, 4, 3]]), torch.rand(1, TAGS)
    state = State(made.project_tags(tags))
    whole, _ = made.read(tokens, state)
    first, moving = made.read(tokens[:, :2], state)
    second, _ = made.read(tokens[:, 2:], state.advance(**moving))
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


@torch.no_grad()
def test_untrained_strikes_hardly_matter_and_no_checklist_is_the_plain_embedding():
    plain, listed = embedding(), embedding(checklist=True)
    listed.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.constant_(listed.checklist.strikes.weight, -1.5)
    tokens, tags = torch.randint(0, WORDS, (2, 40)), torch.rand(2, TAGS)
    want = plain(tokens, plain.project_tags(tags)["tags"])
    assert torch.equal(plain.read(tokens, State(plain.project_tags(tags)))[0], want)
    got, _ = listed.read(tokens, State(listed.project_tags(tags)))
    assert 0 < (got - want).abs().max() < 0.1 * plain.tags(tags).abs().max() + 1e-6


def test_strikes_learn_what_a_word_tells():
    """Told to write finding f's word once, then end: the word learns to strike off f alone."""
    torch.manual_seed(0)
    made = WordEmbedding(TAGS + 1, TAGS, TAGS, checklist=True)
    torch.nn.init.eye_(made.tags.weight)
    torch.nn.init.zeros_(made.words.weight)
    optimizer = torch.optim.AdamW([made.checklist.strikes.weight], lr=0.02)
    words = torch.arange(1, TAGS + 1)
    for _ in range(300):
        tags = torch.rand(8, TAGS)
        tokens = words[torch.randint(TAGS, (8, 1))]
        vectors, _ = made.read(tokens, State(made.project_tags(tags)))
        wanted = tags.scatter(1, tokens - 1, 0.0)
        loss = (vectors[:, 0] - wanted).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        left = (-made.checklist.spent(words)).exp()
    assert (left.diagonal() < 0.2).all()
    assert (left[~torch.eye(TAGS, dtype=torch.bool)] > 0.9).all()


def test_a_checklist_without_tags_is_no_checklist():
    made = WordEmbedding(WORDS, SIZE, 0, checklist=True)
    assert made.checklist is None and made.project_tags(None) == {}


@torch.no_grad()
def test_marks_strike_nothing():
    made = Checklist(WORDS, TAGS)
    assert torch.equal(made.spent(torch.zeros(2, 3, dtype=torch.long)), torch.zeros(2, 3, TAGS))
