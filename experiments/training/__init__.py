"""Training several networks, beside loops in PyTorch."""
