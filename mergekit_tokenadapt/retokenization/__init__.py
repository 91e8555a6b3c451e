"""Other tokens for the same text: split at random for training, merged for a shorter prompt."""
