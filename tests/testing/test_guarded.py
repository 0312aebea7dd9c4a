"""An exception in a driver's method is a result that names the method."""

import contextlib

import pytest

from embnoise.testing import Claims, case, check_layer, iter_checks
from embnoise.testing.numpy_driver import NumpyDriver
from tests.testing.test_kit import right


class BrokenExit(NumpyDriver):
    @contextlib.contextmanager
    def kept_state(self):
        yield
        raise LookupError("no such device")


def broken(method):
    def raises(self, *arguments, **keywords):
        raise LookupError("no such device")

    return type("Broken", (NumpyDriver,), {method: raises})()


@pytest.mark.parametrize(
    "method", ["to_numpy", "from_numpy", "seed", "switch", "kept_state", "random_state", "state",
               "compile", "gradient", "without_gradients"],
)  # fmt: skip
def test_an_exception_in_a_method_of_the_driver_names_the_method(method):
    made = case("mine", right, driver=broken(method), claims=Claims(clean_without_grad=True))
    report = check_layer(made, profile="quick", raises=False)
    messages = [each.message for each in report.results if each.wrong]
    assert messages
    assert any(
        f"{method} of the driver 'numpy' raised LookupError: no such device" in message
        for message in messages
    ), messages


def test_an_exception_at_the_end_of_a_context_is_a_result():
    report = check_layer(case("mine", right, driver=BrokenExit()), profile="quick", raises=False)
    (result,) = report.results
    assert "kept_state of the driver 'numpy' raised LookupError" in result.message


def test_an_exception_in_make_is_the_drivers_once_the_layer_is_made():
    class Moving(NumpyDriver):
        def make(self, make_layer, **given):
            super().make(make_layer, **given)
            raise LookupError("no such device")

    (result, *_) = check_layer(
        case("mine", right, driver=Moving()), profile="quick", raises=False
    ).results
    assert "make of the driver 'numpy', after make_layer(" in result.message
    assert "raised LookupError: no such device" in result.message


def test_a_function_of_the_claims_that_raises_at_once_is_a_result():
    def scale(alpha, length, d):
        if alpha == 0.25:
            raise LookupError("no such alpha")
        return alpha / (length * d) ** 0.5

    made = case("mine", right, driver="numpy", claims=Claims(scale=scale))
    result = next(iter_checks(made, profile="quick")).run()
    assert result.status == "error"
    assert "LookupError: no such alpha" in result.message
