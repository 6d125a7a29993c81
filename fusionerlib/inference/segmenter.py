"""Segmentation of images with a trained fusion module: ``set_image`` once, then ``segment`` for any names.

The frozen visual encoder runs once an image; new names cost the text encoder and the fusion module only.
"""

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self, TypeVar, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fusionerlib import checkpoints, hub
from fusionerlib.checkpoints import Checkpoint, Parent
from fusionerlib.config import PairConfig, RunConfig
from fusionerlib.devices import thread_pool
from fusionerlib.encoders.base import VisualEncoder, VisualTokens
from fusionerlib.errors import FusionerError
from fusionerlib.features import names as name_notes
from fusionerlib.features.text import TextEmbeddingCache, name_tokens, text_cache_of, visual_of
from fusionerlib.hub import find_checkpoint
from fusionerlib.images import ImageLike, read_image
from fusionerlib.inference import publish
from fusionerlib.inference.edges import chosen_edges
from fusionerlib.inference.examples import MaskLike, example_regions, example_table
from fusionerlib.inference.inspection import text_attention
from fusionerlib.inference.publish import Card
from fusionerlib.inference.raster import RasterResult, segment_raster
from fusionerlib.inference.requests import THRESHOLD, Threshold, checked_names, checked_threshold
from fusionerlib.inference.segmentation import Segmentation, best_names
from fusionerlib.inference.training_free import training_free_run
from fusionerlib.inference.whole import WholeImage, encode_whole, resized, squeezed
from fusionerlib.inference.windows import EncodedWindows, encode_windows, stride_of, window_logits
from fusionerlib.models import build
from fusionerlib.models.base import SegmentationModel
from fusionerlib.progress import ahead as in_threads

CACHED_NAMES = 10_000
"""Most names whose text tokens are kept in memory."""
NOTED = 100
"""Most lists of names whose notes are kept in memory."""
AT_ONCE = 4
"""Most images that ``Segmenter.predict`` segments at the same time, by threads among which torch's are divided."""
Given = TypeVar("Given", bound=ImageLike)


