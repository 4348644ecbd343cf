"""Throughput and parity measurements."""
