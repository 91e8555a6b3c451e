"""A short healing of a tiny model."""

from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.run import heal
from mergekit_tokenadapt.texts import read_text

QUICK = {
    "passages_per_step": 4,
    "passage_bytes": 400,
    "rank": 4,
    "rate": 0.012,
    "row_rate": 0.025,
    "looks": 3,
    "steps": 24,
    "probe_bytes": 40,
}


def healed(pair, out, text_file, **options):
    _, moved = pair
    return heal(
        str(moved), str(out), [read_text(f"lines={text_file}")], HealOptions(**{**QUICK, **options}), quiet=True
    )
