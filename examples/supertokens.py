"""Three vocabularies made from text that is at hand, and a model on one of them.

    python -m examples.supertokens domain       # code: Python's own standard library
    python -m examples.supertokens language     # Japanese: manual pages and help out of Debian packages (apt-get)
    python -m examples.supertokens characters   # for text correction: Python's own documentation

Everything is put below ./demo, and every step is an ordinary command, which is printed.
"""

from __future__ import annotations

import pydoc_data.topics
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from examples.samples.debian_texts import corpus
from examples.samples.models import smollm2

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
BASE = "demo/SmolLM2-135M-Instruct"


def run(*arguments: str) -> None:
    """Run a command of the package, as a user would, from the project's folder."""
    command = shutil.which("mergekit-tokenadapt", path=str(Path(sys.executable).parent))
    if command is None:
        sys.exit("mergekit-tokenadapt is not installed beside this Python")
    print("$ mergekit-tokenadapt", shlex.join(arguments), flush=True)
    subprocess.run([command, *arguments], cwd=ROOT, check=True)


def domain() -> None:
    """Code, in a vocabulary of the same size; and the model on it."""
    out, text = "demo/SmolLM2-domain", code()
    common = ("--text", str(text / "train"), "--add", "4000", "--drop", "--force")
    run("supertokens", "extend", BASE, out, *common, "--onto", BASE, "demo/SmolLM2-on-code", "--method", "hybrid")
    run("supertokens", "report", out, "--against", BASE, "--text", f"held-out={text / 'held-out'}", "--builtin", "code")


def code() -> Path:
    """The standard library's packages, every tenth one held out."""
    folder = DEMO / "texts" / "code"
    library = Path(sysconfig.get_path("stdlib"))
    for number, file in enumerate(sorted(library.glob("*.py")) + sorted(library.glob("*/*.py"))):
        if "packages" not in file.parent.name:
            target = folder / ("held-out" if number % 10 == 0 else "train") / f"{file.parent.name}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return folder


def language() -> None:
    """Japanese, which SmolLM2 spells in single bytes: parity before and after is in the report."""
    train, _, _ = corpus("japanese")
    out = "demo/SmolLM2-language"
    run("supertokens", "extend", BASE, out, "--text", str(train), "--add", "8000", "--force")
    run("supertokens", "report", out, "--against", BASE, "--builtin", "ja", "--builtin", "en")


def characters() -> None:
    """Tokens of at most three characters: a typing error changes one token, not all that follow."""
    text, out = DEMO / "texts" / "python-documentation.txt", "demo/SmolLM2-characters"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text("\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    sizes = ("--vocab-size", "4096", "--max-characters", "3", "--max-words", "1")
    run("supertokens", "train", out, "--text", str(text), *sizes, "--like", BASE, "--force")
    run("supertokens", "report", out, "--against", BASE, "--builtin", "prose")
    from tokenizers import Tokenizer

    for name in (BASE, out):
        tokenizer = Tokenizer.from_file(str(ROOT / name / "tokenizer.json"))
        for sentence in (" a reference manual", " a refrence manual"):
            print(f"{name:28}", tokenizer.encode(sentence, add_special_tokens=False).tokens)


VARIANTS: dict[str, Callable[[], None]] = {"domain": domain, "language": language, "characters": characters}


def main() -> None:
    """Fetch the base model, and make the variant that is asked for."""
    if len(sys.argv) != 2 or sys.argv[1] not in VARIANTS:
        sys.exit(f"usage: python -m examples.supertokens {'|'.join(VARIANTS)}")
    smollm2()
    VARIANTS[sys.argv[1]]()


if __name__ == "__main__":
    main()
