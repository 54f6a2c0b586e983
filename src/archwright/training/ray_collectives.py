"""A crew over a torch process group, as Ray Train sets one up: the workers' tensors meet in one flat float32 buffer.

Each worker multiplies by its weight, the sum over all workers is taken once, and every worker divides by the summed
weight: all of them end with the same bytes, and the same bytes every time, since the order of the additions depends
on the number of workers and the size of the buffer alone. Against one worker the sum runs in another order, so that
equality holds to rounding only.
"""

from __future__ import annotations

import secrets
from typing import Any

from archwright.errors import TrainError, require_extra
from archwright.home import Home, write_atomic

PEER_LOST = "AW-TRN-60"
# A death is noticed at the next health check, so these come every half second.
CLUSTER_VARIABLES = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Nobody takes this machine away with notice, so nothing has to watch for that.
LOCAL_VARIABLES = {**CLUSTER_VARIABLES, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def ray_environment(home: Home, address: str) -> dict[str, str]:
    """What the driving process must find in its environment before it loads Ray. A Ray of our own lets in who knows
    a secret of the home's; a cluster has its rules, which the user's environment says."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address:
        return quiet
    token = home.ray_token
    if not token.exists():
        write_atomic(token, secrets.token_hex(32).encode())
    return {**quiet, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


class RayWorkerGroup:
    """The process group must stand already."""

    def __init__(self) -> None:
        with require_extra("ray", "training with several workers"):
            from torch import distributed  # noqa: PLC0415
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
            self._all_reduce(flat)
            if flat[-1] > 0:  # else no worker had a row that counts, and there is nothing but zeros
                flat /= flat[-1].clone()
            at = 0
            for tensor in tensors:
                tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
                at += tensor.numel()

    def broadcast(self, value: float) -> float:
        """What the first worker gives, known to all: they decide alike even where they see different things."""
        import torch  # noqa: PLC0415

        told = torch.tensor([value], dtype=torch.float32)
        self.mean([told], 1.0 if self.rank == 0 else 0.0)
        return float(told)

    def _all_reduce(self, flat: Any) -> None:
        try:
            self._group.all_reduce(flat)
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise TrainError(PEER_LOST, f"another worker of the crew is gone: {said}") from error
