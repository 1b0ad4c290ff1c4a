"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import amnestic

PACKAGE = Path(amnestic.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parents[1].rglob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "open_clip", "scipy", "sklearn", "matplotlib", "pyarrow")
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MOST_LINES, MOST_FUNCTION_LINES = 400, 80
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SECTION = re.compile(r"^(Args|Attributes):\n((?:[ ]+.*\n|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^([*\w][*\w, ]*?)\s*(?:\([^)]*\))?:", re.MULTILINE)


def name_of(path):
    return str(path.relative_to(PACKAGE.parent if PACKAGE in path.parents else Path(__file__).parents[2]))


def of_each(paths):
    return pytest.mark.parametrize("path", paths, ids=name_of)


def tree_of(path):
    return ast.parse(path.read_text(), filename=str(path))


def public_nodes(body, owner=""):
    """Functions and classes without a leading underscore, methods included, with their qualified names."""
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield f"{owner}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_nodes(node.body, f"{owner}{node.name}.")


def functions(path):
    """All functions of a file, private and nested ones too."""
    return [n for n in ast.walk(tree_of(path)) if isinstance(n, FUNCTIONS)]


def parameters(function):
    found = function.args
    names = [a.arg for a in (*found.posonlyargs, *found.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    names += [found.vararg.arg] if found.vararg else []
    names += [a.arg for a in found.kwonlyargs]
    return names + ([found.kwarg.arg] if found.kwarg else [])


def fields(node):
    """Public attributes: annotated in the class body (constants of the class aside), or else set by `__init__`."""
    annotated = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    found = [n.target.id for n in annotated if not ast.unparse(n.annotation).startswith("ClassVar")]
    for method in [] if found else [n for n in node.body if isinstance(n, FUNCTIONS) and n.name == "__init__"]:
        targets = [t for n in ast.walk(method) if isinstance(n, ast.Assign) for t in n.targets]
        found += [t.attr for t in targets if isinstance(t, ast.Attribute) and ast.unparse(t.value) == "self"]
    return [n for n in found if not n.startswith("_")]


def documented(docstring, section):
    """Names listed under a section of a google docstring, or `None` when the section is missing."""
    for title, text in SECTION.findall((docstring or "") + "\n"):
        if title == section:
            indent = min(len(line) - len(line.lstrip()) for line in text.splitlines() if line.strip())
            lines = "\n".join(line[indent:] for line in text.splitlines())
            return [name.strip(" *") for entry in ENTRY.findall(lines) for name in entry.split(",")]
    return None


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def heavy_after(statement):
    """The heavy modules that a fresh interpreter holds after a statement, and what it printed."""
    shown = run(f"import sys\n{statement}\nprint('\\nheavy:', *[m for m in {HEAVY} if m in sys.modules])")
    assert shown.returncode == 0, shown.stderr
    text, _, heavy = shown.stdout.rpartition("heavy:")
    return heavy.split(), text


def test_the_rules_see_what_they_shall_judge():
    assert len(MODULES) > 30
    example = ast.parse(
        'def f(a, *b, c, **d):\n    """One.\n\n    Args:\n        a: x: y\n        *b, c: z\n            d: w\n    """'
    )
    node = example.body[0]
    assert parameters(node) == ["a", "b", "c", "d"]
    assert documented(ast.get_docstring(node), "Args") == ["a", "b", "c"]
    assert documented("One.", "Args") is None


class TestLightness:
    def test_importing_the_package_loads_nothing_heavy(self):
        assert heavy_after("import amnestic")[0] == []

    @pytest.mark.parametrize("arguments", [["--help"], ["audit", "--help"], ["testbed", "--help"]], ids=" ".join)
    def test_help_loads_nothing_heavy(self, arguments):
        heavy, text = heavy_after(
            f"sys.argv = ['amnestic', *{arguments}]\nfrom amnestic.cli import main\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
        )
        assert heavy == []
        assert "Usage" in text

    def test_public_names_exist(self):
        assert all(getattr(amnestic, name) for name in amnestic.__all__)


@of_each(MODULES)
class TestDocstrings:
    def test_every_public_name_has_one(self, path):
        tree = tree_of(path)
        missing = [name for name, node in public_nodes(tree.body) if not ast.get_docstring(node)]
        assert not missing
        assert not tree.body or ast.get_docstring(tree)

    def test_documented_arguments_equal_the_signature(self, path):
        wrong = {}
        for node in functions(path):
            listed = documented(ast.get_docstring(node), "Args")
            if listed is not None and listed != parameters(node):
                wrong[node.name] = (listed, parameters(node))
        assert not wrong

    def test_documented_attributes_equal_the_fields(self, path):
        wrong = {}
        for name, node in public_nodes(tree_of(path).body):
            listed = documented(ast.get_docstring(node), "Attributes") if isinstance(node, ast.ClassDef) else None
            if listed is not None and listed != fields(node):
                wrong[name] = (listed, fields(node))
        assert not wrong


@of_each(MODULES)
class TestSize:
    def test_no_file_is_too_long(self, path):
        assert len(path.read_text().splitlines()) <= MOST_LINES

    def test_no_function_is_too_long(self, path):
        long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path)}
        assert not {name: lines for name, lines in long.items() if lines > MOST_FUNCTION_LINES}


@of_each(MODULES)
class TestForbidden:
    def test_no_room_is_called_utils(self, path):
        assert not {"utils", "util", "helpers", "misc"} & {path.stem, path.parent.name}

    @pytest.mark.parametrize(
        ("word", "instead"),
        [
            (".cuda(", ".to(device)"),
            ("trust_remote_code", "refuse the model"),
            ("torch.manual_seed", "amnestic.core.seeds.generator"),
            ("np.random.seed", "numpy.random.default_rng(seed_for(...))"),
        ],
    )
    def test_no_forbidden_word(self, path, word, instead):
        assert word not in path.read_text(), f"use {instead}"

    def test_nothing_is_unpickled(self, path):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                assert not PICKLERS & {a.name for a in node.names}
            if isinstance(node, ast.ImportFrom) and node.module in PICKLERS:
                assert {a.name for a in node.names} <= {"UnpicklingError"}, "only its error may be caught"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in [ast.unparse(k) for k in node.keywords]

    def test_public_lists_are_sorted(self, path):
        for node in tree_of(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                assert list(names) == sorted(names)


@of_each(MODULES + TESTS)
def test_every_exception_from_a_rule_names_the_rule(path):
    if path != Path(__file__):
        bare = [
            line
            for line in path.read_text().splitlines()
            if re.search(r"# noqa(?!: [A-Z]+\d+)", line) or re.search(r"# type: ignore(?!\[)", line)
        ]
        assert not bare
