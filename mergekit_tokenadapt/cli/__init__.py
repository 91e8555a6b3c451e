"""The commands. Each one parses its arguments, calls the library, and prints the result."""
