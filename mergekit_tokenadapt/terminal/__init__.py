"""Output of the commands: progress, tables, error messages, and text without invisible characters."""
