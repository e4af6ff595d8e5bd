"""Training in PyTorch: data to float network to integer package."""
