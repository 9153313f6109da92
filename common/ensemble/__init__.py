"""The ensemble: its members, their blend, the image-level decision, and the fit of both."""
