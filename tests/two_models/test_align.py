"""`align`: common spans of two tokenizations, nearest tokens, and losses that use them."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_zoo import CORPUS, PAIRS
from transformers import AutoModelForCausalLM

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.encoded_text import byte_ends
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind
from mergekit_tokenadapt.two_models.align import align, align_texts, read_spans, write_spans
from mergekit_tokenadapt.two_models.aligned_files import read_nearest
from mergekit_tokenadapt.two_models.nearest_tokens import NearestTokens, nearest_tokens
from mergekit_tokenadapt.two_models.reference_losses import alm_loss, carry_over, span_log_probabilities

TEXTS = st.one_of(st.sampled_from(CORPUS), st.text(min_size=1, max_size=30).filter(str.strip))


def spans_byte_by_byte(teacher_ends, student_ends):
    """Look at every byte: where tokens of both end after it, a span does."""
    spans = []
    for byte in range(1, int(teacher_ends[-1]) + 1):
        if byte in teacher_ends.tolist() and byte in student_ends.tolist():
            spans.append((sum(e <= byte for e in teacher_ends), sum(e <= byte for e in student_ends), byte))
    return spans


@settings(max_examples=60)
@given(data=st.data(), text=TEXTS, pair=st.sampled_from(PAIRS))
def test_spans_cover_everything_and_end_where_both_end(zoo, data, text, pair):
    teacher, student = (zoo[family] for family in pair)
    encodings = [t.fast_tokenizer().encode(text, add_special_tokens=False) for t in (teacher, student)]
    if not all(e.ids for e in encodings):
        return
    ends = [byte_ends(text, e.ids, e.offsets, t.vocabulary) for e, t in zip(encodings, (teacher, student), strict=True)]
    (one,) = align_texts([text], teacher, student)
    found = list(zip(one.teacher_ends.tolist(), one.student_ends.tolist(), one.byte_ends.tolist(), strict=True))
    assert found == spans_byte_by_byte(*ends)
    assert found[-1] == (len(one.teacher_ids), len(one.student_ids), len(text.encode()))
    assert (np.diff(one.teacher_ends, prepend=0) > 0).all()
    assert (np.diff(one.student_ends, prepend=0) > 0).all()


def test_spans_by_hand():
    # " wal" "king" against "" (dummy space) "walk" "ing"
    one = align("walking on", [1, 2, 3], np.array([3, 7, 10]), [9, 8, 7, 6], np.array([0, 4, 7, 10]))
    assert one.teacher_ends.tolist() == [2, 3]
    assert one.student_ends.tolist() == [3, 4]
    assert one.byte_ends.tolist() == [7, 10]


def test_parquet_holds_what_was_found(zoo, tmp_path):
    pair = zoo["byte-level"], zoo["gemma-style"]
    totals = write_spans(tmp_path / "spans.parquet", CORPUS, align_texts(CORPUS, *pair), {"teacher": "a"})
    read = list(read_spans(tmp_path / "spans.parquet"))
    expected = list(align_texts(CORPUS, *pair))
    assert [text for text, _ in read] == CORPUS
    for (_, one), other in zip(read, expected, strict=True):
        for name in ("teacher_ids", "student_ids", "teacher_ends", "student_ends", "byte_ends"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    assert totals["bytes"] == sum(len(text.encode()) for text in CORPUS)
    assert totals["spans"] == sum(len(one.byte_ends) for one in expected)


def test_a_document_without_tokens_is_named(zoo):
    with pytest.raises(TokenAdaptError, match="makes no token of document 1"):
        list(align_texts(["river", " "], zoo["byte-level"], zoo["wordpiece"]))


# --- nearest tokens ----------------------------------------------------------------------------------


def levenshtein(one, other):
    """The textbook table."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@pytest.mark.parametrize("pair", [("byte-level", "wordpiece"), ("unigram", "gemma-style")], ids="->".join)
