"""The page of a bandit run: regret, and calibration where it chose."""

from ntkuq.report.bandit.document import (
    SCHEMA as SCHEMA,
    bandit_document as bandit_document,
)
from ntkuq.report.bandit.page import bandit_page as bandit_page
