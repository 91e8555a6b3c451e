"""The distribution over new tokens that the base model implies at each position."""

import numpy as np
import pytest
import torch
from calibration_lines import LINES, encode
from tokenizers_zoo import plain_definition

from mergekit_tokenadapt.correction.targets import LIKELIEST, SMOOTHING, TargetMaker
from mergekit_tokenadapt.tokenizer.alignment import Encoded, standing_at
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.transfer.matching import match


def plain_targets(old, new, states, rows, base, target, mapping, segmenter, pairs):
    """The targets of a passage by dictionaries and loops."""
    content = {t.id: t.bytes for t in base if t.kind.value != "special" and t.bytes and t.id < len(rows)}
    special_copies = {}
    for row, source in enumerate(mapping.sources.tolist()):
        if source >= 0 and base.by_id[source].kind.value == "special":
            special_copies.setdefault(source, row)
            if row == target.roles.get("eos"):
                special_copies[source] = row
    counts = {i: {} for i in range(len(rows))}
    for before, after in pairs:
        begins = {int(s): n for n, s in enumerate(before.starts) if before.ends[n] > s}
        for n, start in enumerate(after.starts):
            if after.ends[n] > start and int(start) in begins:
                of = counts[int(before.ids[begins[int(start)]])]
                of[int(after.ids[n])] = of.get(int(after.ids[n]), 0) + 1

    def first(piece):
        ids = segmenter.segment([piece])[0]
        return int(ids[0]) if len(ids) else None

    result = []
    for n, start in enumerate(new.starts):
        wanted = {}

        def add(token, probability, wanted=wanted):
            wanted[token] = wanted.get(token, 0) + probability

        place = next((k for k in range(len(old.ids)) if old.starts[k] <= start < old.ends[k]), None)
        if place is not None and new.ends[n] > start:
            logits = rows @ states[place]
            probabilities = logits.softmax(0)
            passed = int(start - old.starts[place])
            if passed == 0:
                for i in probabilities.topk(min(LIKELIEST, len(rows))).indices.tolist():
                    shares = dict(counts[i])
                    plain = first(content[i]) if i in content else special_copies.get(i)
                    if plain is not None:
                        shares[plain] = shares.get(plain, 0) + SMOOTHING
                    if i == old.ids[place]:
                        shares = {int(new.ids[n]): 1}
                    for token, count in shares.items():
                        add(token, float(probabilities[i]) * count / sum(shares.values()))
            else:
                already = content[int(old.ids[place])][:passed]
                fitting = [i for i, c in content.items() if c.startswith(already) and len(c) > passed]
                total = float(probabilities[fitting].sum())
                for i in fitting if total >= 1e-3 else ():
                    token = int(new.ids[n]) if i == old.ids[place] else first(content[i][passed:])
                    if token is not None:
                        add(token, float(probabilities[i]) / total)
        kept = {token: p for token, p in wanted.items() if p >= 1e-4}
        result.append({token: p / sum(kept.values()) for token, p in kept.items()})
    return result


@pytest.mark.parametrize(
    ("old", "new"), [("byte-level", "gemma-style"), ("sentencepiece-bpe", "byte-level"), ("byte-level", "unigram")]
)
def test_targets_are_those_of_plain_loops(zoo, old, new):
    base, target = zoo[old].vocabulary, zoo[new].vocabulary
    pairs = [(encode(line, zoo[old]), encode(line, zoo[new])) for line in LINES]
    mapping, segmenter = match(base, target), Segmenter(zoo[new].definition, target)
    maker = TargetMaker(base, base.num_ids, target, mapping, segmenter, pairs)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((base.num_ids, 8), generator=generator)
    some_inside = 0
    for before, after in pairs:
        states = torch.randn((len(before.ids), 8), generator=generator)
        made = maker.make(before, after, states, rows)
        expected = plain_targets(before, after, states, rows, base, target, mapping, segmenter, pairs)
        some_inside += int((standing_at(before, after)[1] > 0).sum())
        for n, wanted in enumerate(expected):
            entries = slice(int(made.indptr[n]), int(made.indptr[n + 1]))
            found = dict(zip(made.ids[entries].tolist(), made.weights[entries].tolist(), strict=True))
            # At the limit of what is negligible, rounding may decide.
            assert {t for t, p in found.items() if p > 2e-4} <= wanted.keys()
            assert {t for t, p in wanted.items() if p > 2e-4} <= found.keys()
            for token in wanted.keys() & found.keys():
                assert found[token] == pytest.approx(wanted[token], rel=2e-2, abs=2e-4)
    assert some_inside > 5


def test_with_the_same_tokenizer_the_target_is_the_base_models_distribution(zoo):
    tokenizer = zoo["byte-level"]
    vocabulary = tokenizer.vocabulary
    passage = encode("the river runs", tokenizer)
    mapping = match(vocabulary, vocabulary)
    segmenter = Segmenter(tokenizer.definition, vocabulary)
    maker = TargetMaker(vocabulary, vocabulary.num_ids, vocabulary, mapping, segmenter, [(passage, passage)])
    rows = torch.randn((vocabulary.num_ids, 8), generator=torch.Generator().manual_seed(1)) * 3
    states = torch.randn((len(passage.ids), 8), generator=torch.Generator().manual_seed(2))
    made = maker.make(passage, passage, states, rows)
    for n, probabilities in enumerate((states @ rows.T).softmax(dim=1)):
        top = probabilities.topk(5)
        entries = slice(int(made.indptr[n]), int(made.indptr[n + 1]))
        found = dict(zip(made.ids[entries].tolist(), made.weights[entries].tolist(), strict=True))
        for token, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True):
            # Tokens that the tokenizer segments further when alone, and what is outside the likeliest, may differ.
            if segmenter.segment([vocabulary.by_id[token].bytes])[0].tolist() == [token]:
                assert found[token] == pytest.approx(probability, abs=0.02)


def test_after_the_indentation_the_word_stands_for_the_word_with_its_space(load):
    """`` def`` was one token; now the space is one of its own, and what follows it is ``def``."""
    spaced = plain_definition(
        ["▁def", "▁if", "▁", "d", "e", "f", "i"],
        decoder={"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    )
    split = plain_definition(["▁", "def", "if", "d", "e", "f", "i"], decoder=spaced["decoder"])
    for definition in (spaced, split):
        definition["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    merges = {"▁def": ["de", "def", "▁def"], "def": ["de", "def"]}
    old, new = load(spaced), load(split)
    before = Encoded(np.array([0]), np.array([4]))
    after = Encoded(np.array([0, 1]), np.array([1, 4]))
    base, target = old.vocabulary, new.vocabulary
    maker = TargetMaker(base, 7, target, match(base, target), Segmenter(new.definition, target), [(before, after)])
    rows = torch.eye(7)
    states = torch.tensor([[3.0, 2.0, -20, -20, -20, -20, -20]])
    made = maker.make(before, after, states, rows)
    entries = slice(int(made.indptr[1]), int(made.indptr[2]))
    found = dict(zip(made.ids[entries].tolist(), made.weights[entries].tolist(), strict=True))
    share = torch.tensor([3.0, 2.0]).softmax(0)
    # Without merges `if` is segmented into letters, and its first one is meant.
    assert found == {1: pytest.approx(float(share[0])), 6: pytest.approx(float(share[1]))}
    assert merges  # documents what a trained vocabulary would hold
