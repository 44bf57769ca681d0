"""`python -m tests.faulty_gpu`: an engine on a GPU that meets a real fault, which spoils CUDA for its whole process.

Prints the tokens given out before the engine ended, then how it ended; exit status 1 when it did not end by the fault.
"""

import sys

import torch

from fastserve.engine.core import EngineCore
from fastserve.errors import DeviceLostError
from fastserve.worker import worker
from fastserve.worker.device import CudaDevice
from tests.integration.engine_driver import Driver, engine_config, random_prompts

GOOD_STEPS = 6


class FaultyGpu(CudaDevice):
    """A kernel reads outside an array within the work of a step once `fails` is set."""

    fails = False

    def scope(self):
        if self.fails:
            with super().scope():
                torch.zeros(1, device=self.torch_device)[torch.full((1,), 7, device=self.torch_device)]
        return super().scope()


def main() -> int:
    worker.open_device = lambda requested: FaultyGpu()
    core = EngineCore.from_config(engine_config(device="cuda"))
    driver = Driver(core)
    for request_id, prompt in enumerate(random_prompts(4)):
        driver.add(request_id, prompt)
    for _ in range(GOOD_STEPS):
        driver.step()
    FaultyGpu.fails = True
    try:
        driver.run()
    except DeviceLostError as error:
        print(driver.tokens)
        print(str(error).replace("\n", " "))
        return 0
    finally:
        core.close()
    return 1


if __name__ == "__main__":
    sys.exit(main())
