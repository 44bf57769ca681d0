"""Which warnings fail a test: those of our own calls, not those of other packages about their own future."""

import warnings

import pytest

FUTURE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def warn_from(module: str, category: type[Warning]) -> None:
    """Warn as a line of `module` would."""
    exec("import warnings; warnings.warn('going away', category)", {"__name__": module, "category": category})


@pytest.mark.parametrize("category", FUTURE)
@pytest.mark.parametrize(
    "module", ["fastserve", "fastserve.engine.core", "tests.unit.test_config", "bench.sched", __name__]
)
def test_a_deprecation_that_our_own_call_meets_is_an_error(module, category):
    with pytest.raises(category):
        warn_from(module, category)


@pytest.mark.parametrize("category", FUTURE)
@pytest.mark.parametrize("module", ["transformers.utils.generic", "torch", "fastserve_plugin", "benchmark"])
def test_a_deprecation_inside_another_package_is_shown_and_passes(module, category):
    with warnings.catch_warnings(record=True) as seen:
        warn_from(module, category)
    assert [warning.category for warning in seen] == [category]


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, ResourceWarning])
def test_every_other_warning_is_an_error(category):
    with pytest.raises(category):
        warn_from("transformers", category)
