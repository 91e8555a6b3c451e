"""How far does a little training bring a model after the swap? Bits per byte, by start, recipe and minutes."""
