"""Real models, tokenizers and texts for the examples, the benchmarks and the tests; fetched when they are needed."""
