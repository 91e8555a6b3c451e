"""How good are the rows? Bits per byte after a swap, for every method on several pairs."""
