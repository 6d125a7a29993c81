"""Open-vocabulary semantic segmentation with frozen vision and language models (Fusioner, BMVC 2022).

The names below are the public API. Each is imported when it is first used, so that ``import fusionerlib`` is quick and
imports no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusionerlib.config import RunConfig as RunConfig
    from fusionerlib.datasets.folder import read_folder as read_folder
    from fusionerlib.encoders.registry import add_encoder as add_encoder
    from fusionerlib.encoders.registry import list_encoders as list_encoders
    from fusionerlib.encoders.registry import load_text as load_text
    from fusionerlib.encoders.registry import load_visual as load_visual
    from fusionerlib.errors import FusionerError as FusionerError
    from fusionerlib.errors import FusionerWarning as FusionerWarning
    from fusionerlib.evaluation import metrics as metrics
    from fusionerlib.evaluation.scores import evaluate as evaluate
    from fusionerlib.inference.segmenter import Segmenter as Segmenter
    from fusionerlib.models import build as build_model

__version__ = "0.2.0"

# Threads of torch that share an operation wait for each other by spinning, by default for milliseconds: where another
# program is busy they hold the cores that the work needs, and a training step takes five times as long and more
# (benchmarks/busy_cores.py). A shorter wait costs nothing on a quiet machine. libgomp reads it when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")

__all__ = [
    "FusionerError",
    "FusionerWarning",
    "RunConfig",
    "Segmenter",
    "add_encoder",
    "build_model",
    "evaluate",
    "list_encoders",
    "load_text",
    "load_visual",
    "metrics",
    "read_folder",
]

_HOMES = {
    "FusionerError": "fusionerlib.errors:FusionerError",
    "FusionerWarning": "fusionerlib.errors:FusionerWarning",
    "RunConfig": "fusionerlib.config:RunConfig",
    "Segmenter": "fusionerlib.inference.segmenter:Segmenter",
    "add_encoder": "fusionerlib.encoders.registry:add_encoder",
    "build_model": "fusionerlib.models:build",
    "evaluate": "fusionerlib.evaluation.scores:evaluate",
    "list_encoders": "fusionerlib.encoders.registry:list_encoders",
    "load_text": "fusionerlib.encoders.registry:load_text",
    "load_visual": "fusionerlib.encoders.registry:load_visual",
    "metrics": "fusionerlib.evaluation.metrics",
    "read_folder": "fusionerlib.datasets.folder:read_folder",
}
"""``module:attribute`` of each public name; a module by its own name."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = import_module(module)
    return getattr(value, attribute) if attribute else value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
