"""Random weights of a model's shape, for tests of everything but the text."""

import math
import zlib

import torch

MAX_SEED = 2**63 - 1
# A prime, so that no two rows of a matrix begin at the same value of the pool unless it has more than 4 million rows.
POOL_SIZE = 2**22 - 3
MAX_BIAS = 0.02


class DummyWeights:
    """A `WeightSource` that generates every tensor: the same values for a seed and a name, in any order.

    Matrices are uniform with variance 1 / columns, so that activations and logits stay near unit size; vectors are
    1 for the weight of a norm, small for a bias. The values come from one pool of random numbers, read round and
    round from a place that the name decides: copying is ten times faster than drawing.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed & MAX_SEED)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._pool = torch.empty(POOL_SIZE).uniform_(-1.0, 1.0, generator=generator)

    def has(self, name: str) -> bool:
        """False: there is no checkpoint. A tensor is generated when it is read."""
        return False

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Agree: any tensor can be generated. A slice is one of the shape named last."""
        self._shapes[name] = shape

    def read_into(
        self, name: str, out: torch.Tensor, *, rows: range | None = None, columns: range | None = None
    ) -> None:
        """Fill `out` with values that depend on the seed and the name, the same in a slice as in the whole."""
        if out.dim() < 2 and not name.endswith(".bias"):
            out.fill_(1.0)
            return
        shape = tuple(out.shape) if rows is None and columns is None else self._shapes[name]
        row_size = math.prod(shape[1:])
        bound = math.sqrt(3.0 / shape[-1]) if out.dim() >= 2 else MAX_BIAS
        position = zlib.crc32(name.encode()) + (rows.start if rows is not None else 0) * row_size
        if columns is None:
            self._fill(position, out.view(-1), bound)
            return
        for i, row in enumerate(out):
            self._fill(position + i * row_size + columns.start, row, bound)

    def leave(self, name: str) -> None:
        """Do nothing: no tensor is ever left over."""

    def _fill(self, position: int, out: torch.Tensor, bound: float) -> None:
        self._pool = self._pool.to(out.device)
        position, begin = position % POOL_SIZE, 0
        while begin < out.numel():
            piece = self._pool[position : position + out.numel() - begin]
            torch.mul(piece, bound, out=out[begin : begin + piece.numel()])
            position, begin = 0, begin + piece.numel()
