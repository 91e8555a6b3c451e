"""Ray datasets instead of files: the same results, byte for byte."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from click.testing import CliRunner

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.correction import CalibrationText, correct_output_rows
from mergekit_tokenadapt.correction.run import SHARD, _Reading
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.ray_corpus import RayCorpus
from mergekit_tokenadapt.texts.builtin import builtin_text
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.transfer import Transfer


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("mergekit_tokenadapt.extensions.extras.find_spec", lambda name: None)
    with pytest.raises(TokenAdaptError, match=r"pip install 'mergekit-tokenadapt\[ray\]'"):
        RayCorpus.read("ray:texts.parquet")


@pytest.mark.parametrize("more", [["--text", "README.md"], ["--max-bytes", "5"]], ids=["another text", "max-bytes"])
def test_a_ray_source_stands_alone(tmp_path, more):
    arguments = ["supertokens", "train", "--text", "ray:x.parquet", *more, "--vocab-size", "300", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code
    assert "--text ray:PATH stands alone" in str(result.output) + str(result.exception)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A local cluster of two workers."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    with pytest.MonkeyPatch.context() as patch:
        # By default workers wait for all other programs of the machine.
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.mark.slow
def test_tokenizers_are_those_learned_from_a_file(cluster, tmp_path, byte_level_folder):
    import ray_cluster

    texts = [document for name in ("prose", "code") for document in builtin_text(name).documents]
    rows = [{"id": n, "body": text} for n, text in enumerate([*texts, "", *texts])]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_file = ray_cluster.Corpus([f"{file},field=body"])
    expected = ray_cluster.learned(from_file, byte_level_folder, tmp_path / "file")

    dataset = cluster.data.from_items([*rows, {"id": -1, "body": None}], override_num_blocks=5)
    corpora = {"dataset": RayCorpus(dataset, "body"), "read": RayCorpus.read(f"ray:{file},field=body")}
    for name, corpus in corpora.items():
        assert ray_cluster.learned(corpus, byte_level_folder, tmp_path / name) == expected
        assert (corpus.num_bytes, corpus.num_documents) == (from_file.num_bytes, from_file.num_documents)
        assert list(corpus.pieces(3000)) == list(ray_cluster.Corpus([f"{file},field=body"]).pieces(3000))


@pytest.mark.slow
def test_a_missing_column_and_no_text_are_errors(cluster, tmp_path):
    dataset = cluster.data.from_items([{"text": ""}, {"text": ""}])
    with pytest.raises(TokenAdaptError, match="has no column 'body'; it has text"):
        RayCorpus(dataset, "body")
    with pytest.raises(TokenAdaptError, match="there is no text"):
        list(RayCorpus(dataset).pieces())
    with pytest.raises(TokenAdaptError, match="Ray cannot read"):
        RayCorpus.read(f"ray:{tmp_path / 'nothing.parquet'}")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_calibration_text_gives_the_same_rows(
    cluster, tmp_path, monkeypatch, byte_level_folder, gemma_style_folder, tiny_model_folder, tied
):
    monkeypatch.setenv("MERGEKIT_TOKENADAPT_CACHE", str(tmp_path / "cache"))
    documents = [line for name in ("prose", "code") for d in builtin_text(name).documents for line in d.split("\n\n")]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents if document))
    whole, some = (CalibrationText.read(str(file), size) for size in (0, 20_000))
    dataset = cluster.data.read_json(str(file)).repartition(4)
    assert CalibrationText.from_ray(dataset, 0).passages == whole.passages
    text = CalibrationText.from_ray(dataset, 20_000, num_workers=2)
    assert text.passages == some.passages
    assert len(some.passages) > 2 * SHARD

    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied)
    old, new = (load_tokenizer(str(folder)) for folder in (base, gemma_style_folder))
    mean = AdaptConfig(method="mean", rows="exact")
    transfer = Transfer.of(mean, base=old, target=new, base_rows=old.vocabulary.num_ids, quiet=True)
    plan = transfer.make_plan()
    one = correct_output_rows(base, transfer, plan, some, stays_tied=tied)
    with monkeypatch.context() as patch:  # of this process: workers have modules of their own
        patch.setattr(_Reading, "shard", None)
        other = correct_output_rows(base, transfer, plan, text, stays_tied=tied)
    assert asdict(one.report) | {"text": None} == asdict(other.report) | {"text": None}
    rows = plan.apply(torch.randn(old.vocabulary.num_ids, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(one.apply(rows, plan.origins), other.apply(rows, plan.origins))
    assert one.report.strength > 0
    with pytest.raises(TokenAdaptError, match="has no column 'body'"):
        CalibrationText.from_ray(dataset, 0, field="body")
