"""Reports of one result in three forms: terminal, JSON, HTML. A result is a plain dictionary."""
