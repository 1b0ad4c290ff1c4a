"""A page of HTML as PDF, through weasyprint where it is installed."""

import re
from typing import Any

from PIL import ImageFile

from amnestic.core.errors import InputError

_STYLE = re.compile(r"(<style[^>]*>)(.*?)(</style>)", re.DOTALL)
_GRID = re.compile(r"display:\s*(?:inline-)?grid")
PAPER = """
img { max-width: 9rem !important; height: auto !important; image-rendering: pixelated }
.generations > *, .twins > * { display: inline-block !important; width: 6.5rem; vertical-align: top }
.card { margin-bottom: 1.2rem }
.scroll, .wide { overflow: visible; font-size: 85% }
"""
NEEDS = "PDF needs weasyprint; pip install 'amnestic[pdf]', or print report.html from a browser"


def as_pdf(html: str) -> bytes:
    """A self-contained page as PDF; nothing is fetched from anywhere.

    Args:
        html: The page.

    Returns:
        The file's bytes.

    Raises:
        InputError: If weasyprint or the system library Pango is not there, or the page cannot be laid out.
    """
    page_of, sheet_of, fetch = _weasyprint()
    page = page_of(string=on_paper(html), base_url=None, url_fetcher=fetch)
    try:
        found: bytes = page.write_pdf(stylesheets=[sheet_of(string=PAPER)])
    except Exception as error:  # a layout that fails is no mistake of the user and must not lose the other exports
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"weasyprint could not lay the page out ({told}); print it from a browser") from error
    return found


def on_paper(html: str) -> str:
    """The page without grids in its style sheets: weasyprint 70 loses what a grid over several pages holds.

    Args:
        html: The page.

    Example:
        >>> on_paper("<style>p { display: grid }</style><p>display: grid</p>")
        '<style>p { display: block }</style><p>display: grid</p>'
    """
    return _STYLE.sub(lambda found: found[1] + _GRID.sub("display: block", found[2]) + found[3], html)


def _weasyprint() -> tuple[Any, Any, Any]:
    strict = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        from weasyprint import CSS, HTML
        from weasyprint.urls import URLFetcher
    except ImportError as error:
        raise InputError(NEEDS) from error
    except OSError as error:  # Pango is no Python package
        told = " ".join(str(error).split())
        raise InputError(f"weasyprint cannot load Pango ({told}); install it, or print from a browser") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = strict  # importing it makes Pillow accept damaged files, in the whole process
    return HTML, CSS, URLFetcher(allowed_protocols={"data"})
