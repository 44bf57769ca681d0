"""Typed wrappers of the kernels in `fastserve._C.kernels`: check, allocate the output, one call."""
