"""The parts of a decoder. Each holds its weights and calls `ops`; batch and device state come as arguments."""
