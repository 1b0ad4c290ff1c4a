"""The notebooks run on the bundled testbed, show what they promise, and keep to what is public."""

import ast
import os
import re
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import amnestic

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
OURS = ("amnestic", "amnestic.stages", "amnestic.notebook")
OTHERS = {"torch", "diffusers", "PIL", "matplotlib"}
PICTURES = ("show_pairs", "show_before_after", "show_attempts", "show_pictures")
FIGURES = ("show_summary", "show_ladder", "show_layers", "show_curve", "show_losses", "show_change")
SECONDS_A_CELL = 1200
"""For machines that do other things as well; how long a notebook takes on two free cores is in its README."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, nbformat.NO_CONVERT)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def imports(source):
    """Module and name of every import; the name is empty where a whole module is imported."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def last_call(source):
    """Name of the function whose value a cell shows, or an empty string."""
    last = ast.parse(source).body[-1]
    return ast.unparse(last.value.func) if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) else ""


def html_of(cell):
    return "".join(output.data.get("text/html", "") for output in cell.outputs if "data" in output)


def test_there_are_six():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


def test_the_readme_names_each():
    listed = re.findall(r"\]\(([\w-]+\.ipynb)\)", (FOLDER / "README.md").read_text())
    assert listed == [path.name for path in NOTEBOOKS]


@each
class TestWritten:
    def test_it_is_valid_and_for_any_python_3(self, path):
        notebook = read(path)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"
        assert set(notebook.metadata) == {"kernelspec", "language_info"}

    def test_no_output_is_kept(self, path):
        for cell in code_of(read(path)):
            assert cell.outputs == []
            assert cell.execution_count is None
            assert cell.metadata == {}

    def test_only_public_names_are_imported(self, path):
        found = [one for cell in code_of(read(path)) for one in imports(cell.source)]
        assert found
        for module, name in found:
            top = module.partition(".")[0]
            if top == "amnestic":
                assert module in OURS, f"{module} is not public"
                public = (
                    sys.modules[module].__all__ if module in sys.modules else __import__(module, fromlist=[""]).__all__
                )
                assert name in public, f"{module}.{name} is not public"
            else:
                assert top in sys.stdlib_module_names | OTHERS

    def test_nothing_private_is_reached_and_no_path_is_absolute(self, path):
        for cell in read(path).cells:
            assert not re.search(r"\._[a-z]|__\w+__", cell.source)
            assert not re.search(r"(?<![\w.:/<])/(home|root|work|tmp|usr|var|Users)\b|[A-Z]:\\", cell.source)

    def test_it_stays_in_a_folder_of_its_own_and_fits_the_page(self, path):
        code = "\n".join(cell.source for cell in code_of(read(path)))
        assert f'Path("runs/notebooks/{path.name[:2]}")' in code
        assert max(map(len, code.splitlines())) <= 120

    def test_other_notebooks_that_it_names_exist(self, path):
        named = {n for cell in read(path).cells for n in re.findall(r"`(\d\d-[\w-]+\.ipynb)`", cell.source)}
        assert named <= {other.name for other in NOTEBOOKS}


@pytest.mark.slow
@each
def test_it_runs_and_shows_what_it_promises(path, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(amnestic.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(path)
    work = tmp_path / "work"
    work.mkdir()
    NotebookClient(
        notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    ).execute()  # an error in a cell is raised here
    shown = Counter()
    for cell in code_of(notebook):
        call, html = last_call(cell.source), html_of(cell)
        if call.startswith("show_"):
            assert html.startswith("<div"), f"{call} shows nothing"
            assert "<script" not in html
            shown["picture"] += "data:image/" in html
            shown["figure"] += "<svg" in html
            assert call not in PICTURES or "data:image/" in html, f"{call} shows no picture"
            assert call not in PICTURES or "no picture" not in html, f"{call} lacks a picture"
            assert call not in FIGURES or "<svg" in html, f"{call} shows no figure"
        assert not [o for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"], cell.source
    assert shown["picture"]
    assert shown["figure"]
    assert [p.name for p in work.iterdir()] == ["runs"]
