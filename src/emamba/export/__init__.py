"""From a package to the kernels: configuration header, top, weights image, golden vectors."""
