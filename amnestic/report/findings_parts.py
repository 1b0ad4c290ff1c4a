"""The smallest parts of the published findings: what is missing and why, rates, differences, doubts."""

import inspect
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

NOT_MEASURED: Literal["not measured"] = "not measured"
NOT_GIVEN: Literal["not given"] = "not given"
NOT_APPLICABLE: Literal["not applicable"] = "not applicable"

_ENTRY = re.compile(r"^    (\w+): (.*(?:\n     +.*)*)", re.MULTILINE)


def _described(schema: dict[str, Any], part: type[BaseModel]) -> None:
    """Moves what the docstring says of each attribute to where readers of a schema look for it."""
    about, _, attributes = inspect.getdoc(part).partition("\n\nAttributes:\n")  # type: ignore[union-attr]
    schema["description"] = about
    for name, text in _ENTRY.findall(attributes):
        schema["properties"][name]["description"] = " ".join(text.split())


class Part(BaseModel):
    """A piece of the findings: frozen, without unknown keys, without NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), json_schema_extra=_described
    )


class Missing(Part):
    """Stands where something is not known.

    Attributes:
        state: ``not measured`` by the run, ``not given`` by a person, or ``not applicable`` here.
        why: The reason, and how it could be had.
    """

    state: Literal["not measured", "not given", "not applicable"]
    why: str


class Rate(Part):
    """A share with what is needed to judge it, as in ``summary.json``.

    Attributes:
        estimate: Events over trials in [0, 1]; null without trials.
        lower: Lower end of the two-sided 95 % interval.
        upper: Upper end of the two-sided 95 % interval.
        upper_one_sided: One-sided 95 % upper bound; gates compare this one. With zero events it is the finding.
        n: Number of independent units, which are works.
        method: How the interval was made.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    upper_one_sided: float | None
    n: int
    method: str


class Mean(Part):
    """A mean with its 95 % interval.

    Attributes:
        estimate: The mean; null without values.
        lower: Lower end.
        upper: Upper end.
    """

    estimate: float | None
    lower: float | None
    upper: float | None


class Score(Part):
    """A metric over works.

    Attributes:
        median: Median over works.
        mad: Median absolute deviation.
        mean: Mean over works.
        n: Works.
        unit: What it is measured in; scores of different units are not comparable.
    """

    median: float | None
    mad: float | None
    mean: float | None
    n: int
    unit: str


class Difference(Part):
    """A difference between two groups or two models, with its bounds.

    Attributes:
        estimate: The difference; null where it could not be computed.
        lower: Lower end of the 95 % interval.
        upper: Upper end of the 95 % interval.
        lower_one_sided: One-sided 95 % lower bound, or null where none was made.
        upper_one_sided: One-sided 95 % upper bound, or null where none was made.
        n: Works of the first group.
        paired: Whether the same works are on both sides; null where that was not recorded.
        method: How the interval was made.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    lower_one_sided: float | None = None
    upper_one_sided: float | None = None
    n: int | None = None
    paired: bool | None = None
    method: str


class Open(Part):
    """Something that was left out.

    Attributes:
        what: Which question.
        why: The reason, and the remedy where there is one.
    """

    what: str
    why: str


class Doubt(Part):
    """A warning that a result may not be trusted.

    Attributes:
        name: What raised it.
        because: The numbers that raised it; empty where the name says it all.
        meaning: What it says about the result.
        remedy: What to do.
    """

    name: str
    because: str = ""
    meaning: str
    remedy: str


class Method(Part):
    """A method with its settings, enough to build it again.

    Attributes:
        name: As ``amnestic list`` shows it.
        parameters: Every setting by name.
    """

    name: str
    parameters: Mapping[str, JsonValue]


def not_measured(why: str) -> Missing:
    """What the run did not measure.

    Example:
        >>> not_measured("no CLIP model was given").state
        'not measured'
    """
    return Missing(state=NOT_MEASURED, why=why)


def not_given(key: str) -> Missing:
    """What only a person can say and nobody did.

    Args:
        key: Its key in the auditor file.

    Example:
        >>> not_given("client").why
        "no auditor file says it; give --auditor FILE.yaml with the key 'client'"
    """
    return Missing(state=NOT_GIVEN, why=f"no auditor file says it; give --auditor FILE.yaml with the key {key!r}")


def not_applicable(why: str) -> Missing:
    """What has no meaning for this run.

    Example:
        >>> not_applicable("the model was not edited").state
        'not applicable'
    """
    return Missing(state=NOT_APPLICABLE, why=why)
