"""The page of a continual run: forgetting, and calibration over time."""

from ntkuq.report.continual.document import (
    SCHEMA as SCHEMA,
    continual_document as continual_document,
)
from ntkuq.report.continual.page import continual_page as continual_page
