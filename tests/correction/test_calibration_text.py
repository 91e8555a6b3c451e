"""Output rows corrected with text: passages, alignment, targets, hidden states, the fit, and the recipe."""

import json
from dataclasses import replace
from functools import partial
from operator import add, floordiv, mul, sub
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from tokenizers_zoo import plain_definition

from mergekit_tokenadapt.correction import CalibrationText
from mergekit_tokenadapt.correction import correction as correction_module
from mergekit_tokenadapt.correction import run as run_module
from mergekit_tokenadapt.correction import states as states_module
from mergekit_tokenadapt.correction import text as text_module
from mergekit_tokenadapt.correction.correction import Positions, choose_strength, fit_change
from mergekit_tokenadapt.correction.states import Reader
from mergekit_tokenadapt.correction.targets import LIKELIEST, SMOOTHING, TargetMaker
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.documents import score_documents
from mergekit_tokenadapt.models.losses import Scorer
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.tokenizer.alignment import Encoded, standing_at
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.transfer.matching import match
from mergekit_tokenadapt.transfer.plan import TransferPlan

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LINES = [
    "the river runs past the old mill and the miller counts the stones one by one",
    "    return walking(talking) + making[3]  # the words were singing in the ring",
    "der fluss fliesst an der alten muehle vorbei und der mueller zaehlt die steine",
    "bread and water, 12 + 30 = 42; naïve café, 漢字 and an emoji 🙂\n\n",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Shards go to a cache of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MERGEKIT_TOKENADAPT_CACHE", str(folder))
    return folder


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(f"{line} {n}" for n in range(30) for line in LINES), encoding="utf-8")
    return file


def encode(text, tokenizer):
    return Encoded.of(text, tokenizer.fast_tokenizer(), tokenizer.vocabulary)


# --- passages


def test_passages_put_together_are_the_text(text_file):
    text = CalibrationText.read(str(text_file), 0)
    assert "".join(text.passages) == text_file.read_text(encoding="utf-8")
    assert len(text.passages) >= 50
    assert text.describe()["bytes"] == text_file.stat().st_size


def test_a_long_text_is_thinned_out_evenly(text_file):
    everything = CalibrationText.read(str(text_file), 0)
    some = CalibrationText.read(str(text_file), everything.describe()["bytes"] // 3)
    places = [everything.passages.index(p) for p in some.passages]
    assert places == sorted(places)
    assert places[-1] > 0.9 * len(everything.passages)
    assert some.describe()["bytes"] == pytest.approx(everything.describe()["bytes"] / 3, rel=0.15)


def test_one_passage_in_ten_is_held_out_and_the_others_are_fitted():
    text = CalibrationText("test", tuple(f"passage {n}" for n in range(40)))
    assert [n for n in range(40) if text.is_held_out(n)] == [5, 15, 25, 35]
    tokens = torch.tensor([3, 4, 5, 5, 6, 15])  # the passages of six positions
    part = {
        "states": torch.zeros(6, 2),
        "next_ids": torch.zeros(6, dtype=torch.int64),
        "passages": tokens,
        "indptr": torch.zeros(7, dtype=torch.int64),
        "ids": torch.zeros(0, dtype=torch.int32),
        "weights": torch.zeros(0),
        "base_bits": torch.tensor(0.0),
    }
    positions, _ = run_module._join([part], text)
    assert positions.is_held_out.tolist() == [False, False, True, True, False, True]


def test_the_default_sample_does_not_depend_on_the_order_of_a_folder(tmp_path, monkeypatch):
    """Python's library by name, whatever its bytes, and sums that are right."""
    (tmp_path / "b.py").write_text("b = 2\n")
    (tmp_path / "a.py").write_bytes(b"# caf\xe9\n")
    monkeypatch.setattr(text_module.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *arguments: sorted(glob(*arguments), reverse=True))
    *sources, sums = text_module._default_sample()
    assert sources == ["# caf\ufffd\n", "b = 2\n"]
    lines = sums.splitlines()
    assert len(lines) == 2000
    assert sums == "\n".join(lines) + "\n"
    for line in lines:
        a, operation, b, equals, result = line.split(" ")
        assert equals == "="
        assert {"+": add, "-": sub, "*": mul, "/": floordiv}[operation](int(a), int(b)) == int(result)


def test_jsonl_fields_and_the_default_sample(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"body": f"{line} {n}"}) + "\n" for n in range(5) for line in LINES))
    assert "river runs" in CalibrationText.read(f"{file},field=body", 0).passages[0]
    sample = CalibrationText.read("default", 50_000)
    assert sample == CalibrationText.read("default", 50_000)
    assert any("def " in p for p in sample.passages)
    assert sample.describe()["bytes"] == pytest.approx(50_000, rel=0.2)


