"""The documentation says what is true: commands parse, pages are complete, nothing is loaded from elsewhere."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml

from amnestic.core.registry import ROOMS, methods

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"


def script(name):
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


doc_blocks, doc_checks, doc_testbed = script("doc_blocks"), script("doc_checks"), script("doc_testbed")
method_pages = script("method_pages")
BLOCKS = [block for page in doc_blocks.pages() for block in doc_blocks.blocks(page)]
CALLS = [(b.name, words) for b in BLOCKS for line in b.lines for words in doc_blocks.calls(line)]
INLINE = [
    (str(page.relative_to(ROOT)), text)
    for page in doc_blocks.pages()
    for text in doc_blocks.INLINE.findall(page.read_text())
]
METHODS = [(family, name) for family in method_pages.FAMILIES for name in methods(family)]


def page_of(folder, text):
    path = folder / "page.md"
    path.write_text(text)
    return doc_blocks.blocks(path, root=folder)


class TestCommands:
    def test_there_are_some_in_the_readme_and_in_the_pages(self):
        pages = {name.partition(":")[0] for name, _ in CALLS}
        assert {"README.md", "docs/index.md", "docs/stable-diffusion.md", "docs/multi-gpu.md"} <= pages
        assert len(CALLS) >= 30

    @pytest.mark.parametrize(("where", "words"), CALLS, ids=[f"{n} {' '.join(w)[:40]}" for n, w in CALLS])
    def test_every_one_parses(self, where, words):
        assert doc_checks.wrong(words) == ""

    def test_commands_in_prose_exist_with_their_options(self):
        assert {(where, text): told for where, text in INLINE if (told := doc_checks.wrong_inline(text))} == {}

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("amnestic odit x", "no command odit"),
            ("amnestic audit m --prompts p --references r --out o --seed 3", "--seed"),
            ("amnestic audit m --prompts p --references r --out o --keep jpeg", "jpeg"),
            ("amnestic audit m --prompts p --references r --out o --seeds 0", "--seeds"),
            ("amnestic locate", "RUN"),
            ("amnestic locate r --method wanda-subspace -o q=0.1", "no setting q"),
            ("amnestic attack r --references o --method dorii", "dorii"),
            ("amnestic finetune r --references o --out u --attack-option stepz=1", "no setting stepz"),
            ("HF_HUB_OFFLINE=1 accelerate launch --num_processes 2 -m amnestic audit m --promts p", "--promts"),
            ("if amnestic testbed nowhere; then echo no; fi", "no command nowhere"),
        ],
    )
    def test_what_is_wrong_is_seen(self, line, told):
        (words,) = doc_blocks.calls(line)
        assert told in doc_checks.wrong(words)

    @pytest.mark.parametrize("text", ["amnestic odit RUN", "amnestic audit MODEL --seed 3", "amnestic testbed nowhere"])
    def test_what_is_wrong_in_prose_is_seen(self, text):
        assert doc_checks.wrong_inline(text)

    def test_all_calls_of_a_line_are_found(self):
        line = "X=1 amnestic status a > log.txt && python -m amnestic doctor | tee amnestic; echo amnestic list"
        assert list(doc_blocks.calls(line)) == [["status", "a"], ["doctor"]]


class TestMarkers:
    def test_each_says_how_a_block_is_run(self, tmp_path):
        text = "".join(
            f"{marker}\n\n```bash\n# a comment\namnestic status \\\n  RUN\n```\n\nprose\n\n"
            for marker in ("<!-- run: gpu -->", "<!-- run: testbed, exit 3 -->", "<!-- run: skip: it asks -->", "prose")
        )
        found = page_of(tmp_path, text)
        assert [b.how for b in found] == ["gpu", "testbed", "skip", "hub"]
        assert {b.lines for b in found} == {("amnestic status RUN",)}
        assert (found[1].codes, found[2].reason, found[0].line) == ((3,), "it asks", 4)

    @pytest.mark.parametrize(
        "marker", ["<!-- run: sometimes -->", "<!-- run: skip -->", "<!-- run: testbed, later -->"]
    )
    def test_one_that_says_nothing_is_refused(self, tmp_path, marker):
        with pytest.raises(ValueError, match=r"page\.md:4"):
            page_of(tmp_path, f"{marker}\n\n```bash\nls\n```\n")

    def test_one_is_for_the_next_block_only(self, tmp_path):
        found = page_of(tmp_path, "<!-- run: gpu -->\n```text\nno\n```\n\n```bash\nls\n```\n")
        assert [b.how for b in found] == ["hub"]

    def test_commands_inside_a_configuration_are_checked_and_not_run(self, tmp_path):
        (found,) = page_of(tmp_path, "```yaml\n- run: |\n    amnestic gate x \\\n      --fail-on y\n- run: ls\n```\n")
        assert (found.how, found.lines) == ("skip", ("amnestic gate x --fail-on y",))


class TestSubstitution:
    def test_a_block_of_the_hub_runs_on_the_testbed_with_small_settings(self):
        line = "audit CompVis/stable-diffusion-v1-4 --seeds 10 --dtype float16 --device cuda --clip ViT --out x"
        words = doc_testbed.substituted(line.split())
        assert words[1] == str(doc_testbed.testbed() / "pipeline")
        assert "float16" not in words
        last = {name: words[len(words) - words[::-1].index(name)] for name in ("--seeds", "--device")}
        assert last == {"--seeds": "2", "--device": "cpu"}

    def test_dots_stand_for_the_settings_of_the_first_audit(self):
        first = "audit M --prompts p --references r --out a --seeds 2 --guidance-scale 2".split()
        assert list(doc_testbed.shared_settings(first)) == ["--seeds", "2", "--guidance-scale", "2"]

    def test_small_settings_are_valid_themselves(self):
        begun = {
            "audit": "audit M --prompts p --references r --out o", "attack": "attack R --references r",
            "finetune": "finetune R --references r --out o", "locality": "locality R --references r",
        }  # fmt: skip
        for command, added in doc_testbed.SMALL.items():
            assert doc_checks.wrong([*begun.get(command, f"{command} R").split(), *added]) == ""
        for folder, lines in doc_testbed.BEFOREHAND.items():
            assert [doc_checks.wrong(words) for line in lines for words in doc_blocks.calls(line)] == [""] * len(
                lines
            ), folder

    def test_the_prepared_folder_holds_works_and_controls_with_their_originals(self, tmp_path):
        from amnestic.sources.prompts import read_prompts

        doc_testbed.prepare(tmp_path / "page")
        prompts = read_prompts(tmp_path / "page" / "prompts.csv")
        assert {p.label for p in prompts} == {"VM", "heldout", "base"}
        assert len({p.work for p in prompts if p.label == "VM"}) == doc_testbed.N_WORKS
        assert all((tmp_path / "page" / "originals" / p.image).is_file() for p in prompts if p.image)


class TestMethodPages:
    def test_every_file_of_a_method_has_a_page(self):
        listed = {name for _, name in METHODS}
        for room in ROOMS:
            for path in (ROOT / room.replace(".", "/")).glob("*.py"):
                assert "\n@register\n" not in path.read_text() or path.stem.replace("_", "-") in listed

    @pytest.mark.parametrize(("family", "name"), METHODS, ids=[name for _, name in METHODS])
    def test_a_page_is_complete(self, family, name):
        page = method_pages.method_page(family, name)
        kind = methods(family)[name]
        what = method_pages.told(kind.__doc__).what
        sections = dict(re.findall(r"^## (.*)\n\n((?:(?!^## ).*\n)*)", page, re.MULTILINE))
        assert what.endswith(".")
        assert method_pages.markdown(what) in page
        assert {"Settings", "Cost", "Pitfalls", "Source"} <= set(sections)
        assert all(text.strip() for text in sections.values())
        assert [s for s, _, meaning in method_pages.settings(kind, family, name) if not meaning] == []

    def test_a_default_reads_back_as_it_was(self):
        for value in (None, True, "no", 1e-5, (1, 2), "down+mid"):
            read = yaml.safe_load(method_pages.shown(value))
            assert read == (list(value) if isinstance(value, tuple) else value)

    def test_text_is_not_read_as_markup(self):
        assert method_pages.markdown("a_b <c> ``x_y | z`` *d*") == r"a\_b \<c\> ``x_y | z`` \*d\*"

    def test_settings_of_a_shared_entry_and_over_several_lines(self):
        told = method_pages.told("What.\n\nCost: much.\n\nAttributes:\n    a, b: One\n        two.\n    c: Three.\n")
        assert method_pages.entries(told.sections["Attributes"]) == {"a": "One two.", "b": "One two.", "c": "Three."}
        assert told.labelled["Cost"] == ("Cost: much.",)

    def test_every_public_measure_is_listed(self):
        page = method_pages.measures_page()
        for name in ("rate", "mcnemar", "calibrate_threshold", "excess_rate", "minimum_detectable_change"):
            assert f"| `{name}` |" in page


class TestSite:
    def test_every_page_is_in_the_navigation_and_the_other_way_round(self):
        site = script("docs_site")
        named = set(site.listed(yaml.safe_load(site.CONFIG.read_text())["nav"])) - {"methods", "decisions"}
        written = {str(p.relative_to(site.DOCS)) for p in site.DOCS.rglob("*.md") if p.parent.name != "adr"}
        assert named == written | {"commands.md"}

    def test_the_reference_names_every_command_and_option(self):
        page = script("command_pages").page()
        for words in ("audit", "testbed build", "attack", "list"):
            assert f"\n## amnestic {words}\n" in page
        for option in ("`--max-leak-rate`", "`--option`, `-o`", "`--early-stop`"):
            assert option in page

    @pytest.mark.parametrize(
        "foreign",
        [
            '<script src="https://x.org/a.js"></script>', '<link rel="stylesheet" href="//x.org/a.css">',
            '<img src="http://x.org/a.png">', "<style>@import url(https://x.org/f.css);</style>",
            "<style>p { background: url('//x.org/a.png') }</style>",
        ],
    )  # fmt: skip
    def test_what_would_be_loaded_from_elsewhere_is_seen(self, tmp_path, foreign):
        (tmp_path / "a.html").write_text(f"<p>{foreign}</p>")
        assert len(list(script("docs_site").foreign(tmp_path))) == 1

    def test_links_and_own_files_are_no_such_thing(self, tmp_path):
        (tmp_path / "a.html").write_text('<a href="https://x.org">x</a><script src="a.js"></script><img src="data:,">')
        (tmp_path / "a.css").write_text("p { background: url(data:image/svg+xml,x) }")
        assert list(script("docs_site").foreign(tmp_path)) == []

    def test_files_that_pages_link_to_exist(self):
        made = {"commands.md", "methods"}
        for page in doc_blocks.pages():
            for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
                place = (page.parent / target).resolve()
                assert place.exists() or target.split("/")[0] in made, f"{page.name}: {target}"


def test_the_readmes_python_runs(request_of, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    given = {
        '"path/to/model"': repr(request_of.model), '"prompts.csv"': repr(str(request_of.prompts)),
        '"originals"': repr(str(request_of.references)), '"runs/mine"': repr(str(request_of.out)),
        "num_inference_steps=50": "num_inference_steps=2",
    }  # fmt: skip
    for written, ours in given.items():
        assert block.count(written) == 1
        block = block.replace(written, ours)
    exec(compile(block, "README.md", "exec"), {})
    assert "'estimate'" in capsys.readouterr().out
    assert (request_of.out / "report.html").is_file()
