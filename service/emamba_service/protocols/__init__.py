"""What the service speaks: one room a protocol, each in front of `inference`."""
