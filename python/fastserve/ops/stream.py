"""The stream that a kernel is queued on."""

import numpy as np
import torch


def stream_of(tensor: torch.Tensor | np.ndarray) -> int:
    """Return torch's current CUDA stream on the device of `tensor` as an integer; 0 on the CPU, where there is none."""
    if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
        return torch.cuda.current_stream(tensor.device).cuda_stream
    return 0
