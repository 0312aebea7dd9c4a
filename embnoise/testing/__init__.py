"""A kit of property tests for noise layers: prove yours, or learn what is wrong with it.

    from embnoise.testing import Claims, case, check_layer

    mine = case("MyNoise", make_layer, driver="torch", claims=Claims(distribution="gaussian"))
    print(check_layer(mine, raises=False).table())

It serves any layer of any framework that has a driver; the layer need not know embnoise.
"""

from embnoise.testing.case import Case, case
from embnoise.testing.claims import Claims
from embnoise.testing.drivers import Driver, driver_of
from embnoise.testing.failures import CheckFailedError
from embnoise.testing.report import Report, Result
from embnoise.testing.run import Check, check_layer, iter_checks, parametrize_with_checks

__all__ = [
    "Case",
    "Check",
    "CheckFailedError",
    "Claims",
    "Driver",
    "Report",
    "Result",
    "case",
    "check_layer",
    "driver_of",
    "iter_checks",
    "parametrize_with_checks",
]
