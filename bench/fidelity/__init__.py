"""Whether the simulator tells what the engine does: the same requests through both."""
