"""What does a model still know after a swap? Scores on public tasks."""
