"""What kind of thing each class of ImageNet is: its hypernyms in WordNet, so that "horse" is known to mean the sorrel.

``python -m fusionerlib.encoders.hypernyms DATA_NOUN`` writes the packaged file again from WordNet 3.0's ``data.noun``
(Princeton University; Debian's package wordnet-base has it) and the packaged text encoder.
"""

import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fusionerlib.encoders.base import TextEncoder

BANK = "imagenet_words.safetensors"
CLASSES = 1000


def ancestors(synsets: Sequence[str], data_noun: Path) -> list[list[str]]:
    """For each synset (``n02389026``) the words of all its hypernyms, nearest first, lower case.

    data_noun: WordNet's file, a synset a line; the format is in its manual page wndb(5WN).
    """
    words: dict[str, list[str]] = {}
    above: dict[str, list[str]] = {}
    for line in data_noun.read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):
            continue  # the licence at the top
        fields = line.partition("|")[0].split()
        offset, count = fields[0], int(fields[3], 16)
        words[offset] = [fields[4 + 2 * place].replace("_", " ").lower() for place in range(count)]
        first = 5 + 2 * count
        pointers = [fields[start : start + 2] for start in range(first, first + 4 * int(fields[first - 1]), 4)]
        above[offset] = [target for symbol, target in pointers if symbol in ("@", "@i")]
    return [_climb(synset.removeprefix("n"), words, above) for synset in synsets]


def _climb(start: str, words: dict[str, list[str]], above: dict[str, list[str]]) -> list[str]:
    level, found = above[start], dict[str, None]()
    while level:
        found |= dict.fromkeys(word for synset in level for word in words[synset])
        level = list(dict.fromkeys(synset for below in level for synset in above[below]))
    return list(found)


def kinds() -> tuple[list[str], list[list[int]]]:
    """The packaged hypernyms: all words, and for each class the places of its own among them, nearest first."""
    with resources.as_file(resources.files("fusionerlib.encoders") / BANK) as file, safe_open(file, "pt") as bank:
        held = bank.metadata()
    return json.loads(held["kinds"]), json.loads(held["members"])


def rebuild(data_noun: Path, text: TextEncoder, target: Path) -> None:
    """Writes ``target``: embeddings of the classes (1000, dim) and of all hypernyms, and which class has which."""
    from timm.data import ImageNetInfo

    from fusionerlib.encoders.worded import embedded

    info = ImageNetInfo("imagenet-1k")
    each = ancestors([info.index_to_label_name(number) for number in range(CLASSES)], data_noun)
    known = list(dict.fromkeys(word for words in each for word in words))
    place = {word: number for number, word in enumerate(known)}
    tensors = {"words": embedded(text, list(range(CLASSES))).half(), "kinds": text(known, ["{}"]).half()}
    members = json.dumps([[place[word] for word in words] for words in each], separators=(",", ":"))
    save_file(tensors, target, metadata={"kinds": json.dumps(known), "members": members})


if __name__ == "__main__":
    from fusionerlib.encoders.registry import load_text

    torch.manual_seed(0)
    rebuild(Path(sys.argv[1]), load_text("packaged"), Path(__file__).with_name(BANK))
