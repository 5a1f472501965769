"""Benchmarks: one script a question. See README.md."""
