"""Metrics, calibration and run lengths: numbers in, numbers out."""
