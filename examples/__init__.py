"""Programs that show what the package is for. Run them from the project's folder: `python -m examples.demo`."""
