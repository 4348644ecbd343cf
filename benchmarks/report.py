"""`rofo-bench report`: the results of all runs as one HTML page, and the same as Markdown and JSON."""

import json
from dataclasses import replace
from pathlib import Path

from rofo.benchmarks.document import to_html, to_markdown
from rofo.benchmarks.plots import plots
from rofo.benchmarks.results import load_all, to_json
from rofo.benchmarks.tables import section
from rofo.errors import OutputWriteError

_TITLE = "rofo benchmarks"


def write_report(folder: Path) -> tuple[Path, ...]:
    """Write report.html, report.md and report.json into the folder of the results.

    Raises UsageError where there are none or one cannot be read, OutputWriteError.
    """
    results = load_all(folder)
    sections = [replace(section(result), plots=plots(result)) for result in results]
    newest = max(result.about.created for result in results)
    subtitle = f"{len(results)} runs, the last one of {newest.replace('T', ' ')}"
    texts = {
        "report.html": to_html(_TITLE, subtitle, sections),
        "report.md": f"# {_TITLE}\n\n{subtitle}.\n\n{to_markdown(sections)}",
        "report.json": json.dumps([to_json(result) for result in results], indent=2) + "\n",
    }
    return tuple(_written(folder / name, text) for name, text in texts.items())


def _written(file: Path, text: str) -> Path:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputWriteError(f"{file}: {error.strerror or error}; make the folder writable") from None
    return file
