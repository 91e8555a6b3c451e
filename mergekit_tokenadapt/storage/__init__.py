"""Files and folders: what may be read, and outputs that are written whole or not at all."""