def test_text_that_is_missing_or_too_short_is_refused(tmp_path):
    with pytest.raises(TokenAdaptError, match="calibration_text text: there is no file or folder"):
        CalibrationText.read(str(tmp_path / "nothing"), 0)
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(TokenAdaptError, match="is too short"):
        CalibrationText.read(str(tmp_path / "short.txt"), 0)


# --- alignment


@settings(max_examples=60)
@given(text=st.text(st.sampled_from("the river  \n\tdef():漢é1"), max_size=60))
@pytest.mark.parametrize(
    ("old", "new"), [("byte-level", "gemma-style"), ("sentencepiece-bpe", "byte-level"), ("gemma-style", "unigram")]
)
def test_each_new_token_starts_inside_the_old_token_that_it_is_said_to(zoo, old, new, text):
    before, after = encode(text, zoo[old]), encode(text, zoo[new])
    places, passed = standing_at(before, after)
    assert len(places) == len(passed) == len(after.ids)
    for n, (place, skipped) in enumerate(zip(places, passed, strict=True)):
        if place >= 0:
            assert before.starts[place] + skipped == after.starts[n] < before.ends[place]
        else:
            assert after.starts[n] == after.ends[n] or not (before.ends > after.starts[n]).any()


# --- targets


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
        ids = segmenter.cut([piece])[0]
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
            # Tokens that the tokenizer cuts further when alone, and what is outside the likeliest, may differ.
            if segmenter.cut([vocabulary.by_id[token].bytes])[0].tolist() == [token]:
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
    # Without merges `if` is cut into letters, and its first one is meant.
    assert found == {1: pytest.approx(float(share[0])), 6: pytest.approx(float(share[1]))}
    assert merges  # documents what a trained vocabulary would hold


# --- hidden states


@pytest.fixture
def model(tmp_path, byte_level_folder, tiny_model_folder):
    folder = tiny_model_folder(byte_level_folder, tmp_path / "model")
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def test_states_times_rows_are_logits_whatever_else_is_in_the_batch(model):
    sequences = [[5, 6, 7, 8, 9], [10], [], [11, 12]]
    with Reader(model) as reader:
        rows = reader.output_rows
        states = list(reader.read(sequences, 1, reader.input_rows))
        assert [len(s) for s in states] == [5, 1, 0, 2]
        for ids, state in zip(sequences, states, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([[1, *ids]])).logits[0, : len(ids)]
            torch.testing.assert_close(state @ rows.T, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("batch_tokens", "together"), [(8, 64), (8, 3), (1, 64), (1000, 2)])
def test_states_come_in_order_however_they_are_batched(model, batch_tokens, together, monkeypatch):
    sequences = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16, 17], [], [18], [19, 20], [21, 22, 23, 24]]
    with Reader(model) as reader:
        whole = list(reader.read(sequences, 1, reader.input_rows))
        monkeypatch.setattr(states_module, "BATCH_TOKENS", batch_tokens)
        monkeypatch.setattr(states_module, "SORTED_TOGETHER", together)
        parts = list(reader.read(sequences, 1, reader.input_rows))
    assert [len(part) for part in parts] == [len(ids) for ids in sequences]
    for part, all_at_once in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, all_at_once, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 100))
def test_batches_hold_every_sequence_once_and_no_more_than_they_may(lengths, batch_tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states_module, "BATCH_TOKENS", batch_tokens)
        batches = states_module._batches(lengths)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(1, *(lengths[n] for n in batch)) <= batch_tokens


def test_swapped_input_rows_are_used_and_put_back(model):
    own = model.get_input_embeddings().weight.detach().clone()
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))
    with Reader(model) as reader:
        plain = next(reader.read([order[:6].tolist()], int(order[9]), own))
        permuted = next(reader.read([list(range(6))], 9, own[order]))
    torch.testing.assert_close(plain, permuted)
    assert torch.equal(model.get_input_embeddings().weight, own)


