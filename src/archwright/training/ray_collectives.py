"""Worker group over Ray Train's torch process group: weighted means in one flat float32 buffer.

Each worker multiplies by its weight, one all-reduce sums, and every worker divides by the summed weight. All workers
get the same bytes in every run, since the order of additions depends only on the number of workers and the buffer's
size. Compared with one worker the results are equal up to rounding.
"""

import secrets
from typing import Any

from archwright.errors import TrainError, require_extra
from archwright.home import Home, write_atomic
from archwright.lake.lazy_modules import torch

PEER_LOST = "AW-TRN-60"
# A dead worker is detected by the next health check, so checks run every half second.
CLUSTER_VARIABLES = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# A local machine is never preempted with notice.
LOCAL_VARIABLES = {**CLUSTER_VARIABLES, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def ray_environment(home: Home, address: str) -> dict[str, str]:
    """Environment of the driving process before it loads Ray.

    A local Ray requires the home's token; for a cluster the user's environment holds the credentials.
    """
    quiet = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address:
        return quiet
    token = home.ray_token
    if not token.exists():
        write_atomic(token, secrets.token_hex(32).encode())
    return {**quiet, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


class RayWorkerGroup:
    """The workers of torch's process group, which must exist."""

    def __init__(self) -> None:
        with require_extra("ray", "training with several workers"):
            from torch import distributed  # noqa: PLC0415
        self._group = distributed
        self.rank: int = distributed.get_rank()
        self.size: int = distributed.get_world_size()

    def mean(self, tensors: list[Any], weight: float) -> None:
        """Raises TrainError AW-TRN-60 if another worker died."""
        with torch.no_grad():
            parts = [tensor.detach().reshape(-1).to(torch.float32) for tensor in tensors]
            # A worker without rows contributes zeros: 0 * NaN would be NaN.
            parts = [part * weight if weight else torch.zeros_like(part) for part in parts]
            flat = torch.cat([*parts, parts[0].new_tensor([weight])])
            try:
                self._group.all_reduce(flat)
            except RuntimeError as error:
                message = f"another worker died: {str(error).splitlines()[0]}"
                raise TrainError(PEER_LOST, message, hint="read the log of the run") from error
            if flat[-1] > 0:  # else all weights and values are 0
                flat /= flat[-1].clone()
            at = 0
            for tensor in tensors:
                tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
                at += tensor.numel()

    def broadcast(self, value: float) -> float:
        """The value of the first worker."""
        shared = torch.tensor([value], dtype=torch.float32)
        self.mean([shared], 1.0 if self.rank == 0 else 0.0)
        return float(shared)
