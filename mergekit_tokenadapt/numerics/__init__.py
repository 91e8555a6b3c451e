"""Linear algebra that knows nothing of tokens: sparse rows, inner products, matching pursuit, principal directions."""
