"""Splits in, a fitted and tracked model out."""
