"""The cascade: findings first, then words.

After Shin et al., "Learning to Read Chest X-Rays: Recurrent Neural Cascade Model for Automated
Image Annotation", CVPR 2016.
"""

from __future__ import annotations

from torch import Tensor, nn

from r2genkit.batches import Batch
from r2genkit.errors import KitError
from r2genkit.models.cnn_rnn import ShowTell, ShowTellConfig
from r2genkit.models.embedding import WordEmbedding


class CascadeConfig(ShowTellConfig):
    """Options of :class:`Cascade`; a checklist has nothing to strike off here."""

    image: bool = True
    """Whether the image follows the findings as the first input; without it, words come from the
    recognised findings alone."""


class Cascade(ShowTell):
    """From recognised findings to words: the findings set the LSTM's memory.

    In the paper a CNN learns disease labels, and an RNN that starts from what it recognised writes
    the annotation. There the RNN writes about five MeSH terms, starts from the CNN's feature
    vector, and a second round learns finer labels from its states; here it writes the whole report,
    ``h_{-1}, c_{-1} = tanh(W p)`` with p the classifier's probabilities, there is one round, and
    the image follows as the first input as in :class:`ShowTell`. Tags are not added to the word
    vectors: what the memory forgets is gone.

    An image vector is enough to know a training study by heart, and a writer that does so need not
    read its memory. With ``image=False`` the first input is zero and the chain is strict: what was
    not recognised cannot be written.
    """

    Config = CascadeConfig
    config: CascadeConfig

    def __init__(self, config: CascadeConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        if not self.tag_count:
            raise KitError(
                "the cascade starts from predicted findings; give the recipe a tags block, or use "
                "show_tell."
            )
        self.embedding = WordEmbedding(self.vocabulary_size, config.embedding_size, 0)
        if not config.image:
            self.image = None
        self.initial_h = nn.Linear(self.tag_count, config.hidden_size)
        self.initial_c = nn.Linear(self.tag_count, config.hidden_size)

    def image_vector(self, batch: Batch) -> Tensor:
        """As in the base class, or zero."""
        if self.config.image:
            return super().image_vector(batch)
        return self.initial_h.weight.new_zeros(len(batch), self.config.embedding_size)

    def initial(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``h_{-1}, c_{-1} [1, B, H]`` from the findings."""
        tags = self.required_tags(batch).unsqueeze(0)
        return self.initial_h(tags).tanh(), self.initial_c(tags).tanh()
