"""What a command shows on a terminal or in a log: progress, tables, and text without invisible characters."""
