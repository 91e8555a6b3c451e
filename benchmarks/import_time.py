"""Does the plugin slow down programs that do not use it? Import times with it switched on and off.

    python -m benchmarks.import_time

pydantic loads the plugin in every program that has it installed. Prints the median of fresh processes,
side by side, on and off in turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

REPEATS = 15
PROGRAMS = {
    "pydantic, one model": "import pydantic\nclass A(pydantic.BaseModel): x: int = 1\nA()",
    "mergekit.config": "import mergekit.config",
    "mergekit_tokenadapt": "import mergekit_tokenadapt",
}


def seconds(program: str, *, plugin: bool) -> float:
    """Wall time of a fresh process."""
    environment = dict(os.environ)
    if not plugin:
        environment["PYDANTIC_DISABLE_PLUGINS"] = "mergekit-tokenadapt"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print a line per program."""
    print(f"{'':24}{'without':>10}{'with':>10}{'ratio':>8}")
    for name, program in PROGRAMS.items():
        seconds(program, plugin=True)  # warms the disk cache
        pairs = [(seconds(program, plugin=False), seconds(program, plugin=True)) for _ in range(REPEATS)]
        without, with_plugin = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"{name:24}{without:9.3f}s{with_plugin:9.3f}s{with_plugin / without:8.3f}")


if __name__ == "__main__":
    main()
