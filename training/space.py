"""A search space: which options of a classifier a sweep varies, and over what."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from slantwise.errors import ConfigurationError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Drawn = Mapping[str, Any]
NUMBERS = (int, float)


@dataclass
class Dimension:
    """What one option may be: one of `choices`, or a number from `low` to `high`.

    log    even on a logarithmic scale
    step   low, low + step, …; integers have a step of 1
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: list[Any] | None = None

    def problem(self) -> str | None:
        """What is wrong with it."""
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, NUMBERS)):
                return f"{name}={value!r} is no number"
        if self.choices is not None:
            if (self.low, self.high, self.step) != (None, None, None) or self.log:
                return "choices stand alone, without low, high, log and step"
            distinct = {json.dumps(choice) for choice in self.choices}
            return None if distinct and len(distinct) == len(self.choices) else "expected one or more distinct choices"
        if self.low is None or self.high is None:
            return "expected choices, or low and high"
        if not self.low < self.high:
            return f"low={self.low:g} is not below high={self.high:g}"
        if self.log and (self.low <= 0 or self.step is not None):
            return "log wants a low above 0 and no step"
        return "expected a step above 0" if self.step is not None and not self.step > 0 else None

    def distribution(self, whole: bool) -> BaseDistribution:
        """Of the numbers or, as JSON, of the choices; whole: of integers."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution([json.dumps(choice) for choice in self.choices])
        assert self.low is not None
        assert self.high is not None
        if whole:
            return IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def values(self, whole: bool) -> list[Any] | None:
        """All that it may be, as the distribution has it; None where that is not a finite number."""
        if self.choices is not None:
            return [json.dumps(choice) for choice in self.choices]
        if self.low is None or self.high is None or (self.step is None and not whole) or self.log:
            return None
        step = self.step or 1
        number = math.floor((self.high - self.low) / step + 1e-9) + 1
        found = [self.low + i * step for i in range(number)]
        return [int(value) for value in found] if whole else found


class Space:
    """The dimensions of a classifier's options. Raises ConfigurationError naming all that cannot work."""

    def __init__(self, dimensions: Mapping[str, Dimension], classifier: Any) -> None:
        self.dimensions, self.classifier = dict(dimensions), classifier
        known = [field.name for field in fields(classifier) if field.name != "_target_"]
        problems = [f"{name}: no option of this classifier; expected some of {', '.join(known)}"
                    for name in self.dimensions if name not in known]  # fmt: skip
        problems += [f"{name}: {wrong}" for name, one in self.dimensions.items() if (wrong := one.problem())]
        if not self.dimensions:
            problems.append("it is empty")
        if problems:
            raise ConfigurationError("sweep.space: " + "; ".join(problems))
        for name in self.dimensions:
            self._check(name)

    def _check(self, name: str) -> None:
        """Each choice, and both ends of a range, must be a value that the option may have."""
        dimension = self.dimensions[name]
        ends: list[Any] = [json.dumps(value) for value in dimension.choices or ()]
        for value in ends or [dimension.low, dimension.high]:
            self.applied({name: int(value) if self._whole(name) and isinstance(value, float) else value})

    def _whole(self, name: str) -> bool:
        dimension, present = self.dimensions[name], getattr(self.classifier, name)
        ends = [dimension.low, dimension.high, dimension.step or 1]
        return isinstance(present, int) and all(end is not None and float(end).is_integer() for end in ends)

    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: one.distribution(self._whole(name)) for name, one in self.dimensions.items()}

    def grid(self) -> list[dict[str, Any]] | None:
        """All combinations, the options that are ranges of numbers changing fastest, from low to high; None where
        there are infinitely many.

        What is cheap to change changes fastest: of the linear classifier, neighbours differ in C.
        """
        values = {name: one.values(self._whole(name)) for name, one in self.dimensions.items()}
        if any(of_one is None for of_one in values.values()):
            return None
        names = sorted(values, key=lambda name: (name == "C", list(values).index(name)))
        columns = [self._ordered(values[name] or []) for name in names]
        return [dict(zip(names, row, strict=True)) for row in itertools.product(*columns)]

    @staticmethod
    def _ordered(values: Sequence[Any]) -> list[Any]:
        decoded = [json.loads(value) if isinstance(value, str) else value for value in values]
        if all(isinstance(value, NUMBERS) for value in decoded):
            return [value for _, value in sorted(zip(decoded, values, strict=True), key=lambda pair: pair[0])]
        return list(values)

    def applied(self, drawn: Drawn) -> Any:
        """The classifier's configuration with the drawn options. Raises ConfigurationError where it cannot work."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        options = decoded(drawn)
        for name, value in options.items():
            if isinstance(getattr(self.classifier, name), list) and isinstance(value, NUMBERS):
                options[name] = [value]  # one C in place of a path of them
        try:
            found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(self.classifier), options))
        except OmegaConfBaseException as error:
            message = str(error).strip().splitlines()[0]
            raise ConfigurationError(f"sweep.space: {in_words(drawn)}: {message}") from error
        return found


def decoded(drawn: Drawn) -> dict[str, Any]:
    """The options as the configuration has them."""
    return {name: json.loads(value) if isinstance(value, str) else value for name, value in drawn.items()}


def in_words(drawn: Drawn) -> str:
    """The options on one line."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in decoded(drawn).items())
