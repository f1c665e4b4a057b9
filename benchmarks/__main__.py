"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME`` runs one."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def summaries() -> dict[str, str]:
    """Name and first line of the docstring of each benchmark."""
    files = sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    return {name: text.partition("\n")[0] for name, text in texts.items()}


def main(arguments: list[str]) -> None:
    """List the benchmarks, or run one: a table for people, and as the last line its figures as JSON."""
    known = summaries()
    if not arguments:
        print("\n".join(f"{name:<12} {summary}" for name, summary in known.items()))
    elif len(arguments) > 1 or arguments[0] not in known:
        sys.exit(f"usage: python -m benchmarks [NAME]; NAME is one of {', '.join(known)}")
    else:
        print(json.dumps(importlib.import_module(f"benchmarks.{arguments[0]}").measure()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
