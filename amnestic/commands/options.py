"""Options that several commands share, and the panels of help in which options stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.completion import descriptors, devices

PANELS: Mapping[str, frozenset[str]] = {
    "Model": frozenset(
        "model model-config lora revision variant dtype device batch-size allow-pickle".split()
    ),
    "Sampling": frozenset("seeds scheduler num-inference-steps guidance-scale height width".split()),
    "Which works": frozenset("rung part limit controls works base round-works leave-out-copies".split()),
    "Method": frozenset(
        "method option attack attack-option like conceal early-stop radii random surrogates-from surrogates "
        "surrogate-below retain n-retain localizer prune-with analyze sets set-size transfer-seeds".split()
    ),
    "Judging": frozenset(
        "references descriptor sscd-weights preprocessing allow-torchscript threshold clip clip-pretrained "
        "max-leak-rate before twin original real-images".split()
    ),
    "Limits": frozenset(
        "max-bytes max-pixels connect-timeout read-timeout total-timeout redirects retries longest-wait".split()
    ),
    "Output": frozenset("keep work json tsne show-originals".split()),
}  # fmt: skip

Audited = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a finished audit.")]
ModelNow = Annotated[str | None, typer.Option("--model", help="Where the audited model lies now.")]
Edited = Annotated[Path, typer.Option("--out", help="Folder of the new model; must be empty.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="A setting of the method; repeatable.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...", autocompletion=devices)]
Rung = Annotated[int | None, typer.Option(help="Only works on this rung of the ladder.")]
Part = Annotated[str | None, typer.Option(metavar="I/N", help="Such as 1/2: every second work.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many works.")]
AllowPickle = Annotated[bool, typer.Option(help="Load pickled weights, which can run code.")]
References = Annotated[Path, typer.Option(help="Folder of the originals that the audit's prompts name.")]
Judge = Annotated[
    str, typer.Option(help="What judged the audit: auto, sscd, sscd-onnx ...", autocompletion=descriptors)
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ShowOriginals = Annotated[
    bool, typer.Option("--show-originals", help="Pictures in the report as they are; it then copies works.")
]
