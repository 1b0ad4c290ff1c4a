"""Builds the documentation: pages of `docs/`, pages made from the code, one navigation; into `site/`, checked.

A page that the navigation leaves out, a link that leads nowhere and anything the browser would load from elsewhere
end the build.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import command_pages
import method_pages
import yaml

ROOT = Path(__file__).parents[1]
DOCS, CONFIG, STAGED, SITE = ROOT / "docs", ROOT / "mkdocs.yml", ROOT / "build" / "docs", ROOT / "site"
LOADED = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src",
    "object": "data", "link": "href",
}  # fmt: skip
NOT_LOADED = {"canonical", "alternate", "next", "prev", "me", "author", "license"}
FOREIGN = re.compile(r"^(?:https?:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"@import[^;]*?(?:https?:)?//|url\(\s*[\"']?(?:https?:)?//", re.IGNORECASE)


def main() -> None:
    """Stage, build, check."""
    config = stage(STAGED)
    done = subprocess.run(  # noqa: S603 - our own build tool
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(config)], cwd=ROOT,
        check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit("the documentation was not built, see above")
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(config.with_name(SITE.name), SITE)
    loaded = [f"{path.relative_to(SITE)}: {address}" for path, address in foreign(SITE)]
    if loaded:
        sys.exit("these pages load something from elsewhere:\n" + "\n".join(loaded))
    print(f"{len(list(SITE.rglob('*.html')))} pages in {SITE}")


def stage(folder: Path) -> Path:
    """Write every page into one folder, and beside it the configuration with the whole navigation.

    Args:
        folder: Emptied first.

    Returns:
        Path of the configuration.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    generated = method_pages.pages() | {"commands.md": command_pages.page()}
    for name, text in generated.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config |= {"nav": navigation(config["nav"], folder), "docs_dir": folder.name, "site_dir": SITE.name}
    left_out = sorted({str(p.relative_to(folder)) for p in folder.rglob("*.md")} - set(listed(config["nav"])))
    if left_out:
        sys.exit(f"not in the navigation of {CONFIG.name}: {', '.join(left_out)}")
    written = folder.with_suffix(".yml")
    written.write_text(yaml.safe_dump(config, sort_keys=False))
    return written


def navigation(entries: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The navigation of the configuration, with what is made from the code where it says ``methods`` or ``decisions``.

    Args:
        entries: As the configuration lists them.
        folder: Where all pages lie.
    """
    made = {"methods": method_pages.navigation, "decisions": lambda: _decisions(folder)}
    found: list[dict[str, Any]] = []
    for title, content in (pair for entry in entries for pair in entry.items()):
        if isinstance(content, list):
            content = navigation(content, folder)
        found.append({title: made[content]() if isinstance(content, str) and content in made else content})
    return found


def _decisions(folder: Path) -> list[dict[str, str]]:
    found = []
    for path in sorted((folder / "adr").glob("*.md")):
        heading = path.read_text().lstrip().splitlines()[0].removeprefix("# ")
        found.append({heading: f"adr/{path.name}"})
    return found


def listed(entries: Any) -> Iterator[str]:  # noqa: ANN401 - nested lists of the configuration
    """All pages that a navigation names."""
    if isinstance(entries, str):
        yield entries
    for entry in entries if isinstance(entries, list) else entries.values() if isinstance(entries, dict) else ():
        yield from listed(entry)


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        address = given.get(LOADED.get(tag, ""), "")
        if FOREIGN.match(address) and not (tag == "link" and given.get("rel") in NOT_LOADED):
            self.found.append(address)


def foreign(site: Path) -> Iterator[tuple[Path, str]]:
    """What the pages of a folder make a browser load from elsewhere: scripts, styles, fonts, pictures."""
    for path in sorted(site.rglob("*.html")):
        parser = _Loads()
        text = path.read_text()
        parser.feed(text)
        yield from ((path, address) for address in parser.found)
        yield from ((path, found) for found in IN_STYLE.findall(text))
    for path in sorted(site.rglob("*.css")):
        yield from ((path, found) for found in IN_STYLE.findall(path.read_text()))


if __name__ == "__main__":
    main()
