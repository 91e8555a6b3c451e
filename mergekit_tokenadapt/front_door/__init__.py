"""What `import mergekit_tokenadapt` offers: the commands' work as functions, by name and by object."""
