"""Outputs of the public tools, and what they were computed from. README.md tells how."""
