import torch

from mergekit_tokenadapt.healing.next_token import next_token_lesson
from mergekit_tokenadapt.models.folder import open_model


def test_all_probability_is_on_the_token_that_follows(pair):
    model = open_model(str(pair[1]))
    texts = ["one line of text", "and another, with 12 digits"]
    lesson = next_token_lesson(model, texts)
    encoder = model.tokenizer.fast_tokenizer()
    for text, passage in zip(texts, lesson.passages, strict=True):
        ids = torch.tensor(encoder.encode(text, add_special_tokens=False).ids)
        assert torch.equal(passage.ids, ids)
        expected = torch.zeros(len(ids), model.num_rows)
        expected[torch.arange(len(ids)), ids] = 1
        targets = passage.targets
        dense = torch.zeros(len(ids), model.num_rows)
        dense[targets.rows, targets.ids] = targets.weights
        assert torch.equal(dense, expected)
    assert lesson.seconds_per_thousand is None
