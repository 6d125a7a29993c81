"""How well a text encoder knows a name (``known``), and what is said of the names that are asked (``notes``)."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from fusionerlib.datasets.names import canonical
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.name_forms import Everyday, everyday, form, is_noun, plain, script, suggestions

Kind = Literal["exact", "synonym", "near", "none"]
NEAR = 0.5
"""Least cosine between a name and a word of ImageNet that means about the same: "pony" has 0.53 with "horse"."""
FAR = 0.42
"""Cosine with the nearest word of ImageNet below which a name has none that helps."""
FLAT = 6.1
"""Entropy (nats) above which a distribution over 1,000 classes says next to nothing: "animal" has 6.0, "justice" 6.5, a
uniform distribution 6.9."""
SHOWN = 10
"""Most notes of one kind; the other names of that kind are counted."""
CHECKED = 100
"""Most names that are looked up in the encoder for notes: 20,000 would take minutes."""


@runtime_checkable
class WithVocabulary(Protocol):
    """A text encoder whose tokens are distributions over named classes, such as ``imagenet.ClassDistributions``."""

    @property
    def vocabulary(self) -> frozenset[str]:
        """Names of the classes and their kinds, in lower case."""
        ...

    def is_word(self, word: str) -> bool:
        """Whether ``word``, in lower case, is a common word."""
        ...

    def nearest(self, name: str) -> tuple[str, float]:
        """The nearest word of ``vocabulary``, and its cosine."""
        ...

    def related(self, name: str, others: Collection[str], *, least: float) -> bool:
        """Whether the cosine of ``name`` with one of ``others`` is ``least`` or more."""
        ...


class Known(NamedTuple):
    """How well a text encoder knows a name.

    form: what is looked up and encoded. kind: ``exact``, the encoder's vocabulary has it; ``synonym``, the hand-written
    table says which words stand for it; ``near``, a word of the vocabulary means about the same; ``none``, nothing
    does, or the table says so. of: that word, the nearest one for ``none``. similarity: cosine with it. entropy: of the
    name's distribution over the classes, in nats; 0 names one class, 6.9 all of 1,000 alike.
    An encoder whose tokens are no distribution has no vocabulary: every English noun is ``exact``, ``similarity`` and
    ``entropy`` are nan.
    """

    form: str
    kind: Kind
    of: str
    similarity: float = math.nan
    entropy: float = math.nan


def known(cache: TextEmbeddingCache, name: str) -> Known:
    """How well the encoder of ``cache`` knows ``name``; costs a text encoding where the name is no known word."""
    text, encoder = cache.form(name), cache.encoder
    if not isinstance(encoder, WithVocabulary):
        holds: Callable[[str], bool] | None = getattr(encoder, "holds", None)
        exact = holds(text) if holds is not None else is_noun(plain(text))
        return Known(text, "exact" if exact else "none", text if exact else "")
    token = cache.tokens([name])[0]
    posterior = token / token.sum()
    entropy = -float((posterior * posterior.clamp(min=1e-12).log()).sum())
    table = cache.table
    if table and text in {**table.alike, **table.instead}:
        return Known(text, "synonym", table.alike.get(text) or table.instead[text][0], entropy=entropy)
    if text in encoder.vocabulary and not (table and text in table.lacking | table.parts.keys()):
        return Known(text, "exact", text, 1.0, entropy)
    of, similarity = encoder.nearest(text)
    lacking = table is not None and text in table.lacking | table.parts.keys()
    return Known(text, "near" if similarity >= NEAR and not lacking else "none", of, similarity, entropy)


def notes(cache: TextEmbeddingCache, names: Sequence[str], *, trained_names: Collection[str] = ()) -> tuple[str, ...]:
    """What is to be said of ``names``, in plain sentences: shortened, asked as another name, unknown, misspelt, ...

    trained_names: the names with masks in training; nothing is said of those. At most ``SHOWN`` notes of a kind; the
    others, and names beyond the first ``CHECKED``, are counted. A name is never changed on a guess: what may be a
    misspelling is only said.
    """
    trained = {cache.form(name) for name in trained_names}
    said: dict[str, list[tuple[str, str]]] = {}
    for name in names[:CHECKED]:
        for kind, text in _of_name(cache, name, trained, trained_names):
            said.setdefault(kind, []).append((name, text))
    found = [text for of_kind in said.values() for text in _at_most(of_kind)]
    if len(names) > CHECKED:
        found.append(f"only the first {CHECKED} of {len(names)} names were looked up")
    return tuple(found)


def _at_most(of_kind: Sequence[tuple[str, str]]) -> list[str]:
    texts = [text for _, text in of_kind[:SHOWN]]
    if left := [name for name, _ in of_kind[SHOWN:]]:
        texts.append(f"the same holds for {len(left)} more: {', '.join(left[:20])}{' ...' if len(left) > 20 else ''}")
    return texts


def _of_name(
    cache: TextEmbeddingCache, name: str, trained: Collection[str], trained_names: Collection[str]
) -> Iterator[tuple[str, str]]:
    """(kind, note) of one name."""
    text, table = cache.form(name), cache.table or _NO_TABLE
    if cache.spelling == "words" and text != plain(name).replace("-", " ") and " " in name.strip():
        yield "short", f"{name!r} is asked as {text!r}"
    if text in trained or canonical(text) in trained:
        return
    english = getattr(cache.encoder, "languages", "") == "English"
    if english and (other := script(name)):
        yield "script", f"{name!r} is written in {other} letters, and the text encoder reads English: translate it"
        return
    if english and not any(letter.isalpha() for letter in text):
        yield "letters", f"{name!r} has no letters, and the text encoder reads words: describe it in English"
        return
    if text in table.alike:
        yield "alike", f"{name!r} is encoded much as {table.alike[text]!r}: this model hardly tells the two apart"
    elif text in table.parts:
        whole = table.parts[text]
        article = "an" if whole[0] in "aeiou" else "a"
        yield (
            "part",
            f"{name!r} is a part of {article} {whole}, and parts are not among the classes of the image encoder: "
            f"expect wrong masks, or ask for the whole, such as {whole!r}",
        )
    elif english and (strange := [word for word in text.split() if not _is_word(cache, word, text)]):
        near = _suggested(cache, strange, text, trained)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "check its spelling and its language"
        # An adjective that neither list has ("blurry cat") is likelier than a mistake that resembles no word.
        if near or strange[-1] == text.split()[-1]:
            yield "strange", f"{name!r} is asked as it is, but {strange[0]!r} is no English word that is known: {hint}"
    elif " " in text and not is_noun(text) and (near := suggestions(text, [one for one in trained if " " in one])):
        yield "strange", f"{name!r} is asked as it is; did you mean {' or '.join(map(repr, near))}?"
    elif isinstance(cache.encoder, WithVocabulary):
        yield from _meaning(cache, name, table, trained_names, encoder=cache.encoder)


def _meaning(
    cache: TextEmbeddingCache, name: str, table: Everyday, trained_names: Collection[str], *, encoder: WithVocabulary
) -> Iterator[tuple[str, str]]:
    """Notes on an English name that the image encoder has no class for."""
    found = known(cache, name)
    near = suggestions(found.form, [canonical(cache.form(one)) for one in trained_names])
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    if found.kind == "exact" and found.entropy > FLAT:
        yield "all", f"{name!r} means nearly every class of the image encoder: ask for something in particular"
    elif found.form in table.instead:
        words = table.instead[found.form]
        stand = f"{' and '.join(map(repr, words))} {'stand' if len(words) > 1 else 'stands'} for it"
        yield "instead", f"{name!r} is no class of the image encoder: {stand}, which may find little"
    elif found.kind == "none":
        if found.form in table.lacking or (found.similarity < FAR and found.entropy <= FLAT):
            nearest = "" if found.of == found.form else f" ({found.of!r} is the nearest)"
            yield (
                "lacking",
                f"{name!r} is no class of the image encoder, nor near to one{nearest}: expect wrong masks{hint}",
            )
        elif found.entropy > FLAT and not encoder.related(found.form, trained_names, least=NEAR):
            yield (
                "flat",
                f"{name!r} means nothing to this model: no class of the image encoder and no name with masks is near "
                f"to it{hint}",
            )


def _is_word(cache: TextEmbeddingCache, word: str, text: str) -> bool:
    """Whether ``word`` of the name ``text`` is a word of English, as far as WordNet's nouns and the encoder know."""
    bare = word.strip("()").replace("-", "")
    if any(map(is_noun, (text, word, bare, form(word)))) or any(character.isdigit() for character in word):
        return True
    # The list has no adjectives, so the encoder's own words count too, but not as a whole name: they hold some of other
    # languages ("maison").
    whole: Callable[[str], bool] | None = getattr(cache.encoder, "is_word", None)
    return word != text and (whole is None or whole(bare))


def _suggested(cache: TextEmbeddingCache, strange: Sequence[str], text: str, trained: Collection[str]) -> list[str]:
    """Known names that ``text``, or its first strange word, may be a misspelling of."""
    first = {*trained, *everyday().names()}
    vocabulary = getattr(cache.encoder, "vocabulary", ())
    near = suggestions(text, vocabulary, first=first)
    if near or text == strange[0]:
        return near
    return [text.replace(strange[0], word) for word in suggestions(strange[0], vocabulary, first=first)]


_NO_TABLE = Everyday({}, {}, {}, {}, frozenset(), {}, frozenset())
