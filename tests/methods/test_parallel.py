"""The method `parallel` against slow, plain versions of its counts, and on bad texts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers_zoo import make_transfer, with_method

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.output.manifest import contents_hash
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.transfer.transfer import Transfer

Row = dict[int, float]


def plain_row(counts: Row, pieces: list[int], *, prior: float = 1.0, least: float = 0.01) -> Row:
    """The weights of one token, by the equation in the docstring of the method."""
    weights = defaultdict(float, counts)
    for piece in pieces:
        weights[piece] += prior / len(pieces)
    total = sum(weights.values())
    shares = {i: w / total for i, w in weights.items()}
    top = max(shares.values())
    kept = {i: w for i, w in shares.items() if w >= least or w == top}
    return {i: w / sum(kept.values()) for i, w in kept.items()}


def owners(text: str, tokenizer: TokenizerFiles) -> list[int]:
    """For each byte of a text, the number of its token. Both tokenizers here write every byte in one token."""
    found = []
    encoding = tokenizer.fast_tokenizer().encode(text, add_special_tokens=False)
    for n, i in enumerate(encoding.ids):
        content = tokenizer.vocabulary.by_id[i].bytes
        assert content is not None
        found += [n] * len(content)
    assert len(found) == len(text.encode())
    return found


def plain_counts(text: str, transfer: Transfer) -> dict[int, Row]:
    """Byte for byte: which part of each new token is which old token."""
    counts: dict[int, Row] = defaultdict(lambda: defaultdict(float))
    old_ids, new_ids = (
        t.fast_tokenizer().encode(text, add_special_tokens=False).ids for t in (transfer.base, transfer.target)
    )
    at_old, at_new = owners(text, transfer.base), owners(text, transfer.target)
    for old, new in zip(at_old, at_new, strict=True):
        counts[new_ids[new]][old_ids[old]] += 1 / at_new.count(new)
    return counts


Word = tuple[int, ...]


def plain_words(line: str, tokenizer: TokenizerFiles) -> list[Word]:
    """Tokens up to the next one that begins with a space are a word."""
    words: list[list[int]] = []
    for i in tokenizer.fast_tokenizer().encode(line.strip(), add_special_tokens=False).ids:
        content = tokenizer.vocabulary.by_id[i].bytes or b""
        if not words or content[:1] == b" ":
            words.append([])
        words[-1].append(i)
    return [tuple(word) for word in words]


def plain_shares(old: Word, new: Word) -> dict[tuple[int, int], float]:
    """TransTokenizer's two halves: all to all; and in order, both repeated to the same length."""
    shares: dict[tuple[int, int], float] = defaultdict(float)
    for n in new:
        for o in old:
            shares[n, o] += 0.5 / len(old)
    length = math.lcm(len(old), len(new))
    for place in range(length):
        n, o = new[place * len(new) // length], old[place * len(old) // length]
        shares[n, o] += 0.5 * len(new) / length
    return shares


def plain_model_1(pairs: list[tuple[list[Word], list[Word]]], iterations: int) -> dict[tuple[Word, Word | None], float]:
    """IBM model 1, p(old | new), with the empty word None among the new ones; the start is uniform.

    As in nltk, the occurrences of an old word in a line count 1 together.
    """
    olds = {o for old, _ in pairs for o in old}
    table: dict[tuple[Word, Word | None], float] = defaultdict(lambda: 1 / len(olds))
    for _ in range(iterations):
        count: dict[tuple[Word, Word | None], float] = defaultdict(float)
        total: dict[Word | None, float] = defaultdict(float)
        for old, new in pairs:
            for o in old:
                normaliser = old.count(o) * sum(table[o, n] for n in (None, *new))
                for n in (None, *new):
                    count[o, n] += table[o, n] / normaliser
                    total[n] += table[o, n] / normaliser
        table = defaultdict(float, {(o, n): c / total[n] for (o, n), c in count.items()})
    return table


def check(transfer: Transfer, counts: Mapping[int, Row], options: Mapping[str, Any]) -> int:
    """Compare every row with the plain one; returns how many rows the counts have changed."""
    made = find_method("parallel", options).weigh(transfer)
    usable = set(transfer.candidate_ids.tolist())
    changed = 0
    for n, token in enumerate(transfer.new_tokens):
        pieces = transfer.pieces[n].tolist()
        seen = {o: c for o, c in counts.get(token.id, {}).items() if o in usable and c > 0}
        if pieces or seen:
            expected = plain_row(seen, pieces)
            assert dict(made.row(n)) == pytest.approx(expected, abs=1e-5), token
            changed += expected != pytest.approx(plain_row({}, pieces), abs=1e-5)
    return changed


def text_of(transfer: Transfer) -> str:
    """A text that shows new tokens, ten in a line."""
    words = [t.bytes.decode("utf-8", errors="ignore") for t in transfer.new_tokens if t.bytes]
    words = [word for word in words if word.strip() and "\n" not in word][:60]
    return "".join(" ".join(words[n : n + 10]) + "\n" for n in range(0, len(words), 5))


@pytest.fixture
def transfer(zoo: Mapping[str, TokenizerFiles]) -> Transfer:
    return make_transfer(zoo["byte-level"], zoo["gemma-style"])


def test_one_text_counts_common_bytes(transfer: Transfer, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    text = text_of(transfer)
    file.write_text(text, encoding="utf-8")
    assert check(transfer, plain_counts(text, transfer), {"text": str(file)}) > 3


def test_two_texts_are_aligned_by_ibm_model_1(transfer: Transfer, tmp_path: Path) -> None:
    files = {"base_text": tmp_path / "old.txt", "target_text": tmp_path / "new.txt"}
    text = text_of(transfer) * 3
    other = "".join(" ".join(reversed(line.split())) + "\n" for line in text.splitlines())
    files["base_text"].write_text(other, encoding="utf-8")
    files["target_text"].write_text(text, encoding="utf-8")
    sides = [
        [plain_words(line, tokenizer) for line in content.splitlines()]
        for tokenizer, content in ((transfer.base, other), (transfer.target, text))
    ]
    pairs = list(zip(*sides, strict=True))
    table = plain_model_1(pairs, 5)
    occurrences = [word for _, new in pairs for word in new]
    counts: dict[int, Row] = defaultdict(lambda: defaultdict(float))
    left_out = 0
    for (old, new), probability in table.items():
        count = probability * occurrences.count(new) if new else 0
        if new and count >= 1:
            for (n, o), share in plain_shares(old, new).items():
                counts[n][o] += count * share
        left_out += 0 < count < 1
    assert left_out
    assert any(len(word) > 1 for word in occurrences)
    options = {option: str(file) for option, file in files.items()} | {"least_count": 1}
    assert check(transfer, counts, options) > 3


def test_tokens_that_the_text_does_not_show_are_means_of_their_pieces(transfer: Transfer, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(" ", encoding="utf-8")
    made = find_method("parallel", {"text": str(file)}).weigh(transfer)
    mean = find_method("mean", {}).weigh(transfer)
    assert [made.row(n) for n in range(len(made))] == [mean.row(n) for n in range(len(mean))]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a\nb\n", "a\n", r"old has 2 lines, and .*new has 1"),
        ("", "a\n", "base_text: .*old is empty"),
        ("a\n", "\n\n", "target_text: .*new is empty"),
        ("a\n", b"a\nb\xff", "target_text: .*new, line 2, is not UTF-8"),
        ("a\n", None, "target_text: .*new cannot be read: No such file"),
        ("a\n", "b\n", "no pair of words occurs 10 times"),
        ("\na\n", "a\n\n", "no two lines of 1 to 200 words"),
    ],
)
def test_bad_texts_are_refused_in_one_line(
    transfer: Transfer, tmp_path: Path, old: str, new: str | bytes | None, message: str
) -> None:
    for name, content in (("old", old), ("new", new)):
        if content is not None:
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    method = find_method("parallel", {"base_text": str(tmp_path / "old"), "target_text": str(tmp_path / "new")})
    with pytest.raises(TokenAdaptError, match=message) as error:
        method.weigh(transfer)
    assert "\n" not in str(error.value)


def test_a_missing_text_is_refused_before_the_plan_is_made(transfer: Transfer) -> None:
    with pytest.raises(TokenAdaptError, match="text: there is no file or folder 'no/such'"):
        with_method(transfer, "parallel", text="no/such").check()


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(transfer: Transfer, tmp_path: Path) -> None:
    text, made = text_of(transfer) * 3, []
    for name, content in (("plain", text), ("marked", "\ufeff" + text.replace("\n", "\r\n"))):
        file = tmp_path / name
        file.write_bytes(content.encode("utf-8"))
        options = {"base_text": str(file), "target_text": str(file), "least_count": 1}
        made.append(find_method("parallel", options).weigh(transfer))
    assert made[0].weights.tolist() == made[1].weights.tolist()
    assert made[0].ids.tolist() == made[1].ids.tolist()


@pytest.mark.parametrize("options", [{}, {"base_text": "a"}, {"text": "a", "base_text": "b", "target_text": "c"}])
def test_the_options_must_name_one_text_or_two(options: dict[str, str]) -> None:
    with pytest.raises(TokenAdaptError, match="it needs either text, or both base_text and target_text"):
        find_method("parallel", options)


def test_the_plan_is_the_same_whatever_the_order_of_ids(transfer: Transfer, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text_of(transfer), encoding="utf-8")
    rows = [with_method(transfer, "parallel", text=str(file)).make_plan().composition for _ in range(2)]
    assert rows[0].weights.tolist() == rows[1].weights.tolist()


def test_a_folder_has_a_hash_that_names_and_contents_change(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = contents_hash(str(tmp_path))
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    second = contents_hash(str(tmp_path))
    (tmp_path / "b.txt").write_text("two")
    assert len({first, second, contents_hash(str(tmp_path))}) == 3
