"""Whole papers: the figures of a PDF, and panels that two figures, or a library of earlier ones, share."""
