"""Words that mean something else: what a model can do with names alone, when what they say is taken from them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fusionerlib.errors import FusionerError
from fusionerlib.frozen.words import WordTable


class ShuffledWords(WordTable):
    """The tokens of ``words``, each under another name of the same group; the same one in training and in tests.

    All that is known of the tokens stays (how many, how alike), only whose they are is drawn by ``seed``. groups: names
    that exchange their tokens, those of training and the others apart, so that an unseen name stays unseen. A name
    alone in its group keeps its token. Raises FusionerError for a name of no group.
    """

    def __init__(self, words: WordTable, groups: Sequence[Sequence[str]], *, seed: int) -> None:
        super().__init__(encoder=words.encoder, templates=words.templates, synonyms=words.synonyms)
        rng = np.random.default_rng((seed, 4))
        self.meant: dict[str, str] = {}
        for group in groups:
            ring = [sorted(group)[place] for place in rng.permutation(len(group))]
            # One ring, so that no name finds its way back to itself.
            self.meant |= dict(zip(ring, [*ring[1:], *ring[:1]], strict=True))

    def _encoded(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        if unknown := [name for name in names if name not in self.meant]:
            raise FusionerError(
                f"no shuffled token for {unknown[0]!r}: put every name that is trained or asked into one of the groups"
            )
        return super()._encoded([self.meant[name] for name in names])
