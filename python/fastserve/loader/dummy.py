"""Random weights of a model's shape, for tests of everything but the text."""

import math
import zlib

import torch

MAX_SEED = 2**63 - 1


class DummyWeights:
    """A `WeightSource` that makes every tensor up: the same values for a seed and a name, whatever the order.

    Matrices are uniform with variance 1 / columns, so that activations and logits stay near unit size; vectors are
    1 for the weight of a norm, small for a bias.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def has(self, name: str) -> bool:
        """True: any tensor can be made up."""
        return True

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Fill `out` with values that depend on the seed, the name and the shape."""
        generator = torch.Generator(out.device)
        generator.manual_seed((self._seed ^ zlib.crc32(name.encode()) << 31) & MAX_SEED)
        if out.dim() >= 2:
            bound = math.sqrt(3.0 / out.shape[-1])
            out.uniform_(-bound, bound, generator=generator)
        elif name.endswith(".bias"):
            out.uniform_(-0.02, 0.02, generator=generator)
        else:
            out.fill_(1.0)
