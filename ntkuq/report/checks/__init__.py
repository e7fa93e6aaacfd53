"""Checks of a problem before anything is fitted: data, network, likelihood, cost."""

from ntkuq.report.checks.record import (
    Check as Check,
    Inputs as Inputs,
    Outcome as Outcome,
    Severity as Severity,
)
from ntkuq.report.checks.table import CHECKS as CHECKS, run_checks as run_checks
