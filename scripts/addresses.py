"""Writes where the pack is published into pyproject.toml and the README.

    python scripts/addresses.py OWNER/REPOSITORY PUBLISHER     after both exist
    python scripts/addresses.py --nowhere                      the README names no address

pyproject.toml is where these addresses stand; the README's lines to install by are made of them.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- scripts/addresses.py: where it is published -->\n"
END = "<!-- end of addresses -->\n"
LINES = """
Or in ComfyUI Manager: *{name}*. Or by git, and restart:

```
cd ComfyUI/custom_nodes
git clone https://github.com/{repository}
```

"""


def pyproject(text: str, repository: str, publisher: str) -> str:
    """The file with other addresses; the pictures are those of the repository's main branch."""
    found = re.search(r'^Repository = "https://github\.com/([^"]+)"$', text, re.MULTILINE)
    text = text.replace(f"github.com/{found[1]}", f"github.com/{repository}")
    text = text.replace(f"githubusercontent.com/{found[1]}", f"githubusercontent.com/{repository}")
    return re.sub(r'^PublisherId = ".*"$', f'PublisherId = "{publisher}"', text, flags=re.MULTILINE)


def readme(text: str, repository: str, name: str) -> str:
    """With the lines to install by, or without where `repository` is empty."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = LINES.format(name=name, repository=repository) if repository else ""
    return before + BEGIN + lines + END + after


def main(arguments: list[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", nargs="?", help="OWNER/REPOSITORY on GitHub")
    parser.add_argument("publisher", nargs="?", help="the id of the registry's publisher")
    parser.add_argument("--nowhere", action="store_true", help="it is not published")
    args = parser.parse_args(arguments)
    front, project = root / "README.md", root / "pyproject.toml"
    text = project.read_text("utf-8")
    name = re.search(r'^DisplayName = "(.+)"$', text, re.MULTILINE)[1]
    if args.nowhere:
        front.write_text(readme(front.read_text("utf-8"), "", name), "utf-8")
        return 0
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.repository or ""):
        parser.error(f"the repository is {args.repository!r}, expected OWNER/REPOSITORY.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", args.publisher or ""):
        parser.error(
            f"the publisher is {args.publisher!r}, expected its id of small letters, digits and -."
        )
    project.write_text(pyproject(text, args.repository, args.publisher), "utf-8")
    front.write_text(readme(front.read_text("utf-8"), args.repository, name), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
