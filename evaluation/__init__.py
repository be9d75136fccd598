"""Predictions in, a report and a verdict out. It judges predictions, so it never imports training."""
