"""What the processes of a run share: the first one's arrays, to the bit, and the work of a prior pass."""

from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from numpy.typing import NDArray

from mixcd.matter.base_model.inference import ONE_PROCESS, Processes


def processes_of(accelerator: Any) -> Processes:
    """Return the processes that share a prior pass.

    Args:
        accelerator: An `accelerate.Accelerator`; None for a single process.
    """
    if accelerator is None:
        return ONE_PROCESS
    return Processes(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)


def broadcast_arrays(accelerator: Any, arrays: tuple[NDArray[np.float64], ...]) -> tuple[NDArray[np.float64], ...]:
    """Return the first process's arrays.

    Args:
        arrays: This process's, of the same shapes as the others'.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return arrays
    tensors = [torch.from_numpy(array).to(accelerator.device) for array in arrays]
    return tuple(tensor.cpu().numpy() for tensor in broadcast(tensors, from_process=0))
