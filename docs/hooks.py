"""README.md becomes the home page of the site."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

README = Path(__file__).parents[1] / "README.md"


def on_files(files: Files, *, config: Any) -> Files:
    # Links in README.md start at the root of the repository, those of the site in docs/.
    text = README.read_text(encoding="utf-8")
    for opening in ("](", 'src="', 'href="'):
        text = text.replace(f"{opening}docs/", opening)
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_serve(server: Any, **_: Any) -> Any:
    server.watch(str(README))
    return server
