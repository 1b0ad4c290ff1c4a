"""``amnestic audit``."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.exits import VERDICT_EXIT
from amnestic.commands.options import Json, ShowOriginals
from amnestic.core.records import Keep, Sampling
from amnestic.terminal import out, print_json, print_summary, progress_bars

Model = Annotated[str, typer.Argument(help="Hub id, diffusers folder or .safetensors checkpoint.")]
OutDir = Annotated[Path, typer.Option("--out", help="Run folder; issue the same command again to continue it.")]


def audit(
    model: Model,
    prompts: Annotated[
        Path, typer.Option(help="CSV, TSV, JSONL or parquet with a column prompt; or an imagefolder with captions.")
    ],
    run: OutDir,
    references: Annotated[
        Path | None, typer.Option(help="Folder of original images; default --prompts if that is a folder.")
    ] = None,
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
    model_config: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Diffusers folder with the settings of a single checkpoint.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE_OR_REPO[:SCALE]", help="LoRA to put into the weights; repeatable."),
    ] = None,
    keep: Annotated[Keep, typer.Option(help="Latents are decoded again whenever their image is needed.")] = Keep.IMAGES,
    limit: Annotated[int | None, typer.Option(min=1, help="Smoke only: so many prompts.")] = None,
    before: Annotated[Path | None, typer.Option(help="Run of the model before an edit, to compare with.")] = None,
    twin: Annotated[Path | None, typer.Option(help="Run of a model that never saw the works.")] = None,
    real_images: Annotated[Path | None, typer.Option(help="Real images of base prompts: folder or parquet.")] = None,
    show_originals: ShowOriginals = False,
    as_json: Json = False,
) -> None:
    """Does the model replicate? Draw images, compare them with the references, write a report.

    Examples:
        amnestic audit CompVis/stable-diffusion-v1-4 --prompts prompts.csv --references originals/ --out runs/sd14
        amnestic audit edited/ --before runs/sd14 --prompts prompts.csv --references originals/ --out runs/edited
        amnestic audit MODEL --prompts prompts.csv --references originals/ --out runs/smoke --limit 3 --seeds 1
    """
    from amnestic import stages
    from amnestic.audit.request import AuditRequest, descriptor_beside, references_for

    request = AuditRequest(
        model=model, prompts=prompts, references=references_for(prompts, references), out=run, n_seeds=seeds,
        sampling=Sampling(
            scheduler=scheduler, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            height=height, width=width,
        ),
        descriptor=descriptor, sscd_weights=sscd_weights, preprocessing=preprocessing,
        allow_torchscript=allow_torchscript, threshold=threshold, clip=clip, clip_pretrained=clip_pretrained,
        max_leak_rate=max_leak_rate, revision=revision, variant=variant, dtype=dtype, device=device,
        batch_size=batch_size, allow_pickle=allow_pickle, config=model_config, lora=tuple(lora or ()), keep=keep,
        limit_prompts=limit,
        bundled=descriptor_beside(model, before), before=before, twin=twin, real_images=real_images,
        show_originals=show_originals,
    )  # fmt: skip
    with progress_bars() as show:
        summary = stages.audit(request, progress=show)
    if summary is None:
        return
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
        out.print(f"\nreport: {request.out / 'report.html'}", markup=False)
    code = VERDICT_EXIT.get(summary["verdict"], 0)
    if code:
        raise typer.Exit(code)
