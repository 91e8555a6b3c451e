"""The functions and classes that `import mergekit_tokenadapt` offers. They take names of models or loaded objects."""
