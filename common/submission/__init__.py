"""A submission: what is read, in which parts, by whom, and what is written."""
