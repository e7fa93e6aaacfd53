"""One file for each table, figure or benchmark; `python -m experiments` runs one.

Experiments use the public interface only, and write a JSON document with seed, versions
and numbers beside what they print.
"""
