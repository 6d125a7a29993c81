"""A training step of the library and of the plain reference implementation, and a check that both agree."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from reference import Reference, Towers, image_loss
from torch import Tensor

from fusionerlib.config import RunConfig
from fusionerlib.datasets.sampling import NameSampler, SampleOrder
from fusionerlib.datasets.scene import Scene
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import text_cache_of, visual_of
from fusionerlib.models import build
from fusionerlib.training.batch_sources import Batch, StoredBatchSource
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.steps import Stepper

NAMES = ["cat", "dog", "horse", "sheep", "cow", "bird", "boat", "bottle", "bus", "car", "chair", "person"]
NAMES += ["sofa", "train", "table", "plant", "bicycle", "kite", "cup", "clock"]
SIZE = 224
AGREE = {"online": 1e-3, "stored": 3e-2}
"""Largest relative distance of the gradient vector from the reference's; stored features are rounded to float16."""
LOOSE = 0.3
"""The same if the encoders run in half precision."""


class RandomScenes:
    """Images of noise at several scales, each with one labelled rectangle."""

    def __init__(self, count: int) -> None:
        self.count, self.fingerprint = count, f"noise-{count}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        rng = np.random.default_rng(index)
        image = np.kron(rng.integers(0, 200, (8, 8, 3)), np.ones((28, 28, 1), dtype=int)) + rng.integers(
            0, 56, (SIZE, SIZE, 3)
        )
        labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
        labels[40 : 120 + 8 * (index % 8), 60:180], labels[:4] = 1, 255
        return Scene(image=image.astype(np.uint8), labels=labels, names=self.names(index), key=str(index))

    def names(self, index: int) -> tuple[str, ...]:
        """One name an image: a sample of the paper is one (image, name) pair."""
        return (NAMES[index % len(NAMES)],)


class Ours:
    """The library's training step of ``run``; a batch is all of the scenes."""

    def __init__(self, run: RunConfig, folder: Path, device: str) -> None:
        torch.manual_seed(0)
        config, count = run.training, run.training.batch
        self.run, self.scenes = run, RandomScenes(count)
        self.visual, self.text_cache = visual_of(run.pair, device=device), text_cache_of(run.pair, device=device)
        self.source = StoredBatchSource(
            FeatureStore(folder / run.pair.visual, encoder=self.visual).add(self.scenes, quiet=True)
        )
        self.text_cache.add(NAMES)
        self.model = build(run.fusion, visual_width=self.visual.width, text_width=self.text_cache.encoder.width).to(
            device
        )
        self.model.train()
        self.step = self.stepper(run)
        sampler = NameSampler(NAMES, positives=config.positives, negatives=config.negatives, hard=0.0)
        names = [self.scenes.names(index) for index in range(count)]
        self.order = SampleOrder(self.source.pairs(), names, sampler=sampler, batch=count, seed=0)

    def stepper(self, run: RunConfig) -> Stepper:
        """The training step of the model as ``run`` configures it."""
        distributed = Distributed(0, 1, self.model.device)
        return Stepper(self.model, run=run, text_cache=self.text_cache, distributed=distributed)

    def train(self, batch: Batch, stepper: Stepper | None = None) -> float:
        """Do one step; returns its loss."""
        return (stepper or self.step)(batch, self.run.training.warmup, whole=batch.samples)[0]

    def stored(self) -> Batch:
        """The batch of stored features."""
        return next(self.source.batches(self.order, range(1)))

    @torch.no_grad()
    def online(self) -> Batch:
        """The same batch, encoded now."""
        samples = self.order.samples(0)
        scenes = [self.scenes[sample.scene] for sample in samples]
        images = torch.stack([rearrange(torch.from_numpy(scene.image), "h w c -> c h w") for scene in scenes])
        main = self.visual(images).main
        tokens = rearrange(main.tokens, "b (h w) d -> b h w d", h=main.grid[0])
        labels = torch.stack([torch.from_numpy(scene.labels) for scene in scenes])
        return Batch(tokens, labels, [scene.names for scene in scenes], samples)


class Plain:
    """The reference's training step on the same scenes. cached: text tokens of names that were encoded before."""

    def __init__(self, towers: Towers, ours: Ours, device: str) -> None:
        self.towers, self.scenes = towers, ours.scenes
        self.model = Reference(ours.visual.width).to(device)
        self.model.load_state_dict(ours.model.state_dict())
        self.optimisers = self.model.optimisers(1e-3)
        self.cached: dict[str, Tensor] = {}

    def loss(self, *, cached: bool = False) -> Tensor:
        """The loss after a forward and backward pass of one image after the other. cached: use ``cached`` tokens."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for index in range(len(self.scenes)):
            scene = self.scenes[index]
            (name,) = scene.names
            word = self.cached[name] if cached else self.towers.word(name)
            patches = self.towers.image(rearrange(torch.from_numpy(scene.image), "h w c -> c h w"))
            labels = torch.from_numpy(scene.labels).to(patches.device)
            logits = self.model(patches, word[None], (SIZE, SIZE))
            loss = image_loss(logits, labels == 1, labels != 255) / len(self.scenes)
            loss.backward()
            total += loss.detach().cpu()
        return total

    def update(self) -> None:
        """The optimisers' step."""
        for optimiser in self.optimisers:
            optimiser.step()


def gradients(model: torch.nn.Module) -> Tensor:
    """All gradients as one vector, in the order of the parameters' names."""
    rows = sorted((name, weight.grad) for name, weight in model.named_parameters() if weight.grad is not None)
    return torch.cat([row.flatten() for _, row in rows])


def check(plain: Plain, ours: Ours) -> dict[str, dict[str, float]]:
    """Relative distances of loss and gradients from the reference's, with the fusion in float32 on both sides.

    Raises RuntimeError if they are too large.
    """
    exact = ours.run.changed(mixed_precision="no")
    start = {name: value.clone() for name, value in ours.model.state_dict().items()}
    expected = float(plain.loss())
    right, found = gradients(plain.model), {}
    for side, most in AGREE.items():
        loss = ours.train(getattr(ours, side)(), ours.stepper(exact))
        away = float((gradients(ours.model) - right).norm() / right.norm())
        ours.model.load_state_dict(start)
        found[side] = {"loss": abs(loss - expected) / expected, "gradient": away}
        most = most if ours.run.pair.precision == "float32" else LOOSE
        if not max(found[side].values()) <= most:
            raise RuntimeError(f"{side} and reference do not compute the same: {found[side]}, at most {most}")
    return found
