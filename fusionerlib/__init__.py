"""Open-vocabulary semantic segmentation with frozen vision and language models (Fusioner, BMVC 2022)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusionerlib.inference.segmenter import Segmenter

__version__ = "0.2.0"
__all__ = ["Segmenter"]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds: only for those who ask for what needs it.
    if name == "Segmenter":
        from fusionerlib.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
