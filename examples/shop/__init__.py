"""A small tea shop that keeps its visitors' sessions in a SQL database."""
