"""Labelled corpora in, clean leak-free splits out."""
