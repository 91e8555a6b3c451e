"""Find the byte spans that two tokenizations of a text have in common, for losses that keep both tokenizers.

ALM (arXiv 2503.20083) and TRL's GOLD compare the likelihoods that two models give to the same piece of text. Both
tokenizations must have a token boundary at its start and at its end. The spans here are as short as possible: each
common boundary ends a span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.tokenizer.encoded_text import byte_ends
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

BATCH = 1024
"""Documents in one row group of the parquet file."""
COLUMNS = ("teacher_ids", "student_ids", "teacher_ends", "student_ends", "byte_ends")
"""Columns of token ids and span ends, in the order of the fields of `AlignedText`."""


@dataclass(frozen=True, eq=False)
class AlignedText:
    """One document, segmented by two tokenizers, and its S spans. The spans cover all tokens of both and all bytes."""

    teacher_ids: np.ndarray
    """int32 [tokens of the teacher]"""
    student_ids: np.ndarray
    """int32 [tokens of the student]"""
    teacher_ends: np.ndarray
    """int32 [S]: span s has the teacher's tokens ``teacher_ids[teacher_ends[s - 1]:teacher_ends[s]]`` (from 0 for s =
    0).
    """
    student_ends: np.ndarray
    """int32 [S]: the same for the student's tokens."""
    byte_ends: np.ndarray
    """int32 [S]: offset in the text's UTF-8 at which each span ends."""


def align(
    text: str, teacher: Sequence[int], teacher_ends: np.ndarray, student: Sequence[int], student_ends: np.ndarray
) -> AlignedText:
    """Find the spans of one document.

    Args:
        text: the document; not empty.
        teacher, student: token ids of the two tokenizations.
        teacher_ends, student_ends: int64, the byte offset in UTF-8 at which each token ends. They do not decrease, and
            the last one is the length of the text (see `byte_ends`).
    """
    # A token that ends at byte 0 is SentencePiece's space before the text. It belongs to the first span.
    common = np.intersect1d(teacher_ends, student_ends)
    common = common[common > 0]
    return AlignedText(
        np.array(teacher, dtype=np.int32),
        np.array(student, dtype=np.int32),
        np.searchsorted(teacher_ends, common, side="right").astype(np.int32),
        np.searchsorted(student_ends, common, side="right").astype(np.int32),
        common.astype(np.int32),
    )


def align_texts(texts: Sequence[str], teacher: TokenizerFiles, student: TokenizerFiles) -> Iterator[AlignedText]:
    """Segment documents with both tokenizers, without special tokens, and find the spans of each.

    Raises:
        TokenAdaptError: a tokenizer makes no token of a document.
    """
    tokenizers = [(t, t.fast_tokenizer()) for t in (teacher, student)]
    for number, text in enumerate(texts):
        segmented = [_segment(text, files, encoder, number) for files, encoder in tokenizers]
        yield align(text, *segmented[0], *segmented[1])


def _segment(text: str, files: TokenizerFiles, encoder: Tokenizer, number: int) -> tuple[list[int], np.ndarray]:
    encoding = encoder.encode(text, add_special_tokens=False)
    if not encoding.ids:
        raise TokenAdaptError(f"{files.name} makes no token of document {number}")
    return encoding.ids, byte_ends(text, encoding.ids, encoding.offsets, files.vocabulary)


def write_spans(
    file: Path, texts: Sequence[str], aligned: Iterator[AlignedText], metadata: dict[str, str]
) -> dict[str, int]:
    """Write a parquet file with one row for each document: its text, and the columns of `AlignedText`.

    Returns:
        Totals: documents, bytes, teacher_tokens, student_tokens, spans, and `equal_spans`, the spans with one token of
        each.

    Raises:
        TokenAdaptError: pyarrow is not installed or cannot be imported.
    """
    pyarrow, parquet = _pyarrow()
    fields = [("text", pyarrow.string()), *[(name, pyarrow.list_(pyarrow.int32())) for name in COLUMNS]]
    schema = pyarrow.schema(fields, metadata=metadata)
    totals = dict.fromkeys(("documents", "bytes", "teacher_tokens", "student_tokens", "spans", "equal_spans"), 0)
    with parquet.ParquetWriter(str(file), schema) as writer:
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            rows = [one for _, one in zip(part, aligned, strict=False)]
            columns = {name: [getattr(one, name) for one in rows] for name in COLUMNS}
            writer.write_table(pyarrow.table({"text": list(part), **columns}, schema=schema))
            for one in rows:
                _count(one, totals)
    return totals


def _count(one: AlignedText, totals: dict[str, int]) -> None:
    """Add the figures of one document to the totals."""
    single = (np.diff(one.teacher_ends, prepend=0) == 1) & (np.diff(one.student_ends, prepend=0) == 1)
    totals["documents"] += 1
    totals["bytes"] += int(one.byte_ends[-1])
    totals["teacher_tokens"] += len(one.teacher_ids)
    totals["student_tokens"] += len(one.student_ids)
    totals["spans"] += len(one.byte_ends)
    totals["equal_spans"] += int(single.sum())


def read_spans(file: Path) -> Iterator[tuple[str, AlignedText]]:
    """Yield the documents and spans that `write_spans` has written."""
    _, parquet = _pyarrow()
    for batch in parquet.ParquetFile(str(file)).iter_batches():
        for row in batch.to_pylist():
            yield row["text"], AlignedText(*[np.array(row[name], dtype=np.int32) for name in COLUMNS])


def _pyarrow() -> tuple[Any, Any]:
    with importing("pyarrow", extra="align", wanted_by="a parquet file"):
        import pyarrow
        from pyarrow import parquet
    return pyarrow, parquet