def test_nearest_tokens_against_all_pairs(zoo, pair):
    source, target = (zoo[family].vocabulary for family in pair)
    found = nearest_tokens(source, target)
    candidates = [t for t in target if t.kind is not TokenKind.SPECIAL]
    checked = 0
    for token in list(source)[::5]:
        if token.kind is TokenKind.SPECIAL:
            continue
        distance, _, _, nearest = min(
            (levenshtein(token.bytes, c.bytes), abs(len(c.bytes) - len(token.bytes)), len(c.bytes), c.id)
            for c in candidates
        )
        assert found.distances[token.id] == distance
        if distance:
            assert found.ids[token.id] == nearest
        else:
            assert target.by_id[int(found.ids[token.id])].bytes == token.bytes
        checked += distance > 0
    assert checked > 5


def test_special_tokens_meet_their_counterpart_or_nothing(zoo):
    source, target = zoo["byte-level"].vocabulary, zoo["wordpiece"].vocabulary
    found = nearest_tokens(source, target)
    assert found.ids[source.roles["pad"]] == target.roles["pad"]
    assert found.ids[source.roles["eos"]] == -1 == found.distances[source.roles["eos"]]
    own = nearest_tokens(source, source)
    assert np.array_equal(own.ids[source.ids()], source.ids())
    assert (own.distances[source.ids()] == 0).all()


# --- losses ------------------------------------------------------------------------------------------


@torch.no_grad()
def scored(folder, text, zoo_tokenizer, one, ids, ends):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    start = zoo_tokenizer.vocabulary.roles.get("bos", zoo_tokenizer.vocabulary.roles["eos"])
    inputs = torch.tensor([[start, *ids.tolist()]])
    return span_log_probabilities(model(inputs).logits[0, :-1], ids, ends)


def test_span_probabilities_add_up_to_the_text(zoo, zoo_folders, tiny_model_folder, tmp_path):
    teacher, student = zoo["byte-level"], zoo["gemma-style"]
    folder = tiny_model_folder(zoo_folders["byte-level"], tmp_path / "model")
    text = CORPUS[6]
    (one,) = align_texts([text], teacher, student)
    spans = scored(folder, text, teacher, one, one.teacher_ids, one.teacher_ends)
    tokens = scored(folder, text, teacher, one, one.teacher_ids, np.arange(1, len(one.teacher_ids) + 1))
    assert len(spans) < len(tokens)
    assert float(spans.sum()) == pytest.approx(float(tokens.sum()), rel=1e-5)
    assert alm_loss(spans, spans) == 0
    student_folder = tiny_model_folder(zoo_folders["gemma-style"], tmp_path / "student")
    other = scored(student_folder, text, student, one, one.student_ids, one.student_ends)
    assert other.shape == spans.shape
    assert float(alm_loss(spans, other)) > 0


def test_the_loss_teaches_a_student_the_teachers_spans():
    torch.manual_seed(0)
    teacher = torch.tensor([-1.0, -3.0, -0.2, -7.0])
    raw = torch.randn(4, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for _ in range(400):
        loss = alm_loss(teacher, torch.nn.functional.logsigmoid(raw) * 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.nn.functional.logsigmoid(raw).mul(5).tolist() == pytest.approx(teacher.tolist(), abs=0.05)


def test_carried_distributions():
    nearest = NearestTokens(np.array([2, 0, 2, -1]), np.array([0, 1, 3, -1]))
    carried = carry_over(torch.tensor([[0.2, 0.2, 0.1, 0.5]]), nearest, 4)
    assert carried.tolist()[0] == pytest.approx([0.4, 0, 0.6, 0])


def test_align_command(tmp_path, zoo_folders, zoo):
    (tmp_path / "text.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    pair = zoo_folders["byte-level"], zoo_folders["wordpiece"]
    arguments = ["align", *map(str, pair), f"corpus={tmp_path / 'text.txt'}", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "align.json").read_text())
    (read,) = read_spans(tmp_path / "out" / "spans.parquet")
    assert len(read[1].byte_ends) == report["spans"]["spans"]
    nearest = read_nearest(tmp_path / "out" / "nearest_tokens.safetensors")
    again = nearest_tokens(zoo["wordpiece"].vocabulary, zoo["byte-level"].vocabulary)
    assert np.array_equal(nearest["student_to_teacher"].ids, again.ids)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "exists already" in result.output
