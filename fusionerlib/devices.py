"""Choosing a torch device by its name."""

import torch

from fusionerlib.errors import FusionerError


def chosen_device(name: str) -> torch.device:
    """The device ``name`` (cpu, cuda, cuda:1, mps); "" means a CUDA GPU if there is one, else the CPU.

    Raises FusionerError for a name that torch does not know and for a device that this machine does not have.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # A build of torch without CUDA raises an AssertionError.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise FusionerError(
            f"device {name!r} can't be used here ({reason}): give cpu, or cuda where torch sees such a GPU"
        ) from error
    return device
