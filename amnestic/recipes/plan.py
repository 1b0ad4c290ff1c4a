"""The steps of a recipe with everything filled in, and what they take from each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amnestic.audit.request import descriptor_beside
from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.recipes.steps import Kind

STOP, GO_ON = "stop", "go-on"


@dataclass(frozen=True, kw_only=True)
class Ref:
    """What an earlier step made.

    Attributes:
        step: Its name.
    """

    step: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a plan.

    Attributes:
        name: Its name.
        kind: What it does.
        settings: What was asked, by setting; paths are absolute, earlier steps are `Ref`.
        out: Where its result lies, if it has a place of its own.
        go_on: Of a step that prunes: whether a model stays as it is where nothing was found.
        where: Its place in the recipe, for messages.
    """

    name: str
    kind: Kind
    settings: Mapping[str, Any]
    out: Path | None
    go_on: bool = False
    where: str = field(default="", compare=False)

    def refs(self) -> tuple[str, ...]:
        """Steps whose results it needs."""
        flat = [one for v in self.settings.values() for one in (v if isinstance(v, tuple) else (v,))]
        return tuple(dict.fromkeys(one.step for one in flat if isinstance(one, Ref)))

    def request(self, value_of: Callable[[str], Any]) -> Any:  # noqa: ANN401 - the kind's own request
        """The request, with results of earlier steps in place of their names."""

        def put(value: Any) -> Any:  # noqa: ANN401 - plain data
            if isinstance(value, tuple):
                return tuple(put(one) for one in value)
            return value_of(value.step) if isinstance(value, Ref) else value

        found = {name: put(value) for name, value in self.settings.items()}
        if self.out is not None:
            found["out"] = self.out
        for name in set(self.kind.paths()) & set(found):
            one = found[name]
            found[name] = tuple(map(Path, one)) if isinstance(one, tuple) else None if one is None else Path(one)
        return self.kind.type(**found)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All steps of a recipe.

    Attributes:
        name: Of the recipe.
        about: What it is for.
        out: Folder of all results.
        steps: In order.
    """

    name: str
    about: str
    out: Path
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """A step by its name.

        Raises:
            InputError: If there is none of this name.
        """
        known = {step.name: step for step in self.steps}
        if name not in known:
            raise InputError(f"expected a step of {', '.join(known)}; got {name}{did_you_mean(name, known)}")
        return known[name]

    def origin(self, step: Step) -> str:
        """The model, folder or Hub id, from which that of a step was made; empty where the recipe does not say."""
        for name in ("model", "run"):
            value = step.settings.get(name)
            if isinstance(value, Ref):
                return self.origin(self.step(value.step))
            if value is not None:
                return str(value) if name == "model" else ""
        return ""

    def descriptor(self, step: Step) -> Path | None:
        """The sscd-mini of the testbed that the model of a step comes from, if it does."""
        return descriptor_beside(self.origin(step))


def holds_ref(value: Any) -> bool:  # noqa: ANN401 - plain data
    """Whether a setting names an earlier step, or several."""
    return any(isinstance(one, Ref) for one in (value if isinstance(value, tuple) else (value,)))
