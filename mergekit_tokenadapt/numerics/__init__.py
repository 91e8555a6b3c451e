"""Numbers without tokens: sparse rows, largest inner products, matching pursuit, principal directions."""