def test_models_that_change_their_logits_are_refused():
    config = transformers.Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.01,
    )  # fmt: skip
    with pytest.raises(TokenAdaptError, match="changes its logits after the output matrix"):
        Reader(transformers.Gemma2ForCausalLM(config).eval())
    biased = transformers.PhiForCausalLM(
        transformers.PhiConfig(
            vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            pad_token_id=None,  # transformers 5.0 has no default
        )
    )  # fmt: skip
    with pytest.raises(TokenAdaptError, match="no bias"):
        Reader(biased.eval())


def test_scaled_logits_are_followed():
    config = transformers.GraniteConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=4.0, pad_token_id=None,
    )  # fmt: skip
    model = transformers.GraniteForCausalLM(config).eval()
    with Reader(model) as reader, torch.no_grad():
        states = next(reader.read([[5, 6]], 1, reader.input_rows))
        logits = model(torch.tensor([[1, 5]])).logits[0]
        torch.testing.assert_close(states @ reader.output_rows.T, logits, rtol=1e-3, atol=1e-5)


# --- the fit


def planted(num_positions=3000, num_rows=40, width=12, *, seed=0, opposite=False):
    """Rows that are off by a map and by shifts, and positions that tell. `opposite`: the held-out ones lie."""
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator)
    true = normal((num_rows, width))
    rows = true - true @ normal((width, width)).T * 0.1 - normal((num_rows, width)) * 0.2
    states = normal((num_positions, width))
    probabilities = (states @ true.T).softmax(dim=1)
    held_out = torch.arange(num_positions) % 10 == 5
    if opposite:
        probabilities[held_out] = (states[held_out] @ (2 * rows - true).T).softmax(dim=1)
    indptr = torch.arange(num_positions + 1) * num_rows
    targets = SparseRows(indptr, torch.arange(num_rows).repeat(num_positions), probabilities.flatten())
    next_ids = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    return rows, true, Positions(states, next_ids, targets, held_out)


def bits_of(matrix, positions):
    """Bits of the held-out positions by plain arithmetic."""
    states, chosen = positions.states_PD[positions.is_held_out], positions.next_ids[positions.is_held_out]
    losses = torch.nn.functional.cross_entropy(states @ matrix.T, chosen, reduction="sum")
    return float(losses / torch.tensor(2.0).log())


MADE = torch.ones(40, dtype=torch.int64)
"""The origins of planted rows."""


