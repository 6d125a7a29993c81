"""Where torch works, by the name that a person gives."""

import torch

from fusionerlib.errors import FusionerError


def chosen_device(name: str) -> torch.device:
    """The device ``name``, such as cpu, cuda, cuda:1 or mps; "" is a CUDA GPU where there is one, else the CPU.

    Raises FusionerError where torch knows no such device, or this machine has none.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # A build of torch without CUDA answers with an AssertionError.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise FusionerError(
            f"device {name!r} can't be used here ({reason}): give cpu, or cuda where torch sees such a GPU"
        ) from error
    return device
