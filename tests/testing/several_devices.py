"""``Claims(transformations=("sharded",))`` on several devices.

``test_transformations`` runs it, since a process has as many devices as it starts with.
"""

import jax

from tests.testing.test_transformations import jax_layers, result
from tests.testing.transformation_faults import SHARDED
from tests.testing.zoo import is_caught

if __name__ == "__main__":
    assert len(jax.devices()) == 4
    for make in jax_layers():
        found = result(make, "jax", "sharded", saved_names=("count",))
        assert (found.status, found.message, found.assertions) == ("passed", "", 1)
    for layer in SHARDED:
        is_caught(layer)
        assert result(layer.make, "jax", "vmap", "remat").status == "passed"
    print("several devices")
