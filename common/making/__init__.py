"""Making, importing and checking of data folders; forgeries drawn and pasted."""
