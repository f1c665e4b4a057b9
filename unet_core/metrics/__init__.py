"""Scores of a segmentation, one file per measure, all computed from the contingency table of truth and result."""
