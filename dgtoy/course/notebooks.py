"""Execute the course's notebooks in place, one after another, and record how long each took."""

import json
import math
import os
import pathlib
import re
import time

from ..checkpoint import write_text


def execute(folder="notebooks", out="figures", stamp=False):
    """Run every notebook of `folder` top to bottom, each in a fresh kernel; it is rewritten only if it ran to its end.

    Seconds go to OUT/notebooks.json. stamp: also write them into each notebook's "Runtime" line, for a release.
    Raises ImportError, naming the extra, without nbclient; a notebook's own error ends the run with its traceback.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError:
        raise ImportError(
            "executing notebooks needs nbclient; install the extra: pip install -e '.[notebooks]'"
        ) from None
    seconds, paths = {}, sorted(pathlib.Path(folder).glob("[0-9]*.ipynb"))
    if not paths:
        raise FileNotFoundError(f"folder is {folder}; expected notebooks named 00_... there")
    for path in paths:
        print(f"{path.stem:36s}", end="", flush=True)
        book, started = nbformat.read(path, 4), time.time()
        NotebookClient(
            book,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            extra_arguments=["--log-level=40"],
            resources={"metadata": {"path": str(folder)}},
        ).execute()
        seconds[path.stem] = round(time.time() - started, 1)
        book.metadata["language_info"] = {"name": "python"}  # not the version of whoever ran it last
        if stamp:
            _stamp(book, seconds[path.stem])
        write_text(path, nbformat.writes(book) + "\n")
        print(f"{seconds[path.stem]:6.1f} s", flush=True)
    write_text(
        pathlib.Path(out) / "notebooks.json",
        json.dumps(dict(seconds=seconds, device=f"{os.cpu_count()}-core CPU"), indent=1) + "\n",
    )


def _stamp(book, seconds):
    """Round up to 5 s and write it into the first cell where it says how long the notebook takes."""
    runtime = r"(about\s+)\S+(\s+s(?:econds)?\s+on\s+two\s+CPU\s+cores)"
    book.cells[0].source = re.sub(runtime, rf"\g<1>{5 * math.ceil(seconds / 5)}\2", book.cells[0].source)
