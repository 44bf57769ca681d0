"""Hypothesis without deadlines: the machine may be busy."""

from hypothesis import settings

settings.register_profile("fastserve", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("fastserve")
