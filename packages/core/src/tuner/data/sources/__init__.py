"""Pictures that are not in a local folder: they are mirrored into one, and from there all is as for local ones."""