class Segmenter:
    """A trained fusion module with the frozen encoders it was trained with.

    model: the fusion module; it is put into evaluation mode.
    visual: the visual encoder. text_cache: the text encoder with its cache, so that each name is encoded once.
    size: the image is resized to size x size pixels (the paper's first mode of inference). None keeps the proportions:
        both sides are rounded to what the encoder accepts, the longer one is at most ``whole.LONGEST``.
    stride: sliding windows (the paper's second mode): windows of size x size pixels over the image at its own size,
        every ``stride`` pixels; logits are averaged where windows overlap. None resizes the whole image.
    edges: "guided" moves the edges of the masks to those of the picture (``edges.Guide``), "bilinear" leaves them where
        the model's coarse grid has them. "" takes what suits the model (``edges.chosen_edges``).
    trained_names: the names that the fusion module was trained on, () where that is unknown.
    run, parents: the config of its training, and the checkpoints that it started from; only ``save_pretrained`` and
        ``push_to_hub`` read them.

    Raises FusionerError for a size that the encoder does not accept, for a stride without a size or outside 1 to the
    size, and for other edges.
    """

    def __init__(
        self,
        *,
        model: SegmentationModel,
        visual: VisualEncoder,
        text_cache: TextEmbeddingCache,
        size: int | None = 224,
        stride: int | None = None,
        edges: str = "",
        trained_names: Sequence[str] = (),
        run: RunConfig | None = None,
        parents: Sequence[Parent] = (),
    ) -> None:
        if size is not None and (size <= 0 or size % visual.multiple):
            raise FusionerError(
                f"size {size} does not fit encoder {visual.name!r}: expected a multiple of {visual.multiple}, or None"
            )
        if stride is not None and not 1 <= stride <= (size or 0):
            raise FusionerError(f"stride {stride} with size {size}: windows need a size, and a stride from 1 to it")
        self.model, self.visual, self.text_cache = model.eval(), visual, text_cache
        self.size, self.stride, self.trained_names, self.run = size, stride, tuple(trained_names), run
        self.parents, self.edges = tuple(parents), chosen_edges(edges, model)
        self._image: np.ndarray | None = None
        self._encoded: WholeImage | EncodedWindows | None = None
        self._notes = lru_cache(NOTED)(partial(name_notes.notes, text_cache, trained_names=self.trained_names))

    @classmethod
    def load(
        cls, checkpoint: str | os.PathLike[str], *, sliding: bool = False, edges: str = "", device: str = "cpu"
    ) -> Self:
        """Load a checkpoint with its encoders.

        checkpoint: the folder of a checkpoint or of a run; or the name N of a run, for ``outputs/N/checkpoint`` in the
            current folder; or "packaged", the checkpoint that is installed with the library (photographs, no class
            held out); or "hf://USER/NAME" or "hf://USER/NAME@REVISION", one on the Hugging Face hub. Its two files are
            downloaded where they are missing, and their digests are checked; without a revision the first load decides
            which commit later ones take (``hub.checkpoint_of``).
        sliding: sliding windows at the paper's stride instead of the whole image resized. edges: see the class.
        device: such as "cuda".
        Raises FusionerError with the folders searched where none holds ``config.json`` and ``model.safetensors``.
        """
        trained = checkpoints.load(find_checkpoint(checkpoint))
        return cls._of(trained.run, trained, sliding=sliding, edges=edges, device=device)

    @classmethod
    def training_free(
        cls,
        visual: str = "clip-vit-b16",
        *,
        affinity: str = "",
        text: str = "",
        tokens: str = "",
        templates: str = "",
        size: int = 0,
        offset: float | None = None,
        visual_weights: str = "",
        text_weights: str = "",
        affinity_weights: str = "",
        sliding: bool = False,
        edges: str = "",
        device: str = "cpu",
    ) -> Self:
        """A segmenter without training: the cosine of patches and names that two encoders have in one space.

        A pixel is background where no name's cosine exceeds ``offset`` (at threshold 0.5); logits are (cosine -
        offset) / 0.07. ``save_pretrained`` makes a checkpoint of it, for `fusioner segment --checkpoint`.
        visual, text: both halves of one CLIP, SigLIP or EVA-CLIP (text "" is visual's own), or "packaged". affinity: a
            second visual encoder, such as "dino-vitb8", that decides which patches are averaged (ProxyCLIP, Lan et al.,
            ECCV 2024; ``encoders.affinity``); the grid is then its own. "" for none.
        tokens: the kind of patch token; "" is ``clear`` (ClearCLIP) for CLIP's ViTs without affinity, elsewhere the one
            in the space of the text. templates: "" is CLIP's 80 ("openai"), for the packaged pair none.
        size: side of the input in pixels, 0 for the least multiple of both encoders' patches and 32 from 320 on.
        offset: the cosine that gets the logit 0, None for the config's (0.2).
        visual_weights, text_weights, affinity_weights: files in the published format; "" looks where `fusioner fetch`
            puts them. sliding, edges, device: see ``load``.
        Raises FusionerError for a pair in two spaces, and where weights are not on this machine.
        """
        pair = PairConfig(
            visual=visual,
            text=text,
            affinity=affinity,
            visual_tokens=tokens,
            templates=templates,
            visual_weights=visual_weights,
            text_weights=text_weights,
            affinity_weights=affinity_weights,
        )
        run = training_free_run(pair, size=size, offset=offset)
        return cls._of(run, None, sliding=sliding, edges=edges, device=device)

    @classmethod
    def _of(cls, run: RunConfig, trained: Checkpoint | None, *, sliding: bool, edges: str, device: str) -> Self:
        """The segmenter of ``run`` with the model of ``trained``; None is for a model without a weight."""
        visual = visual_of(run.pair, device=device)
        text_cache = text_cache_of(run.pair, names=run.data.names, limit=CACHED_NAMES, device=device)
        if trained is None:
            model = build(run.fusion, visual_width=visual.width, text_width=text_cache.encoder.width)
            trained = Checkpoint(model=model, run=run, trained_names=())
        return cls(
            model=trained.model.to(device),
            visual=visual,
            text_cache=text_cache,
            size=run.data.size,
            stride=stride_of(run.data.size) if sliding else None,
            edges=edges,
            trained_names=trained.trained_names,
            run=run,
            parents=trained.parents,
        )

    def save_pretrained(self, folder: str | os.PathLike[str], **card: Unpack[Card]) -> Path:
        """Write weights, config and a model card into ``folder``, for other machines to load; returns the folder.

        No path of this machine is written (``publish.plain_run``), and ``config.json`` holds the weights' sha256. The
        frozen encoders are named, not copied. title, data, licence, figures: see ``publish.Card``.
        Raises FusionerError for a segmenter without ``run``, and where its text side needs a file of this machine.
        """
        if self.run is None:
            raise FusionerError("this segmenter has no run: load it by Segmenter.load, or pass run=... when making it")
        folder, names, parents = Path(folder), self.trained_names, self.parents
        publish.write(folder, Checkpoint(model=self.model, run=self.run, trained_names=names, parents=parents), **card)
        return folder

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        token: str | None = None,
        message: str = "Upload a checkpoint",
        **card: Unpack[Card],
    ) -> str:
        """Publish this checkpoint as ``repo`` (USER/NAME) on the Hugging Face hub; returns "hf://USER/NAME@COMMIT".

        The repository is made if it is missing. token: "" or None takes that of `hf auth login`. data, licence,
        figures: see ``publish.Card``. Raises FusionerError as ``save_pretrained`` does, and where the hub refuses.
        """
        card["title"] = repo
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, **card)
            return hub.upload(Path(folder), repo, private=private, token=token or None, message=message)

    def set_image(self, image: ImageLike, *, answer_size: tuple[int, int] | None = None) -> Self:
        """Encode ``image``: a Pillow image, a path, or a uint8 array (H, W), (H, W, 3) or (H, W, 4). Returns self.

        EXIF orientation is applied and transparent images are put on white.
        answer_size: height and width of the masks of ``segment`` and of the image in its result; None for the image's.
        Raises FusionerError with the file or array where it can't be read; then no image is set.
        """
        self._image = self._encoded = None
        pixels = read_image(image)
        answered = pixels if answer_size is None else resized(pixels, answer_size)
        if self.size is not None and self.stride is not None:
            photo = torch.from_numpy(pixels).to(self._device)
            self._encoded = encode_windows(self.visual, photo, window=self.size, stride=self.stride)
        else:
            self._encoded = encode_whole(self.visual, pixels, size=self.size, device=self._device)
        self._image = answered
        return self

    @property
    def tokens(self) -> VisualTokens:
        """The visual tokens of the current image, as a batch of one.

        Raises FusionerError where no image is set, and with sliding windows, where every window has its own tokens.
        """
        return self._whole().tokens

    def _whole(self) -> WholeImage:
        if isinstance(self._encoded, EncodedWindows):
            raise FusionerError("the image was cut into windows, each with tokens of its own: load with stride=None")
        if self._encoded is None:
            raise FusionerError("no image is set: call set_image(photo) before asking for names")
        return self._encoded

    @torch.no_grad()
    def segment(
        self, names: Iterable[str], *, threshold: Threshold = THRESHOLD, background: bool = True
    ) -> Segmentation:
        """Segment the current image into ``names`` and background.

        threshold: 0-1; or by name, such as ``{"cat": 0.3}``, and 0.5 for the others. A pixel goes to the name with the
            largest probability among those that exceed their own threshold, or to the background.
        background: False gives every pixel to the name with the largest probability; threshold then has no effect.

        Raises FusionerError where no image is set, for a threshold outside 0-1 or of a name that is not in ``names``,
        and for names that are empty, blank, repeated, no strings, or longer than 200 characters. Names that the text
        encoder can't tell apart, such as "cat" and "a Cat", count as repeated.
        """
        names = self._checked(names)
        threshold, text_tokens = checked_threshold(threshold, names), self.text_tokens(names)
        if isinstance(self._encoded, EncodedWindows):
            # Windows are guided each on its own, before they are merged.
            coarse, guide = window_logits(self.model, self._encoded, text_tokens, edges=self.edges), None
        else:
            whole = self._whole()
            coarse = whole.logits(self.model, text_tokens)
            guide = whole.guide(self.model) if self.edges == "guided" else None
        assert self._image is not None
        best, winner = best_names(coarse, self._image.shape[:2], guide=guide)
        return Segmentation(
            names=names,
            image=self._image,
            coarse=coarse,
            best=best,
            winner=winner,
            threshold=threshold,
            background=background,
            notes=self.image_notes(self._image.shape[:2]) + self.notes(names),
            guide=guide,
        )

    def image_notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """What is to be said of an image of ``size`` (height, width): that it is squeezed; () for nothing."""
        return () if self.size is None or self.stride is not None else squeezed(*size)

    def notes(self, names: Iterable[str]) -> tuple[str, ...]:
        """What is to be said of ``names``, in sentences, whatever the image shows; () for nothing.

        Such as: a name may be misspelt, is in another language, is asked as another one, is a part of a thing, or means
        nothing to this model. Nothing is said of a name that ``learn`` has taught.
        Raises FusionerError for names that ``segment`` refuses.
        """
        taught = set(self.example_names) - set(self.trained_names)
        return self._notes(tuple(name for name in self._checked(names) if self.text_cache.form(name) not in taught))

    def predict(
        self,
        images: Iterable[Given],
        names: Iterable[str],
        *,
        threshold: Threshold = THRESHOLD,
        background: bool = True,
        ahead: int = 4,
    ) -> Iterator[tuple[Given, Segmentation | FusionerError]]:
        """Segment many images: (image as given, its result), in their order; the image of ``set_image`` stays.

        An image that can't be read gives a FusionerError in the place of its result, and the others go on.
        images: any number, read as they are needed: at most ``ahead`` of them are in work or wait to be asked for, so
        memory does not grow with their number. names, threshold, background: see ``segment``.
        Raises FusionerError for names and thresholds at once, before the first image.
        """
        names = self._checked(names)
        threshold = checked_threshold(threshold, names)

        def answer(image: Given) -> tuple[Given, Segmentation | FusionerError]:
            own = copy.copy(self)  # each with an image of its own
            try:
                result = own.set_image(image).segment(names, threshold=threshold, background=background)
            except FusionerError as error:
                return image, error
            _ = result.labels  # computed here, beside other images
            return image, result

        def answers() -> Iterator[tuple[Given, Segmentation | FusionerError]]:
            self.text_tokens(names)  # encoded once, before the threads ask for them
            with thread_pool(AT_ONCE) as pool:
                yield from in_threads(answer, images, pool=pool, most=max(1, ahead))

        return answers()

    def segment_raster(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        names: Iterable[str],
        *,
        threshold: Threshold = THRESHOLD,
        background: bool = True,
        quiet: bool = False,
    ) -> RasterResult:
        """Segment a TIFF of any size by sliding windows into the index mask ``target``, a tiled TIFF (0 is background,
        k the k-th name); the image of ``set_image`` stays. Returns what ``table`` says of the whole raster.

        Neither the image nor a map of a name is in memory as a whole. The labels are those that ``set_image`` and
        ``segment`` give with sliding windows. Without ``stride`` it is the paper's, two thirds of a window. The mask
        keeps the georeference. threshold, background: see ``segment``. quiet: no progress on stderr.
        Raises FusionerError for a segmenter without ``size``, without tifffile, for more than 254 names, for a TIFF
        that ``Raster`` can't read, and as ``segment`` does.
        """
        if self.size is None:
            raise FusionerError("this segmenter has size=None: windows need a size, such as 320")
        names = checked_names(names)
        return segment_raster(
            Path(source),
            Path(target),
            model=self.model,
            visual=self.visual,
            text_tokens=self.text_tokens(names),
            names=names,
            threshold=checked_threshold(threshold, names),
            background=background,
            window=self.size,
            stride=self.stride or stride_of(self.size),
            edges=self.edges,
            quiet=quiet,
        )

    @torch.no_grad()
    def learn(self, name: str, examples: Iterable[tuple[ImageLike, MaskLike]]) -> Self:
        """Teach ``name`` by examples, in closed form and without training; returns self, which has changed.

        examples: (image, mask) pairs, an image as in ``set_image``, a mask a boolean array (H, W) of the image's size
            or a PNG file, True or non-zero where the image shows ``name``. Several calls add up.
        Mean and covariance of the checkpoint stay as they are, so no other name's logits change.
        Raises FusionerError for a model without examples (``FusionConfig.examples``), for a name that ``segment``
        refuses, for no example, and for a mask of another size or without a pixel; nothing is learnt then.
        """
        (name,), table = self._checked([name]), example_table(self.model)
        seen = self._encoded if isinstance(self._encoded, WholeImage) else None
        regions = example_regions(examples, visual=self.visual, size=self.size, width=table.width, seen=seen)
        table.add(self.text_cache.example_name(name, table.names), regions.sum(0), len(regions))
        return self

    def forget(self, name: str) -> Self:
        """Delete all examples of ``name``, also those of training: its text alone counts again. Returns self.

        Raises FusionerError where it has none.
        """
        table = example_table(self.model)
        table.remove(self.text_cache.example_name(name, table.names))
        return self

    @property
    def example_names(self) -> tuple[str, ...]:
        """The names that are known by examples, from training or by ``learn``."""
        return self.model.example_names

    def attention(self, names: Iterable[str]) -> Float[Tensor, "layers names rows columns"]:
        """Attention of each name to each patch, by layer: mean over heads, 0-1.

        Raises FusionerError for a model without such attention, and as ``segment`` does.
        """
        return text_attention(self.model, self.tokens, self.text_tokens(names)).float().cpu()

    @torch.no_grad()
    def text_tokens(self, names: Iterable[str]) -> Float[Tensor, "names dim"]:
        """The text tokens of ``names``, float32, with what the model knows of them by examples.

        Raises FusionerError for names that ``segment`` refuses.
        """
        return name_tokens(self.model, self.text_cache, self._checked(names)).to(self._device)

    def _checked(self, names: Iterable[str]) -> tuple[str, ...]:
        return checked_names(names, forms=self.text_cache.form)

    @property
    def _device(self) -> torch.device:
        return next((weight.device for weight in self.model.parameters()), torch.device("cpu"))
