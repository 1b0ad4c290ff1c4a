"""Pages to render in tests, and a reader that complains about anything unbalanced in them."""

import io
import math
import re
import struct
import zlib
from html.parser import HTMLParser
from xml.etree import ElementTree

from amnestic.report.html import render
from amnestic.report.page import Evidence, Page

HOSTILE = "<script>alert(1)</script>\"'>"
VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}
NONE_SEEN = {"estimate": 0.0, "lower": 0.0, "upper": 0.116, "upper_one_sided": 0.095, "n": 30, "method": "exact"}
SOME_SEEN = {"estimate": 0.3, "lower": 0.147, "upper": 0.494, "upper_one_sided": 0.465, "n": 30, "method": "exact"}
UNKNOWN = {"estimate": None, "lower": None, "upper": None, "upper_one_sided": None, "n": 0, "method": "exact"}
LADDER = [
    {
        "rung": r,
        "works": 5,
        "mean_score": 0.2 + 0.1 * r,
        "lower": 0.1 + 0.1 * r,
        "upper": 0.3 + 0.1 * r,
        "leak_rate": rate,
    }
    for r, rate in enumerate([NONE_SEEN, 0.2, None, SOME_SEEN])
]


def png(side=4, grey=128):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + bytes([grey] * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def evidence(work="w-1", **changes):
    content = {
        "label": "VM",
        "rung": 3,
        "prompt": "The Garden of Veltho",
        "reference": png(),
        "best_score": 0.91,
        "generations": ((0, 0.4, png()), (1, 0.91, png(8))),
        "replicated": True,
        "pixel": {"ssim": 0.7, "tiled_l2": 0.1},
    }
    return Evidence(work=work, **{**content, **changes})


def summary(**changes):
    content = {
        "model": {"name": "testbed", "family": "sd1", "revision": ""},
        "protocol": {"n_seeds": 8, "sampling": {"guidance_scale": 7.5, "height": None}},
        "descriptor": {"name": "sscd-mini", "preprocessing": "native", "why": "small and calibrated"},
        "threshold": {"value": 0.62, "provenance": "calibrated on null pairs", "n_null": 5000},
        "works": {"total": 30, "replicated": 9},
        "leak_rate": SOME_SEEN,
        "controls": {"held-out": {"works": 30, "leak_rate": NONE_SEEN, "images": NONE_SEEN, "max_score": 0.41}},
        "by_label": {"VM": {"works": 18, "replicated": 6, "leak_rate": SOME_SEEN}},
        "ladder": LADDER,
        "similarity": {
            "SSCD_Orig": {"median": 0.412, "mad": 0.14, "n": 30, "unit": "prompts"},
            "SSCD_Gen": "not measured",
        },
        "references": {
            "usable": 30,
            "missing": {"file not found": 2},
            "unreadable": [{"id": "w-9", "reason": "no image"}],
        },
        "timings": {"generate": 12.5},
    }
    return {**content, **changes}


def page(**changes):
    content = {
        "title": "Audit of testbed",
        "summary": summary(),
        "evidence": (evidence(),),
        "scores": {"works": [0.2, 0.9], "held-out": [0.1, 0.15, math.nan], "null pairs": []},
        "not_measured": (("FID", "too few images"),),
        "flags": (("few works", "wide interval", "add works"),),
        "reproduce": ("amnestic audit model --prompts p.csv",),
        "provenance": {"packages": {"torch": "2.9.1"}},
    }
    return Page(**{**content, **changes})


class Reader(HTMLParser):
    """Collects tags with attributes and complains about anything unbalanced."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style"} & set(self.open):
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def words(shown):
    return Reader(render(shown)).words


def rates_row(group="all works", **changes):
    content = {
        "works": 30,
        "before": {
            "estimate": 0.8,
            "lower": 0.614,
            "upper": 0.923,
            "upper_one_sided": 0.91,
            "n": 30,
            "method": "exact",
        },
        "after": SOME_SEEN,
        "mcnemar": {"n": 30, "only_before": 16, "only_after": 1, "p_value": 0.000275},
    }
    return {"group": group, **content, **changes}


def change(estimate=-0.37, lower=-0.4, upper=-0.35, **changes):
    content = {"lower_one_sided": lower + 0.01, "upper_one_sided": upper - 0.01, "n": 30}
    return {
        "estimate": estimate,
        "lower": lower,
        "upper": upper,
        **content,
        "method": "absolute; paired bootstrap 95 % over works, 2000 resamples",
        **changes,
    }


def edited(**changes):
    """What an audit of an edited model adds to its summary."""
    sites = [
        ("up_blocks.1.attentions.0.ff.net.2", "up", 300, 1000),
        ("down_blocks.0.attentions.0.ff.net.2", "down", 0, 1000),
        ("down_blocks.1.attentions.0.ff.net.2", "down", 150, 1000),
        ("mid_block.attentions.0.ff.net.2", "mid", None, 1000),
    ]
    alignment = change(-0.013, -0.021, -0.004, method="relative; paired bootstrap 95 % over works, 2000 resamples")
    content = {
        "before": {"model": "testbed", "digest": "ab12", "run": "audit-before"},
        "after": {"model": "pruned", "digest": "cd34", "run": "audit-after"},
        "edit": {
            "method": "zero-units",
            "parameters": {},
            "located_by": "wanda-subspace",
            "located_parameters": {"sparsity": 0.01},
            "weights": 12345,
            "share": 0.0034,
            "selected": 8,
            "sites": [dict(zip(("name", "stage", "chosen", "size"), s, strict=True), kind="ffn-weight") for s in sites],
        },
        "rates": [rates_row(), rates_row("other works", mcnemar={"only_before": 3, "only_after": 0, "p_value": 0.25})],
        "changes": [
            means_row("SSCD_Orig", "works", "lower is better", change()),
            means_row("CLIP alignment", "base prompts", "higher is better", alignment),
        ],
        "distances": [
            {
                "name": "CLIP-MMD to real base images",
                "before": 0.000451,
                "after": 0.000507,
                "unit": "ViT-B-32",
                "change": {"n": 40, "estimate": 0.000056, "lower": -0.00001, "upper": 0.0001, "method": "bootstrap"},
            }
        ],
        "not_measured": [["KID", "no Inception weights"]],
    }
    return {**content, **changes}


def means_row(name, group, direction, found, before=0.811, after=0.441):
    return {
        "name": name,
        "group": group,
        "unit": "cosine, sscd-mini",
        "direction": direction,
        "before": before,
        "after": after,
        "change": found,
    }


def edited_page(**changes):
    """A page about an edited model; changes are those of its comparison."""
    return page(summary=summary(before_after=edited(**changes)))


def drawn_well(name, draw):
    """The root of a figure that is the same every time, and whose ids and references are its own."""
    svg = draw()
    assert svg == draw()
    root = ElementTree.parse(io.StringIO(svg)).getroot()
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert ids
    assert all(i.startswith(f"{name}-") for i in ids)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg)) <= set(ids)
    assert "currentColor" in svg
    assert "#000000" not in svg
    return root