@pytest.mark.parametrize("num_copied", [0, 15, 40])
def test_the_fit_gets_closer_to_planted_rows(num_copied: int) -> None:
    rows, true, positions = planted(20_000)
    origins = (torch.arange(40) >= num_copied).long()[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    fitted = fit_change(rows, origins, positions, quiet=True)
    strength, before, after = choose_strength(fitted.held_out_bits)
    bits = partial(bits_of, positions=positions)
    corrected = fitted.change().scaled(strength).apply(rows, origins)
    assert strength > 0
    assert before == pytest.approx(bits(rows), rel=1e-4)
    assert after == pytest.approx(bits(corrected), rel=1e-4)
    assert bits(rows) - bits(corrected) > 0.5 * (bits(rows) - bits(true))


def test_the_maps_do_their_share():
    """They are what carries over to tokens that the text never shows."""
    rows, true, positions = planted(20_000)
    change = fit_change(rows, MADE, positions, quiet=True).change()
    mapped = replace(change, shifts_AD=torch.zeros_like(change.shifts_AD)).apply(rows, MADE)
    before, after, best = (bits_of(matrix, positions) for matrix in (rows, mapped, true))
    assert before - after > 0.2 * (before - best)


@pytest.mark.parametrize("max_active", [40, 39], ids=["all active", "one rests"])
def test_the_scale_of_hidden_states_does_not_matter(monkeypatch, max_active):
    """States eight times as large and rows an eighth: the same logits, so the same model."""
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", max_active)
    rows, _, positions = planted()
    plain = fit_change(rows, MADE, positions, quiet=True)
    larger = fit_change(rows / 8, MADE, replace(positions, states_PD=positions.states_PD * 8), quiet=True)
    for strength in (0, 0.5, 1):
        assert larger.held_out_bits(strength) == pytest.approx(plain.held_out_bits(strength), rel=1e-5)
    torch.testing.assert_close(larger.change().maps_ODD, plain.change().maps_ODD)
    torch.testing.assert_close(larger.change().shifts_AD, plain.change().shifts_AD / 8)


def test_what_does_not_help_is_not_done():
    rows, _, positions = planted(opposite=True)
    strength, before, after = choose_strength(fit_change(rows, MADE, positions, quiet=True).held_out_bits)
    assert strength == 0
    assert after == before


def test_rows_that_are_no_tokens_take_no_part():
    rows, _, positions = planted()
    plain = fit_change(rows, MADE, positions, quiet=True)
    padded = torch.cat([rows, torch.full((5, rows.shape[1]), 50.0)])
    origins = torch.cat([MADE, torch.full((5,), -1)])
    with_padding = fit_change(padded, origins, positions, quiet=True)
    assert plain.held_out_bits(1) == with_padding.held_out_bits(1)
    changed = with_padding.change().apply(padded, origins)
    assert torch.equal(plain.change().apply(rows, MADE), changed[:40])
    torch.testing.assert_close(changed[40:], changed[:40].mean(0).expand(5, -1))


def test_a_token_that_the_text_is_silent_about_is_not_shifted():
    """The model gives it probability, the targets do not: moving it away would be learned from nothing."""
    rows, _, positions = planted()
    silent = torch.cat([rows, rows[:2]])
    origins = torch.ones(42, dtype=torch.int64)
    change = fit_change(silent, origins, positions, quiet=True).change()
    place = {row: n for n, row in enumerate(change.ids.tolist())}
    assert set(place) == set(range(42)), "they are active, for the model's sake"
    shifts = change.shifts_AD.norm(dim=1)
    assert shifts[[place[40], place[41]]].tolist() == [0, 0]
    assert shifts[[place[n] for n in range(40)]].min() > 0


def test_trust_grows_with_the_fitted_evidence_and_not_with_the_held_out() -> None:
    from mergekit_tokenadapt.correction.correction import ENOUGH, _trust

    targets = SparseRows.from_triplets(
        torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 2]), torch.tensor([0.25, 0.75, 1.0, 1.0]), 3
    )
    trust = _trust(targets, torch.tensor([True, True, False]), 4)
    expected = [[1.25 / (1.25 + ENOUGH)], [0.75 / (0.75 + ENOUGH)], [0.0], [0.0]]
    torch.testing.assert_close(trust, torch.tensor(expected))


@pytest.mark.parametrize(("num_resting", "tolerance"), [(5, 0.02), (10, 1e-6)], ids=["a sample", "all others"])
def test_few_active_tokens_with_others_resting(
    monkeypatch: pytest.MonkeyPatch, num_resting: int, tolerance: float
) -> None:
    """With the cap on active tokens below the vocabulary, the normalisation is about right, exact where all rest."""
    rows, _, positions = planted(4000, num_rows=300)
    origins = torch.arange(300) % 2
    exact = fit_change(rows, origins, positions, quiet=True).held_out_bits(0)
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", 290)
    monkeypatch.setattr(correction_module, "RESTING", num_resting)
    some = fit_change(rows, origins, positions, quiet=True)
    assert len(some.change().ids) == 290
    assert some.held_out_bits(0) == pytest.approx(exact, rel=tolerance)
    assert some.held_out_bits(1) < some.held_out_bits(0)
    # Those that rest get the map of their origin, too.
    changed = bits_of(some.change().apply(rows, origins), positions)
    assert some.held_out_bits(1) == pytest.approx(changed, rel=tolerance)


