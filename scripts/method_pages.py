"""Pages about methods and measures, made from what the code says about itself; no page of them is written by hand.

A method's docstring gives its page: the prose, the paragraphs that begin with ``Formula``, ``Cost`` or ``Published``,
the meaning of each setting and the source. A new method needs no other documentation.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import yaml

from amnestic.core.methods import Method
from amnestic.core.records import plain
from amnestic.core.registry import build, methods

SECTIONS = ("Args", "Attributes", "Example", "Raises", "Returns", "Source", "Yields")
LABELS = ("Formula", "Cost", "Published", "Pitfalls")
ENTRY = re.compile(r"^([*\w][*\w, ]*?)\s*(?:\([^)]*\))?:\s*(.*)$")
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What all methods of one family share on their pages.

    Attributes:
        title: Heading of the family's list.
        about: What such a method does, in a sentence or two.
        command: A command that uses one, with ``NAME`` for the method.
        cost: What its cost is counted in, for methods whose docstring gives no formula of it.
        pitfalls: What to mind with any of them.
        facts: Attributes of the class that are shown, with what they mean.
    """

    title: str
    about: str
    command: str
    cost: str
    pitfalls: str
    facts: tuple[tuple[str, str], ...] = ()


FAMILIES = {
    "localizer": Family(
        title="Localizers",
        about="A localizer names the units of the U-Net that hold the works which an audit found replicated. It "
        "changes nothing.",
        command="amnestic locate RUN --method NAME",
        cost="Counted in rows that pass through the U-Net; the record of `amnestic locate` states them as `passes`.",
        pitfalls="Works are located by the same images that gave their rate before, so cutting can only lower it: "
        "compare with `random-units --like RECORD`, and with works that were not located (`--part 1/2`). That an image "
        "no longer comes out under its prompt does not say that it is gone; attack the edited model.",
        facts=(("kind", "searches units of kind"), ("needs_originals", "needs the originals")),
    ),
    "mitigation": Family(
        title="Mitigations by pruning",
        about="A mitigation turns the units that a localizer named into new values of the weights. `amnestic prune` "
        "writes them as a plain diffusers folder; an audit of that folder judges the edit.",
        command="amnestic prune RUN --out EDITED --method NAME",
        cost="It reads and writes weights; no image is drawn for it.",
        pitfalls="The edit that the run keeps holds the old values and can bring the images back: keep it like the "
        "originals. Pruning hides more than it removes; attack the edited model before calling it clean.",
    ),
    "finetuning": Family(
        title="Mitigations by fine-tuning",
        about="A fine-tuning teaches a copy of the model to forget works. An audit of the copy, and an attack on it, "
        "judge the result.",
        command="amnestic finetune RUN --method NAME --references ORIGINALS --out UNLEARNED",
        cost="Counted in rows forward and backward; the record of `amnestic finetune` states them as `passes`.",
        pitfalls="Learning rates do not carry over between models of other sizes. Without `--retain` the audit's own "
        "base prompts are trained on, and its CLIP alignment is no longer a test of them. Judge by a fresh attack on "
        "the final weights, never by the loss.",
        facts=(
            ("needs_surrogates", "needs surrogates"), ("needs_retain", "needs ordinary pairs"),
            ("needs_attack", "needs an attack"),
        ),
    ),
    "attack": Family(
        title="Attacks",
        about="An attack searches an input that brings a known image out again. It never judges itself: what it found "
        "is drawn and scored by the audit's own descriptor, beside controls with the same budget.",
        command="amnestic attack RUN --references ORIGINALS --method NAME",
        cost="Counted in rows forward and backward per work; the page of the attack and its record state them.",
        pitfalls="A long enough search can carry in an image that the model never learned, and taking the best of "
        "several tries raises every rate. Read the difference to held-out works, to the twin and to random search with "
        "the same budget, never the rate of the works alone.",
        facts=(("searches", "varies"), ("uses_gradient", "needs a gradient")),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Told:
    """A docstring in parts.

    Attributes:
        what: Its first line.
        prose: Paragraphs without a label.
        labelled: Paragraphs by label, each as it stands.
        sections: Text of each section, dedented.
    """

    what: str
    prose: tuple[str, ...]
    labelled: dict[str, tuple[str, ...]]
    sections: dict[str, str]


def told(docstring: str) -> Told:
    """A google docstring in parts."""
    lines, body, sections = inspect.cleandoc(docstring).splitlines(), list[str](), dict[str, list[str]]()
    current = None
    for line in lines[1:]:
        title = line[:-1] if line.endswith(":") else ""
        if title in SECTIONS:
            current = sections.setdefault(title, [])
        elif current is not None and (line.startswith(" ") or not line):
            current.append(line)
        else:
            current = None
            body.append(line)
    paragraphs = [p for p in re.split(r"\n\s*\n", "\n".join(body).strip()) if p]
    labels = [next((label for label in LABELS if p.startswith(label)), "") for p in paragraphs]
    return Told(
        what=lines[0] if lines else "",
        prose=tuple(p for p, label in zip(paragraphs, labels, strict=True) if not label),
        labelled={
            name: tuple(p for p, label in zip(paragraphs, labels, strict=True) if label == name) for name in LABELS
        },
        sections={name: inspect.cleandoc("\n" + "\n".join(text)) for name, text in sections.items()},
    )


def entries(section: str) -> dict[str, str]:
    """What a section says of each name it lists; names that share an entry share its text."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = None if line.startswith(" ") else ENTRY.match(line)
        if entry:
            names = [name.strip(" *") for name in entry.group(1).split(",")]
            found |= {name: [entry.group(2)] for name in names}
        else:
            for name in names:
                found[name].append(line.strip())
    return {name: " ".join(text).strip() for name, text in found.items()}


def markdown(text: str) -> str:
    """A docstring's text as Markdown: what is no code must not be read as markup."""
    pieces, end = [], 0
    for code in CODE.finditer(text):
        pieces += [_escaped(text[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*pieces, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_<>\[\]|])", r"\\\1", text)


def cell(text: str) -> str:
    """Markdown for one cell of a table: one line, without a bar that would end the cell."""
    return markdown(" ".join(text.split())).replace(r"\|", "&#124;")


def shown(value: object) -> str:
    """A default as it is written after ``-o KEY=``."""
    text = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def own_lineage(method: type) -> list[type]:
    """The class and those it inherits from, up to but without `Method`, nearest first."""
    return [c for c in method.__mro__ if is_dataclass(c) and c is not Method]


def settings(method: type[Method], family: str, name: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning of every setting; the nearest class that documents one tells what it means."""
    meanings: dict[str, str] = {}
    for kind in reversed(own_lineage(method)):
        meanings |= entries(told(kind.__doc__ or "").sections.get("Attributes", ""))
    built = build(family, name)
    return [(f.name, shown(getattr(built, f.name)), meanings.get(f.name, "")) for f in fields(method)]


def method_page(family: str, name: str) -> str:
    """The page of one registered method."""
    method, shared = methods(family)[name], FAMILIES[family]
    about = told(method.__doc__ or "")
    parents = [told(c.__doc__ or "") for c in own_lineage(method)[1:] if c.__name__.lower() != family]
    return "\n\n".join([
        f"# {name}",
        f"*{shared.title}.* {markdown(about.what)}",
        *_facts(method, shared),
        f"```text\n{shared.command.replace('NAME', name)}\n```",
        *(["## How it works, and what to mind", *map(markdown, about.prose)] if about.prose else []),
        *_labelled("Formula", "Formula", about, parents),
        "## Settings",
        "Each is set with `-o KEY=VALUE`.",
        *_settings_table(settings(method, family, name)),
        *_labelled("Published", "Published settings", about, parents),
        *(_labelled("Cost", "Cost", about, parents) or ["## Cost", shared.cost]),
        "## Pitfalls",
        *(markdown(p.removeprefix("Pitfalls: ")) for p in about.labelled["Pitfalls"]),
        shared.pitfalls,
        "## Source",
        markdown(_source(about, parents)),
    ]) + "\n"  # fmt: skip


def _source(about: Told, parents: Sequence[Told]) -> str:
    found = [one.sections["Source"] for one in (about, *parents) if one.sections.get("Source")]
    return found[0] if found else ""


def _facts(method: type[Method], shared: Family) -> Iterator[str]:
    told_facts = []
    for attribute, meaning in shared.facts:
        value = getattr(method, attribute, None)
        if isinstance(value, bool):
            told_facts.append(f"{meaning}: {'yes' if value else 'no'}")
        elif isinstance(value, str):
            told_facts.append(f"{meaning}: `{value}`")
    if told_facts:
        yield f"{'; '.join(told_facts).capitalize()}."


def _labelled(label: str, title: str, about: Told, parents: Sequence[Told]) -> list[str]:
    """The paragraphs of a label: the method's own, or else those of the nearest class that it goes on from."""
    refers = any("see `" in p for p in about.labelled[label])
    own = [] if refers else list(about.labelled[label])
    for parent in parents if not own else ():
        if parent.labelled[label]:
            own = list(parent.labelled[label])
            break
    own = [markdown(p.removeprefix(f"{label}: ")) for p in own]
    return [f"## {title}", *own] if own else []


def _settings_table(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    if not rows:
        yield "It has none."
        return
    lines = [f"| `{name}` | `{default}` | {cell(meaning)} |" for name, default, meaning in rows]
    yield "\n".join(["| setting | default | meaning |", "|---|---|---|", *lines])


def family_page(family: str) -> str:
    """The list of one family's methods."""
    shared = FAMILIES[family]
    rows = [
        f"| [{name}]({name}.md) | {cell(told(kind.__doc__ or '').what)} |" for name, kind in methods(family).items()
    ]
    return "\n\n".join([
        f"# {shared.title}", shared.about, f"```text\n{shared.command}\n```",
        "\n".join(["| method | what it is |", "|---|---|", *rows]),
        "Every method is one file that registers itself; a package of your own adds some through the entry points "
        "`amnestic.methods`.",
    ]) + "\n"  # fmt: skip


def measures_page() -> str:
    """Every public function of `amnestic.measures`, by file."""
    room = import_module("amnestic.measures")
    parts = [
        "# Measures",
        "Pure functions on arrays, from which every number of a report is made. Their docstrings tell arguments, "
        "ranges and errors: `python -c \"help('amnestic.measures.intervals')\"`.",
    ]  # fmt: skip
    for found in iter_modules(room.__path__):
        module = import_module(f"amnestic.measures.{found.name}")
        rows = list(_measures(module))
        if rows:
            about = markdown((module.__doc__ or "").strip().splitlines()[0])
            table = "\n".join(["| function | what it is | formula or source |", "|---|---|---|", *rows])
            parts += [f"## {found.name}", about, table]
    return "\n\n".join(parts) + "\n"


def _measures(module: Any) -> Iterator[str]:  # noqa: ANN401 - a module
    for name, function in vars(module).items():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
            about = told(function.__doc__ or "")
            formula = " ".join(about.labelled["Formula"]).removeprefix("Formula: ")
            source = about.sections.get("Source", "")
            yield f"| `{name}` | {cell(about.what)} | {cell(formula or source)} |"


def pages() -> dict[str, str]:
    """All generated pages by path below ``docs/``."""
    found = {"methods/measures.md": measures_page()}
    for family in FAMILIES:
        found[f"methods/{family}/index.md"] = family_page(family)
        found |= {f"methods/{family}/{name}.md": method_page(family, name) for name in methods(family)}
    return found


def navigation() -> list[dict[str, Any]]:
    """The generated pages as entries of the site's navigation."""
    found: list[dict[str, Any]] = []
    for family, shared in FAMILIES.items():
        listed = [{name: f"methods/{family}/{name}.md"} for name in methods(family)]
        found.append({shared.title: [{"Overview": f"methods/{family}/index.md"}, *listed]})
    return [*found, {"Measures": "methods/measures.md"}]
