"""What is known of an encoder before it is loaded: a row of data."""

from typing import Any, Literal

from pydantic import Field

from fusionerlib.config import Frozen
from fusionerlib.errors import FusionerError

Role = Literal["visual", "text"]
Precision = Literal["float32", "bfloat16", "float16"]


class WeightFile(Frozen):
    """One published file: on the hub (``repo``, ``revision``) or at ``url``.

    bytes: size of the download as it is shown, 0 where it was not looked up. sha256: checked after a download, as far
    as it is known: all of it, or its first digits. optional: whether the encoder loads without it, as a repository may
    be published without it.
    """

    file: str
    repo: str = ""
    revision: str = "main"
    url: str = ""
    sha256: str = ""
    bytes: int = 0
    optional: bool = False


class EncoderRow(Frozen):
    """What is known of an encoder before it is loaded.

    loader: ``module:function``, called with the row and a ``Loading``; imported only when the encoder is asked for.
    width: channels of a token; 0 where only the weights tell. space: words and patches may be compared only where it
    is equal. tokens: the ways to take tokens from it, the default first. files: what must be on this machine; none
    for weights that come with the installation. stride, multiple, size: pixels a token, what an input's sides must be
    multiples of, and the side it was trained at (0 for text). options: what its loader needs to know beyond this.
    """

    name: str
    role: Role
    family: str
    space: str
    width: int = Field(ge=0)
    parameters: int = Field(ge=0)
    loader: str
    pretraining: str
    licence: str
    tokens: tuple[str, ...]
    files: tuple[WeightFile, ...] = ()
    stride: int = 0
    multiple: int = 0
    size: int = 0
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def download(self) -> int:
        """Bytes of all files; 0 where nothing is to be downloaded, or the sizes are not known."""
        return sum(file.bytes for file in self.files)

    def way(self, tokens: str) -> str:
        """``tokens`` where this encoder has that way of taking them, its default for "". FusionerError otherwise."""
        if tokens and tokens not in self.tokens:
            raise FusionerError(
                f"{self.role} encoder {self.name!r} has no tokens {tokens!r}: expected one of {', '.join(self.tokens)}"
            )
        return tokens or self.tokens[0]


class Loading(Frozen):
    """How an encoder is wanted. weights: a file or folder, "" for where `fusioner fetch` puts them."""

    device: str = "cpu"
    weights: str = ""
    tokens: str
    precision: Precision = "float32"
    compiled: bool = False
