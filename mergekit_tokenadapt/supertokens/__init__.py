"""Learn supertokens (tokens that may span several words), and add them to a tokenizer."""
