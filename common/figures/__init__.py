"""Compound figures: their panels, and what is shown in them twice."""
