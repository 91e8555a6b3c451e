"""Entry points that register methods and auxiliary spaces, and optional packages that a feature needs."""
