"""Execution of notebooks without Jupyter, cell by cell.

Command: python -m tests.docs.notebook [NAME ...]    (executes docs/notebooks/NAME.ipynb and stores its outputs in it)
"""

import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
#: Of the stored figures.
DPI = 72


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(cell: dict[str, Any], names: dict[str, Any]) -> list[dict[str, Any]]:
    """Execute a code cell and return what it printed and drew, in the form in which notebooks store it."""
    import matplotlib.pyplot as plt

    printed, outputs = io.StringIO(), []
    with contextlib.redirect_stdout(printed):
        exec("".join(cell["source"]), names)
    if text := printed.getvalue():
        lines = text.splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    for number in plt.get_fignums():
        content = io.BytesIO()
        figure = plt.figure(number)
        figure.savefig(content, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        image = base64.b64encode(content.getvalue()).decode()
        data = {"image/png": image, "text/plain": ["<Figure>"]}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    plt.close("all")
    return outputs


def main() -> None:
    os.environ["MPLBACKEND"] = "Agg"
    os.chdir(FOLDER)
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        notebook, names = read(name), {}
        for count, cell in enumerate(code_cells(notebook), 1):
            cell.update(execution_count=count, outputs=execute(cell, names))
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        Path(f"{name}.ipynb").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
