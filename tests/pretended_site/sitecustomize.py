"""Python starts with this in processes that tests on the pretended GPU start: they see that GPU as well."""

import tests.ptx_device  # noqa: F401 (it acts when it is imported)