def test_a_text_with_more_kinds_of_tokens_than_may_be_active(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the held-out part goes on with are active all the same: their loss is asked for."""
    rows, _, positions = planted(300, num_rows=60)
    judged = positions.next_ids[positions.is_held_out].unique()
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", len(judged) - 5)
    fitted = fit_change(rows, torch.zeros(60, dtype=torch.int64), positions, quiet=True)
    assert torch.equal(fitted.change().ids, judged)
    assert len(judged) < len(positions.next_ids.unique())
    assert fitted.held_out_bits(0) == pytest.approx(bits_of(rows, positions), rel=1e-6)


def test_rows_that_are_no_tokens_do_not_choose_the_active_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a padding row would win, the model's probabilities of tokens would count for nothing."""
    rows, _, positions = planted(600, num_rows=60)
    # Of the targets and of the text only ten tokens are left: for the others, what the model says has to decide.
    few = SparseRows.from_triplets(torch.arange(600), torch.arange(600) % 10, torch.ones(600), 600)
    positions = replace(positions, targets=few, next_ids=torch.arange(600) % 10)
    copied = torch.zeros(60, dtype=torch.int64)
    exact = fit_change(rows, copied, positions, quiet=True).held_out_bits(0)
    monkeypatch.setattr(correction_module, "MAX_ACTIVE", 30)
    fitted = fit_change(rows, copied, positions, quiet=True)
    assert fitted.held_out_bits(0) == pytest.approx(exact, rel=1e-6), "the others, all of one origin, rest"
    plain = fitted.change()
    mass = (positions.states_PD @ rows.T).softmax(dim=1).sum(0)
    mass[:10] = torch.inf
    assert plain.ids.tolist() == sorted(mass.topk(30).indices.tolist())
    padded = torch.cat([rows, torch.full((5, rows.shape[1]), 50.0)])
    origins = torch.cat([copied, torch.full((5,), -1)])
    assert torch.equal(fit_change(padded, origins, positions, quiet=True).change().ids, plain.ids)


# --- the recipe


def transplant(base, target, out, **adapt):
    recipe = make_recipe(str(base), str(target), {"method": "mean", **adapt})
    return run_recipe(recipe, str(out), MergeOptions(quiet=True))


def tensors_of(folder):
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(str(file)).items()}


