"""The metrics (arrays in, numbers out) and the report drawn from them."""
