"""Python starts with this in processes that tests on the simulated GPU start: they see that GPU as well."""

import tests.gpu_simulator.plugin  # noqa: F401 (it acts when it is imported)
