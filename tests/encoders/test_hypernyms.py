"""Hypernyms: WordNet's own format read by hand-written lines, and the packaged file against the text encoder."""

import numpy as np
import torch
import torch.nn.functional as F

from fusionerlib.encoders.imagenet import class_texts, hypernyms, read_hypernyms, rebuild, word_bank
from fusionerlib.encoders.registry import load_text

NOUNS = """  1 This line is part of a licence.
00000010 03 n 01 entity 0 001 ~ 00000020 n 0000 | that which is
00000020 05 n 02 animal 0 creature 0 002 @ 00000010 n 0000 ~ 00000030 n 0000 | it lives
00000030 05 n 02 Domestic_Dog 0 dog 1 003 @ 00000020 n 0000 #m 00000010 n 0000 @ 00000040 n 0000 | it barks | loudly
00000040 05 n 01 pet 0 001 @ 00000010 n 0000 | it is kept
00000050 05 n 01 spot 0 001 @i 00000030 n 0000 | a certain dog
"""


def test_hypernyms_are_climbed_level_by_level(tmp_path) -> None:
    file = tmp_path / "data.noun"
    file.write_text(NOUNS, encoding="latin-1")
    found = read_hypernyms(["n00000050", "n00000030", "n00000010"], file)
    assert found[0] == ["domestic dog", "dog", "animal", "creature", "pet", "entity"]
    assert found[1] == ["animal", "creature", "pet", "entity"] and found[2] == []


def test_the_packaged_kinds_are_what_anyone_would_call_them() -> None:
    words, members = hypernyms()
    assert len(members) == 1000 and all(members) and len(set(words)) == len(words) == len(word_bank("kinds"))
    for number, name, kind in ((339, "sorrel", "horse"), (345, "ox", "cattle"), (207, "golden retriever", "dog")):
        assert class_texts(number)[0] == name and kind in [words[place] for place in members[number]]
    dogs = [number for number, own in enumerate(members) if words.index("dog") in own]
    assert dogs == list(range(151, 269)), "ImageNet's 118 breeds stand side by side"


def test_the_packaged_embeddings_are_those_of_the_text_encoder() -> None:
    words, _ = hypernyms()
    chosen = np.linspace(0, len(words) - 1, 12).astype(int).tolist()
    said = load_text("packaged")([words[place] for place in chosen], ["{}"])
    torch.testing.assert_close(said, word_bank("kinds")[chosen], atol=2e-3, rtol=0)


def test_a_name_means_the_classes_of_its_kind() -> None:
    text = load_text("packaged", tokens="class_posteriors")
    names = ["horse", "golden retriever", "a suit and a tie"]
    said = text(names, ["{}"])
    plain = load_text("packaged")(names, ["{}"]).numpy()
    _, members = hypernyms()
    classes, above = (centred(word_bank(part).numpy()) for part in ("words", "kinds"))
    for row, own in zip(said, plain, strict=True):
        similarity = [max(classes[c] @ own, max(above[m] @ own for m in members[c])) for c in range(1000)]
        chances = np.exp(np.array(similarity) / 0.05)
        np.testing.assert_allclose(row, chances / np.linalg.norm(chances), atol=2e-4)
    assert said[0].argmax() == 339 and said[1].argmax() == 207
    torch.testing.assert_close(said.norm(dim=-1), torch.ones(3))


class Letters:
    """A text encoder of two numbers: how long a text is, and how many e's it has."""

    name, space, width, fingerprint = "letters", "letters", 2, "letters"

    def __call__(self, names, templates):
        return F.normalize(torch.tensor([[len(name), name.count("e") + 1.0] for name in names]), dim=-1)


def test_a_rebuilt_file_is_read_back(tmp_path, monkeypatch) -> None:
    file = tmp_path / "data.noun"
    lines = "".join(f"{offset} 05 n 01 thing 0 001 @ 00000001 n 0000 | x\n" for offset in synsets())
    file.write_text(lines + "00000001 03 n 01 Some_Thing 0 000 | all\n", encoding="latin-1")
    rebuild(file, Letters(), tmp_path / "bank.safetensors")
    monkeypatch.setattr("fusionerlib.encoders.imagenet.resources.files", lambda _: tmp_path)
    monkeypatch.setattr("fusionerlib.encoders.imagenet.BANK", "bank.safetensors")
    assert hypernyms.__wrapped__() == (["some thing"], [[0]] * 1000)


def synsets() -> list[str]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_label_name(number)[1:] for number in range(1000)]


def centred(bank: np.ndarray) -> np.ndarray:
    off = bank - bank.mean(0)
    return off / np.linalg.norm(off, axis=1, keepdims=True)
