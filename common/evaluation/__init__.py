"""Scoring of a submission against the truth, its report, and the picture that explains copies."""
