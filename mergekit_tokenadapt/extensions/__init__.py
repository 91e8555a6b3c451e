"""Entry points through which methods and auxiliary spaces are found, and the extras that features need."""
