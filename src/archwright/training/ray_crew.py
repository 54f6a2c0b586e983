"""A crew over a torch process group, as Ray Train sets one up: the workers' tensors meet in one flat float32 buffer.

Each worker multiplies by its weight, the sum over all workers is taken once, and every worker divides by the summed
weight: all of them end with the same bytes, and the same bytes every time, since the order of the additions depends
on the number of workers and the size of the buffer alone. Against one worker the sum runs in another order, so that
equality holds to rounding only.
"""

from __future__ import annotations

from typing import Any

from archwright.errors import TrainError, missing_extra

PEER_LOST = "AW-TRN-60"


class RayCrew:
    """The process group must stand already."""

    def __init__(self) -> None:
        try:
            from torch import distributed  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise missing_extra("ray", "torch", "training with several workers") from error
        self._group = distributed
        self.rank: int = distributed.get_rank()
        self.size: int = distributed.get_world_size()

    def mean(self, tensors: list[Any], weight: float) -> None:
        """Raises TrainError AW-TRN-60 when another worker is gone: what to do about it is the launcher's affair."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            parts = [tensor.detach().reshape(-1).to(torch.float32) for tensor in tensors]
            # A worker without rows takes part with zeros, not with 0 times whatever its tensors hold.
            parts = [part * weight if weight else torch.zeros_like(part) for part in parts]
            flat = torch.cat([*parts, parts[0].new_tensor([weight])])
            self._sum(flat)
            flat /= flat[-1].clone()
            at = 0
            for tensor in tensors:
                tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
                at += tensor.numel()

    def _sum(self, flat: Any) -> None:
        try:
            self._group.all_reduce(flat)
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise TrainError(PEER_LOST, f"another worker of the crew is gone: {said}") from error
