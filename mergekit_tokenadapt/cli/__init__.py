"""Thin commands over the library: they parse, call and print."""
