"""The metrics (arrays in, numbers out) and what is drawn for a reader: report, explanation."""
