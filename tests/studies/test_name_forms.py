"""The study of name forms: its figures are those of the evaluation, and a form costs what its text costs."""

import numpy as np
import pytest
from skimage.data import chelsea

from fusionerlib import Segmenter
from fusionerlib.datasets.scene import Scene
from fusionerlib.evaluation.scores import evaluate
from fusionerlib.features.store import FeatureStore
from studies.name_forms.study import FORMS, SYNONYMS, chosen, measured, suggested, table
from tests.evaluation.drawn import Listed

SIZE = 96


def test_plain_names_score_as_in_the_evaluation(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(FORMS, "another thing", lambda name: "teapot")
    segmenter = Segmenter.load("packaged")
    segmenter.size = SIZE
    cat, scenes = chelsea(), []
    for number in range(2):
        labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
        labels[10:80, 10:80], labels[80:] = 1, 255
        image = cat[40 * number : 40 * number + 2 * SIZE : 2, : 4 * SIZE : 4]
        scenes.append(Scene(image=np.ascontiguousarray(image), labels=labels, names=("cat",), key=str(number)))
    listed = Listed(scenes)
    stored = FeatureStore(tmp_path, encoder=segmenter.visual).add(listed, quiet=True)
    rows = {row.form: row for row in measured(segmenter, stored, size=SIZE)}
    score = evaluate(segmenter, listed, quiet=True).figures["single_prompt_miou"].value
    assert rows["plain"].miou == pytest.approx(score, abs=0.03) and score > 0.2
    assert rows["CAPITALS"].miou == rows["a photo of a"].miou == rows["plain"].miou
    assert rows["another thing"].miou < rows["plain"].miou / 2
    lost = 100 * rows["plain"].miou
    assert f"| another thing | 0.0 | -{lost:.1f} | cat -{lost:.0f} |" in table(list(rows.values()))


def test_slips_of_names_are_counted() -> None:
    segmenter = Segmenter.load("packaged")
    segmenter.trained_names = ("refrigerator", "tv")
    counts = suggested(segmenter, draws=2)
    assert all(sum(found) == 4 and found[0] >= 2 for found in counts.values()), "the long name is always suggested"
    assert counts["a letter left out"][0] == 2, "of tv one letter is left, for which nothing is suggested"


def test_every_name_has_three_synonyms_and_photographs_are_spread() -> None:
    assert all(len({name, *words}) == 4 for name, words in SYNONYMS.items()) and len(SYNONYMS) == 20
    assert FORMS["article"]("airplane") == "an airplane" and FORMS["plural"]("bus") == "buses"
    assert chosen(3, 9) == [0, 3, 6] and chosen(9, 2) == [0, 1]
