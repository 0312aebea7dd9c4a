"""Property tests for noise layers: prove that yours is right, or learn what is wrong with it.

    from embnoise.testing import Claims, case, check_layer

    mine = case("MyNoise", make_layer, driver="torch", claims=Claims(distribution="gaussian"))
    print(check_layer(mine, raises=False).table())

The kit tests any layer of any framework that has a driver; the layer need not use embnoise.
"""

from embnoise.testing._case import Case
from embnoise.testing.adapters import check_adapter, check_driver
from embnoise.testing.cases import case
from embnoise.testing.claims import Claims
from embnoise.testing.drivers import Driver, DriverBase
from embnoise.testing.failures import CheckFailedError, NotClaimedError
from embnoise.testing.find_driver import driver_of
from embnoise.testing.models import ModelReport, check_model
from embnoise.testing.report import Report, Result
from embnoise.testing.run import Check, check_layer, iter_checks, parametrize_with_checks

__all__ = [
    "Case",
    "Check",
    "CheckFailedError",
    "Claims",
    "Driver",
    "DriverBase",
    "ModelReport",
    "NotClaimedError",
    "Report",
    "Result",
    "case",
    "check_adapter",
    "check_driver",
    "check_layer",
    "check_model",
    "driver_of",
    "iter_checks",
    "parametrize_with_checks",
]


def __dir__() -> list[str]:
    return __all__  # completion shows the interface, not the modules behind it
