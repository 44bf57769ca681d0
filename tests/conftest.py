"""What every test starts from."""

import torch

# As in the worker: what torch computes in tests is small, and its threads would spin against those of our kernels.
torch.set_num_threads(1)
