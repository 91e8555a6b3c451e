"""Files and folders: checks of input files, and outputs that are written completely or not at all."""
