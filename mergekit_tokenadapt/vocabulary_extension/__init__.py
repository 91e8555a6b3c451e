"""Append tokens of another tokenizer to the tokenizer of the base model (``adapt.extend``)."""
