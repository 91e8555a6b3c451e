"""Measurements: README.md lists the questions, and the command and the page of each."""
