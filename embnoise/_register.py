"""``register``: makes a rule of the user's own known by its name."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import TypeVar

from embnoise._distributions import DISTRIBUTIONS, Distribution
from embnoise._scales import SCALES, ScaleRule
from embnoise._schedules import SCHEDULES, Schedule
from embnoise._validation import format_value

__all__ = ["register"]

Rule = TypeVar("Rule", bound="Distribution | ScaleRule | type[Schedule]")


def register(rule: Rule) -> Rule:
    """Register a distribution, a scale rule or a schedule under its name.

    A registered rule can be named in a ``Noise``, in the property-test kit's ``Claims`` and on the
    command line; a ``Noise`` that uses it can be saved. Registering is global: do it where the
    rule is defined, so that it is known wherever that module is imported.

    Args:
        rule: A ``Distribution``, a ``ScaleRule``, or a subclass of ``Schedule`` that is a
            dataclass and has a ``name``.

    Returns:
        ``rule`` itself, so that this can decorate a class.

    Raises:
        TypeError: ``rule`` is none of these.
        ValueError: A rule that is defined elsewhere has that name.

    Example:
        >>> import embnoise
        >>> triangular = embnoise.register(
        ...     embnoise.Distribution("triangular", lambda p: 1 - (2 * (1 - p)) ** 0.5, bound=1.0)
        ... )
        >>> embnoise.Noise(5.0, distribution="triangular").to_dict()["distribution"]
        'triangular'
    """
    if isinstance(rule, Distribution):
        _ = rule.table  # raises if the quantile function is unusable
        DISTRIBUTIONS.add(rule.name, rule, defined_by=rule.quantile)
    elif isinstance(rule, ScaleRule):
        SCALES.add(rule.name, rule, defined_by=rule.function)
    elif isinstance(rule, type) and issubclass(rule, Schedule):
        if not is_dataclass(rule) or not isinstance(rule.name, str) or not rule.name:
            raise TypeError(
                f"rule must be a dataclass with a name, got {rule.__name__}: decorate it with "
                "@dataclass(frozen=True) below @register, and set name = '...'"
            )
        SCHEDULES.add(rule.name, rule, defined_by=rule)
    else:
        raise TypeError(
            "rule must be a Distribution, a ScaleRule or a subclass of Schedule, got "
            f"{format_value(rule)}"
        )
    return rule
