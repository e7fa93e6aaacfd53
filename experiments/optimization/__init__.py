"""The optimization study: costs, curves, conditions and outcomes."""
