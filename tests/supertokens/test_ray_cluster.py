"""Ray datasets instead of files: the same results, byte for byte."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.ray_corpus import RayCorpus
from mergekit_tokenadapt.texts.builtin import builtin_text


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("mergekit_tokenadapt.extensions.extras.find_spec", lambda name: None)
    with pytest.raises(TokenAdaptError, match=r"pip install 'mergekit-tokenadapt\[ray\]'"):
        RayCorpus.read("ray:texts.parquet")


@pytest.mark.parametrize("more", [["--text", "README.md"], ["--max-bytes", "5"]], ids=["another text", "max-bytes"])
def test_a_ray_source_stands_alone(tmp_path, more):
    arguments = ["supertokens", "train", "--text", "ray:x.parquet", *more, "--vocab-size", "300", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code
    assert "--text ray:PATH cannot be combined" in str(result.output) + str(result.exception)


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
