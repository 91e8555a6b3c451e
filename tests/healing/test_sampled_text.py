import torch

from mergekit_tokenadapt.healing.sampled_text import Sampler, start_of
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind


def test_text_ends_before_the_first_special_token(pair):
    model = open_model(str(pair[0]))
    vocabulary = model.tokenizer.vocabulary
    ids = model.tokenizer.fast_tokenizer().encode("the cat sat on the mat", add_special_tokens=False).ids
    special = int(vocabulary.ids(TokenKind.SPECIAL)[0])
    sampler = Sampler(model, 0, torch.device("cpu"))
    assert sampler.text_of([*start_of(model), *ids, special, *ids]) == "the cat sat on the mat"
