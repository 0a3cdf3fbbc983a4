"""Pages and pictures as files. Owns: which files a result becomes, by its kind. Does not: draw or compute."""

import json
from pathlib import Path
from types import ModuleType

from benchmarks.outcomes import files, run_page, sweep_page, sweeps


def write(path: Path, folder: Path, pictures: ModuleType) -> list[Path]:
    """The page, and a PNG of each picture, of a JSON file of runs or of a sweep; returns what was written.

    Raises: ValueError naming the file where it is neither.
    """
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("kind")
    except (ValueError, AttributeError):
        kind = None
    if kind not in (files.KIND, sweeps.KIND):
        raise ValueError(f"{path} holds neither runs nor a sweep; name a file of `simulate`, `serve` or `sweep`")
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{path.stem}.html"
    if kind == files.KIND:
        results = files.read(path)
        text, drawn = run_page.page(results, pictures), run_page.drawn(results, pictures)
    else:
        sweep = sweeps.read(path)
        text, drawn = sweep_page.page(sweep, pictures), sweep_page.drawn(sweep, pictures)
    page.write_text(text, encoding="utf-8")
    written = [page]
    for one in drawn:
        written.append(folder / f"{path.stem}-{one.name}.png")
        pictures.save(one.figure, written[-1])
    return written
