"""`--help` is quick: the modules of commands import nothing heavy when they are imported."""

import subprocess
import sys
from pathlib import Path

import mergekit_tokenadapt.cli

HEAVY = {"mergekit", "sklearn", "torch", "transformers"}
NEED_THEM = {"transplant"}
"""`transplant` shows mergekit's own flags, and mergekit imports torch."""


def test_commands_import_nothing_heavy() -> None:
    folder = Path(mergekit_tokenadapt.cli.__file__).parent
    names = sorted(file.stem for file in folder.glob("[!_]*.py") if file.stem not in NEED_THEM)
    code = "; ".join(
        [
            *(f"import mergekit_tokenadapt.cli.{name}" for name in names),
            f"import sys; print(sorted({HEAVY!r} & set(sys.modules)))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(names) > 20
    assert done.stdout.strip() == "[]"
