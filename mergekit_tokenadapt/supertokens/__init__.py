"""Learning vocabularies whose tokens may span words."""
