"""Scoring of a submission against the truth, and its report."""
