"""What the kernel tests compare with: rounding of the model dtypes, and buffers that betray a stray access."""

from dataclasses import dataclass

import torch

# Relative error of rounding a value once to the dtype: 2^-p for p bits of significand.
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# The same for subnormal values, absolute.
SMALLEST = {torch.float32: 0.0, torch.bfloat16: 0.0, torch.float16: 2.0**-25}


def assert_rounded(result: torch.Tensor, expected: torch.Tensor, *, error: float | torch.Tensor) -> None:
    """Check a result in a model dtype against the float64 truth.

    Args:
        result: what the kernel computed in fp32 and rounded once.
        expected: the truth, float64, of the same shape.
        error: bound of the absolute error of the fp32 arithmetic, before the rounding.
    """
    assert result.shape == expected.shape
    bound = error + (expected.abs() + error) * ROUNDING[result.dtype] + SMALLEST[result.dtype]
    excess = (result.double() - expected).abs() - bound
    assert torch.all(excess <= 0), f"off by {excess.max().item():.3g} beyond the bound"


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A strided matrix inside a buffer of NaN: a kernel that reads beside it gives NaN, one that writes is found out."""

    view: torch.Tensor
    buffer: torch.Tensor
    inside: torch.Tensor

    def assert_intact(self) -> None:
        assert torch.all(self.buffer[~self.inside].isnan()), "wrote beside the matrix"


def poisoned(matrix: torch.Tensor, *, gap: int = 5, begin: int = 2) -> Poisoned:
    """Copy `matrix` `[rows, columns]` into a poisoned buffer, with 3 rows around.

    Args:
        matrix: what to copy.
        gap: elements between rows.
        begin: how many of them are before a row; rows are aligned to 16 bytes where all three are multiples of 8.
    """
    rows, columns = matrix.shape
    buffer = torch.full((rows + 6, columns + gap), float("nan"), dtype=matrix.dtype)
    inside = torch.zeros(buffer.shape, dtype=torch.bool)
    inside[3 : 3 + rows, begin : begin + columns] = True
    view = buffer[3 : 3 + rows, begin : begin + columns]
    view.copy_(matrix)
    return Poisoned(view, buffer, inside)