def correction_in(folder):
    return json.loads((folder / "tokenadapt.json").read_text())["inputs"][0]["correction"]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_recipe_with_text(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file, tied):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied)
    plain = tensors_of(transplant(base, gemma_style_folder, tmp_path / "plain"))
    outs = [
        transplant(base, gemma_style_folder, tmp_path / name, calibration_text=str(text_file)) for name in ("a", "b")
    ]
    report = correction_in(outs[0])
    assert report["text"]["bytes"] == text_file.stat().st_size
    assert report["strength"] > 0
    assert report["after"] < report["before"]
    assert report["tokens"] > 1000
    corrected, again = map(tensors_of, outs)
    output = EMBEDDINGS if tied else HEAD
    assert not torch.equal(plain[output], corrected[output])
    assert all(torch.equal(plain[name], corrected[name]) for name in plain if name != output)
    assert all(torch.equal(corrected[name], again[name]) for name in corrected)
    plan = TransferPlan.load(outs[0] / "tokenadapt.plan")
    made = torch.ones(plan.num_rows, dtype=torch.bool)
    made[plan.mean_ids] = False
    for row in plan.mean_ids.tolist():
        torch.testing.assert_close(corrected[output][row], corrected[output][made].mean(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_report_says_what_the_output_scores(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file, tied
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied)
    plain = transplant(base, gemma_style_folder, tmp_path / "plain")
    out = transplant(base, gemma_style_folder, tmp_path / "out", calibration_text=str(text_file))
    text = CalibrationText.read(str(text_file), 0)
    held_out = [p for n, p in enumerate(text.passages) if text.is_held_out(n)]

    def bits_per_byte(folder):
        tokenizer = load_tokenizer(str(folder))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return sum(d.bits for d in score_documents(Scorer(model), tokenizer, held_out)) / sum(
            len(p.encode()) for p in held_out
        )

    report = correction_in(out)
    assert report["base"] == pytest.approx(bits_per_byte(base), rel=1e-3)
    assert report["before"] == pytest.approx(bits_per_byte(plain), rel=1e-3)
    assert report["after"] == pytest.approx(bits_per_byte(out), rel=1e-3)


def test_fits_are_reported_by_tensor(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    settings = {"method": "calibrated", "calibration_text": str(text_file)}
    out = transplant(base, gemma_style_folder, tmp_path / "out", **settings)
    fits = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["fits"]
    assert set(fits) == {EMBEDDINGS}


def test_correction_and_merge_fit_a_tied_matrix_once(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file, monkeypatch
):
    from mergekit_tokenadapt.transfer import row_regression

    solved = []
    solve = row_regression._Regression.solve
    monkeypatch.setattr(row_regression._Regression, "solve", lambda self: solved.append(self) or solve(self))
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=True, dtype=torch.bfloat16)
    settings = {"method": "calibrated", "untie": True, "calibration_text": str(text_file)}
    transplant(base, gemma_style_folder, tmp_path / "out", **settings)
    assert len(solved) == 1


def test_a_run_that_was_stopped_goes_on(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file, own_cache, monkeypatch
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    expected = transplant(base, gemma_style_folder, tmp_path / "expected", calibration_text=str(text_file))
    assert not list(own_cache.glob("text-*/*")), "shards of a complete run are removed"
    read: list[range] = []
    shard = run_module._Reading.shard

    def stop_at_the_third(self, places):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(places)
        return shard(self, places)

    monkeypatch.setattr(run_module._Reading, "shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        transplant(base, gemma_style_folder, tmp_path / "out", calibration_text=str(text_file))
    assert not (tmp_path / "out").exists()
    assert len(list(own_cache.glob("text-*/*.safetensors"))) == 2
    again: list[range] = []
    monkeypatch.setattr(run_module._Reading, "shard", lambda self, p: (again.append(p), shard(self, p))[1])
    out = transplant(base, gemma_style_folder, tmp_path / "out", calibration_text=str(text_file))
    assert again
    assert not {p.start for p in again} & {p.start for p in read}
    assert all(torch.equal(a, tensors_of(expected)[n]) for n, a in tensors_of(out).items())


def test_a_model_that_speaks_the_target_already_is_not_corrected(
    tmp_path, byte_level_folder, tiny_model_folder, text_file
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    out = transplant(base, base, tmp_path / "out", calibration_text=str(text_file))
    assert correction_in(out) is None
    assert torch.equal(tensors_of(out)[EMBEDDINGS], tensors_of(base)[EMBEDDINGS])


def test_two_models_of_one_merge_are_each_corrected_or_not(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file
):
    moving = tiny_model_folder(byte_level_folder, tmp_path / "moving")
    staying = tiny_model_folder(gemma_style_folder, tmp_path / "staying", seed=1)
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (moving, staying)],
        "tokenizer": {
            "source": str(gemma_style_folder),
            "adapt": {"method": "mean", "calibration_text": str(text_file)},
        },
    }
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    inputs = json.loads((out / "tokenadapt.json").read_text())["inputs"]
    assert inputs[0]["correction"]["strength"] > 0
    assert inputs[1]["correction"] is None
    alone = tensors_of(transplant(moving, gemma_style_folder, tmp_path / "alone", calibration_text=str(text_file)))
    expected = (alone[EMBEDDINGS] + tensors_of(staying)[EMBEDDINGS]) / 2
    torch.testing.assert_close(tensors_of(out)[EMBEDDINGS], expected)


def test_untie_gives_the_output_a_matrix_of_its_own(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    tied = transplant(base, gemma_style_folder, tmp_path / "tied")
    untied = transplant(base, gemma_style_folder, tmp_path / "untied", untie=True)
    tensors = tensors_of(untied)
    assert tensors.keys() == tensors_of(tied).keys() | {HEAD}
    assert torch.equal(tensors[HEAD], tensors[EMBEDDINGS])
    assert torch.equal(tensors[EMBEDDINGS], tensors_of(tied)[EMBEDDINGS])
    assert json.loads((untied / "config.json").read_text())["tie_word_embeddings"] is False
    models = []
    for folder in (tied, untied):
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"]
        assert not loading["unexpected_keys"]
        models.append(model)
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(models[0](ids).logits, models[1](ids).logits)


def test_untie_corrects_the_output_and_leaves_the_input(
    tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, text_file
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    plain = tensors_of(transplant(base, gemma_style_folder, tmp_path / "plain"))
    out = transplant(base, gemma_style_folder, tmp_path / "out", untie=True, calibration_text=str(text_file))
    tensors = tensors_of(out)
    assert torch.equal(tensors[EMBEDDINGS], plain[EMBEDDINGS])
    assert not torch.equal(tensors[HEAD], plain[EMBEDDINGS])


def test_untie_of_an_untied_model_changes_nothing(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=False)
    plain = tensors_of(transplant(base, gemma_style_folder, tmp_path / "plain"))
    untied = tensors_of(transplant(base, gemma_style_folder, tmp_path / "out", untie=True))
    assert plain.keys() == untied.keys()
    assert all(torch.equal(plain[name], untied[name]) for name in plain)
