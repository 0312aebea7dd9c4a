"""Settings for the tests of the kit."""

import pytest

from tests.frameworks import hasty_jax


@pytest.fixture(autouse=True)
def _hasty_jax():
    with hasty_jax():
        yield
