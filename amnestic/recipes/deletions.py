"""Requests to delete works, one after the other, written out as ordinary steps of a recipe."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amnestic.core.errors import InputError
from amnestic.recipes.recipe_file import Places, refusal, require_known

NAME = "deletions"


class Deletions(BaseModel):
    """A step of a recipe that stands for many.

    For request i: its rows of the prompt list are chosen, the newest model is audited on them, what replicates is
    located and pruned, and the new model is audited on the works of every request so far. Then one request is rolled
    back, and the model without it is audited on the works of all.

    Attributes:
        name: Of the step; not used, the steps that it stands for have names of their own.
        does: ``deletions``.
        model: The model that the first request changes.
        prompts: Prompt list with the works of all requests and ordinary prompts.
        references: Originals.
        requests: What each of them names: settings of the step ``choose``, such as ``works: [a, b]``.
        roll_back: Which of them is rolled back at the end, from 1; `None`: none is.
        n_controls: At most so many ordinary and held-out prompts beside the works of a request.
        audit: Further settings of all audits.
        locate: Further settings of all steps that locate.
        prune: Further settings of all steps that prune.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    does: str
    model: Any
    prompts: Any
    references: Any
    requests: list[dict[str, Any]] = Field(min_length=1)
    roll_back: int | None = Field(default=None, ge=1)
    n_controls: int | None = Field(default=None, ge=0)
    audit: dict[str, Any] = Field(default_factory=dict)
    locate: dict[str, Any] = Field(default_factory=dict)
    prune: dict[str, Any] = Field(default_factory=dict)


def written_out(step: Mapping[str, Any], places: Places, number: int) -> list[dict[str, Any]]:
    """The steps that a step ``deletions`` stands for.

    Args:
        step: The step, with its variables filled in.
        places: Where the recipe stands.
        number: Which step it is, from 0.

    Returns:
        Steps named ``request-I``, ``asked-I``, ``located-I``, ``deleted-I``, ``after-I-request-J``, ``rolled-back``
        and ``rolled-back-request-J``.

    Raises:
        InputError: If a setting is unknown, or a request is to be rolled back that there is not.
    """

    def where(*at: str | int) -> str:
        return places.at("steps", number, *at)

    require_known(step, list(Deletions.model_fields), where, NAME)
    try:
        asked = Deletions.model_validate(dict(step))
    except ValidationError as error:
        raise refusal(error, where) from error
    if asked.roll_back is not None and asked.roll_back > len(asked.requests):
        raise InputError(
            f"{where('roll_back')}: expected one of {len(asked.requests)} requests, got {asked.roll_back}; name another"
        )
    return list(_steps(asked))


def _steps(asked: Deletions) -> Iterator[dict[str, Any]]:
    def audit(name: str, model: Any, request: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - plain data
        return dict(asked.audit) | {
            "name": name, "does": "audit", "model": model, "prompts": f"request-{request}",
            "references": asked.references, **more,
        }  # fmt: skip

    model, n = asked.model, len(asked.requests)
    for i, request in enumerate(asked.requests, start=1):
        few = {} if asked.n_controls is None else {"n_controls": asked.n_controls}
        yield few | request | {"name": f"request-{i}", "does": "choose", "prompts": asked.prompts}
        yield audit(f"asked-{i}", model, i)
        yield dict(asked.locate) | {"name": f"located-{i}", "does": "locate", "run": f"asked-{i}"}
        yield dict(asked.prune) | {
            "name": f"deleted-{i}", "does": "prune", "run": f"asked-{i}", "located": f"located-{i}",
            "if_nothing_found": "go-on",
        }  # fmt: skip
        model = f"deleted-{i}"
        for j in range(1, i + 1):
            yield audit(f"after-{i}-request-{j}", model, j, **({"before": f"asked-{i}"} if j == i else {}))
    if asked.roll_back is not None:
        yield {
            "name": "rolled-back", "does": "roll-back", "model": model, "take_back": f"deleted-{asked.roll_back}",
            "runs": [f"asked-{i}" for i in range(1, n + 1)],
        }  # fmt: skip
        for j in range(1, n + 1):
            yield audit(f"rolled-back-request-{j}", "rolled-back", j)
