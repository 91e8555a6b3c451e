"""From two tokenizers to a plan that says how each new row is made. Nothing here knows mergekit."""
