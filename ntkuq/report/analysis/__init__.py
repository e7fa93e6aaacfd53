"""What a report knows about a method beyond its scores: plain data, by test point.

Every analysis takes the predictions of a finished method and gives entries of its
record. One that does not apply says why in the record's `omitted`.
"""

from .all import analyses as analyses
