"""Preference pairs in, weights out: the objective, the reference, the loop and what it reports."""
