"""Preparing distillation between models with different tokenizers, and taking the preparation back."""
