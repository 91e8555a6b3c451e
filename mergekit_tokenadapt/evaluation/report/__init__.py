"""Show a result as terminal text, JSON or HTML. A result is a plain dictionary."""
