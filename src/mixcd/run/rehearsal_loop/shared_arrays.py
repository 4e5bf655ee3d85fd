"""`broadcast_arrays`: all processes hold the first one's arrays, to the bit."""

from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from numpy.typing import NDArray


def broadcast_arrays(accelerator: Any, arrays: tuple[NDArray[np.float64], ...]) -> tuple[NDArray[np.float64], ...]:
    """Return the first process's arrays.

    Args:
        accelerator: An `accelerate.Accelerator`; None for a single process.
        arrays: This process's, of the same shapes as the others'.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return arrays
    tensors = [torch.from_numpy(array).to(accelerator.device) for array in arrays]
    return tuple(tensor.cpu().numpy() for tensor in broadcast(tensors, from_process=0))
