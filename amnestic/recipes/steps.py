"""The kinds of steps a recipe may have; their settings are the fields of the requests that the stages take."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model, model_validator

from amnestic.core.errors import InputError
from amnestic.core.finetuning import FineTuning
from amnestic.core.methods import Localizer
from amnestic.core.names import did_you_mean
from amnestic.core.registry import build
from amnestic.stages.inputs import Progress

FOLDER = "local-dir:"
"""What stands before the folder of a CLIP model."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of step.

    Attributes:
        name: What a step says it ``does``.
        module: Where its request and its stage are.
        request: Name of the request, a frozen dataclass.
        call: Name of the stage.
        gives: What other steps take from it: ``audit``, ``units``, ``model``, ``prompts``, or nothing.
        takes: By setting, what it takes from an earlier step that is named there.
        models: Settings that name a model: a step, a folder or a Hub id.
        left_out: Fields of the request that are no settings.
        check: Refuses settings of methods before anything runs.
        suffix: What is appended to the step's name where its result is a file.
        reads: Whether it only reads what lies in a run now; then it is quick, and done anew every time.
    """

    name: str
    module: str
    request: str
    call: str
    gives: str = ""
    takes: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    check: Callable[[Any], None] = lambda _request: None
    suffix: str = ""
    reads: bool = False

    @property
    def type(self) -> type[Any]:
        """The request."""
        try:
            found: type[Any] = getattr(import_module(self.module), self.request)
        except (ImportError, AttributeError) as error:
            raise InputError(f"this version of amnestic has no step {self.name}; leave it out") from error
        return found

    def run(self, request: Any, progress: Progress) -> Any:  # noqa: ANN401 - the kind's own request and result
        """Call the stage."""
        stage = getattr(import_module(self.module), self.call)
        return stage(request, progress=progress) if "progress" in signature(stage).parameters else stage(request)

    def settings(self) -> dict[str, Any]:
        """Types of its settings by name."""
        hints = get_type_hints(self.type)
        return {f.name: hints[f.name] for f in fields(self.type) if f.name not in self.left_out}

    def paths(self) -> tuple[str, ...]:
        """Settings that are paths, or several."""
        return tuple(name for name, hint in self.settings().items() if _mentions(hint, Path))


def _locate(request: Any) -> None:  # noqa: ANN401 - a request of its own kind
    method = build("localizer", request.method, dict(request.options))
    if isinstance(method, Localizer) and method.needs_originals and request.references is None:
        raise InputError(f"{request.method} looks at the originals; give their folder as references")


def _prune(request: Any) -> None:  # noqa: ANN401 - a request of its own kind
    build("mitigation", request.method, dict(request.options))


def _attack(request: Any) -> None:  # noqa: ANN401 - a request of its own kind
    build("attack", request.method, dict(request.options))


def _finetune(request: Any) -> None:  # noqa: ANN401 - a request of its own kind
    method = build("finetuning", request.method, dict(request.options))
    build("attack", request.attack, dict(request.attack_options))
    if isinstance(method, FineTuning) and method.needs_surrogates and request.surrogates_from is None:
        raise InputError(f"{request.method} teaches surrogates drawn by a pruned model; name it in surrogates_from")


def _locality(request: Any) -> None:  # noqa: ANN401 - a request of its own kind
    build("attack", "dori", dict(request.attack))
    for name, options in request.localizers.items():
        build("localizer", name, dict(options))


def _audit(request: Any) -> None:  # noqa: ANN401 - a request of its own kind
    request.check()


HERE = "amnestic.stages"
REQUESTS = "amnestic.recipes.requests"
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="choose", module=f"{HERE}.choosing", request="ChooseRequest", call="choose", gives="prompts",
             takes={"prompts": "prompts"}, suffix=".csv"),
        Kind(name="audit", module=f"{HERE}.auditing", request="AuditRequest", call="audit", gives="audit",
             takes={"model": "model", "prompts": "prompts", "before": "audit", "twin": "audit"}, models=("model",),
             left_out=("bundled", "shortcut"), check=_audit),
        Kind(name="locate", module=f"{HERE}.locating", request="LocateRequest", call="locate", gives="units",
             takes={"run": "audit", "like": "units", "model": "model"}, models=("model",), check=_locate),
        Kind(name="prune", module=f"{HERE}.pruning", request="PruneRequest", call="prune", gives="model",
             takes={"run": "audit", "located": "units", "model": "model"}, models=("model",), check=_prune),
        Kind(name="roll-back", module=f"{HERE}.rolling_back", request="RollBackRequest", call="roll_back",
             gives="model", takes={"model": "model", "take_back": "model", "runs": "audit"}, models=("take_back",)),
        Kind(name="attack", module=f"{HERE}.attacking", request="AttackRequest", call="attack",
             takes={"run": "audit", "twin": "model", "original": "model", "model": "model"},
             models=("twin", "original", "model"), check=_attack),
        Kind(name="finetune", module=f"{HERE}.finetuning", request="FinetuneRequest", call="finetune", gives="model",
             takes={"run": "audit", "surrogates_from": "model", "model": "model"},
             models=("surrogates_from", "model"), check=_finetune),
        Kind(name="locality", module=f"{HERE}.studying_locality", request="LocalityRequest", call="locality",
             takes={"run": "audit", "model": "model"}, models=("model",), check=_locality),
        Kind(name="extract", module=REQUESTS, request="ExtractRequest", call="extract",
             takes={"run": "audit"}),
        Kind(name="report", module=f"{HERE}.reporting", request="ReportRequest", call="report", takes={"run": "audit"},
             left_out=("push_to",), reads=True),
        Kind(name="gate", module=REQUESTS, request="GateRequest", call="gate", takes={"run": "audit"},
             reads=True),
        Kind(name="compare", module=REQUESTS, request="CompareRequest", call="compare",
             takes={"before": "audit", "after": "audit"}, suffix=".html", reads=True),
        Kind(name="verify", module=REQUESTS, request="VerifyRequest", call="verify",
             takes={"run": "audit"}, reads=True),
    )
}  # fmt: skip


def kind_of(name: object, where: str) -> Kind:
    """A kind of step by its name.

    Raises:
        InputError: If there is none of this name.
    """
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(
            f"{where}: expected a step to do one of {', '.join(KINDS)}; got {name!r}{did_you_mean(str(name), KINDS)}"
        )
    return KINDS[name]


def model_of_settings(kind: Any, left_out: tuple[str, ...] = ()) -> type[BaseModel]:  # noqa: ANN401 - a dataclass
    """A pydantic model with the fields of a dataclass, which refuses all others.

    Args:
        kind: The dataclass; dataclasses among its fields become models as well.
        left_out: Fields that are no settings.
    """
    hints, made = get_type_hints(kind), dict[str, Any]()
    for one in fields(kind):
        if one.name in left_out:
            continue
        hint = hints[one.name]
        needed = one.default is MISSING and one.default_factory is MISSING
        made[one.name] = (model_of_settings(hint) if is_dataclass(hint) else hint, ... if needed else None)
    model: type[BaseModel] = create_model(kind.__name__, __base__=_Settings, **made)
    return model


class _Settings(BaseModel):
    """What all models of settings share; defaults are those of the dataclass, so they are not checked here."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, given: Any) -> Any:  # noqa: ANN401 - whatever was written
        """YAML reads yes and true alike; neither is the number 1."""
        for name, value in given.items() if isinstance(given, Mapping) else ():
            known = cls.model_fields.get(name)
            if isinstance(value, bool) and known is not None and not _mentions(known.annotation, bool):
                raise ValueError(f"{name} is neither true nor false")
        return given


def values_of(kind: type[Any], model: BaseModel) -> dict[str, Any]:
    """What was given in a model of settings, with nested dataclasses built.

    Args:
        kind: The dataclass of which the model was made.
        model: With the values.
    """
    hints, found = get_type_hints(kind), dict[str, Any]()
    for name in (f.name for f in fields(kind) if f.name in model.model_fields_set):
        value = getattr(model, name)
        found[name] = hints[name](**values_of(hints[name], value)) if isinstance(value, BaseModel) else value
    return found


def _mentions(hint: Any, kind: type[Any]) -> bool:  # noqa: ANN401 - any annotation
    """Whether an annotation is a type or has it among its parts."""
    if hint is kind:
        return True
    args = get_args(hint) if isinstance(hint, UnionType) or get_args(hint) else ()
    return any(_mentions(one, kind) for one in args)
