"""The parts of a second-order step: objective, linear system, damping, rate."""
