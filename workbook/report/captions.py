"""What a run's figures show, and which of them stand first on its page."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CAPTIONS = {
    "00_shapes": "The tensors from an image and its names to the masks, with their shapes.",
    "00_similarity": "Similarity between each name and an image at some steps of a short training.",
    "00_attention": "Attention of each name to the patches at some steps of a short training.",
    "01_pca": "Patch tokens of a photograph: their first three principal components as red, green and blue.",
    "01_encoders": "Patch tokens of the same photograph by every visual encoder that is on this machine.",
    "01_patch_similarity": "Cosine of every patch to the patch in the middle.",
    "01_names": "Cosines between text tokens.",
    "01_word_patch_similarity": "Similarity between names and image in the model's own space, which makes the masks.",
    "01_shapes": "The tensors from a scene and its names to a map a name, with their shapes.",
    "01_attention": "Attention of each name to the patches, one row a fusion block.",
    "02_training_scenes": "Training scenes with their names and masks.",
    "02_shapes": "The tensors of a training step, with their shapes.",
    "02_curves": "Loss of every training step, and mIoU on training names in new scenes.",
    "03_scenes_*": "Test {}: the two best and the two worst scenes, with the true and the predicted masks.",
    "03_per_class": "IoU of the best and the worst names of the hardest test; in brackets how often each was asked.",
    "03_confusion": "Pixels of each true name by the predicted name, in the test of all names or the hardest one.",
    "03_threshold": "Every background threshold, in the test of all names or the hardest one: the share of object "
    "pixels that get a name, and the share of named pixels whose name is wrong.",
    "04_ablation_*": "Share of mosaic tiles that go to their own name, by setting.",
    "05_mosaics": "Mosaics: four images side by side, and the four names that are asked at once.",
    "05_shapes": "The tensors from four samples to the tiles that go to their own name, with their shapes.",
    "05_mosaic4": "Mosaics: tiles that go to their own name, and mIoU with its two controls.",
    "05_scenes": "The two best and the two worst of the first 100 mosaics of the hardest split.",
    "05_kinds": "One mosaic of each harder kind, with its prediction.",
    "05_kind_bars": "The harder kinds of mosaic beside the plain one.",
    "05_robustness": "Mosaics with smaller tiles, blur, noise, compression, and more absent names.",
    "05_methods": "Other methods on the same mosaics.",
    "06_mask_inspector": "The mask inspector: one photograph, its masks, and the probabilities of the clicked pixel.",
    "07_encoder_pairs": "mIoU of early and late fusion for each text encoder; error bars span the seeds.",
    "08_overlays": "Masks of the packaged model on photographs that it was not trained on.",
    "08_gains": "What each changed setting gains or loses.",
    "09_targets": "How many times better than its target each measured figure is.",
    "09_training": "Where the time of a training step goes.",
    "09_scale": "How time and memory grow with the size of the input.",
}
"""By the stem of the figure's file; * stands for a test or a number, {} is filled with it."""

FIRST = ("03_scenes_combinations", "03_scenes_all", "03_scenes_*", "05_scenes", "08_overlays", "06_*", "00_similarity")
"""The best picture of a run: the first of these that it has."""
NEXT = ("02_curves", "05_mosaic4", "03_threshold", "03_confusion", "07_encoder_pairs", "08_gains", "09_training")
"""The figures that stand beside it: the first three of these."""


def caption(file: Path) -> str:
    """What the figure in ``file`` shows, in a sentence; the words of its name for a figure of the user's own."""
    for pattern, text in CAPTIONS.items():
        if match := _matched(pattern, file.stem):
            return text.format(*(part.replace("_", " ") for part in match.groups()))
    return file.stem.replace("_", " ")


def chosen(files: list[Path]) -> tuple[Path | None, list[Path]]:
    """The best picture among ``files``, and up to three figures beside it."""
    found = [file for pattern in FIRST for file in files if _matched(pattern, file.stem)]
    beside = [file for pattern in NEXT for file in files if _matched(pattern, file.stem)]
    return next(iter(found), None), beside[:3]


def headline(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """What was trained and what came out, "" where nothing is known. run: the sections of its config."""
    training, fusion, data = (run.get(part) or {} for part in ("training", "fusion", "data"))
    measured = metrics.get("training") or {}
    what = []
    if fusion:
        count = f" of {measured['parameters']:,} parameters" if "parameters" in measured else ""
        steps = f" was trained for {training['steps']:,} steps" if training.get("steps") else ""
        where = str(data.get("dataset") or "")
        on = {"openmoji": "drawn scenes", "folder": "photographs of its own"}.get(where, where)
        what.append(f"A model of kind {fusion.get('kind')}{count}{steps}{f' on {on}' if on else ''}.")
    results = []
    for key, words in (
        ("unseen_combinations", "unseen combinations"),
        ("novel_classes", "unseen classes"),
        ("all_classes", "all classes at once"),
    ):
        if "miou" in (metrics.get(key) or {}):
            results.append(f"mIoU {metrics[key]['miou']:.3f} on {words}")
    for split, words in (("combinations", "unseen combinations"), ("objects", "unseen objects")):
        found = (metrics.get("mosaic4") or {}).get(split) or {}
        if "assignment" in found:
            results.append(
                f"{found['assignment']:.0%} of the mosaic tiles with {words} go to their own name (chance 25%)"
            )
    return " ".join([*what, f"Result: {'; '.join(results)}." if results else ""]).strip()


def _matched(pattern: str, stem: str) -> re.Match[str] | None:
    return re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), stem)
