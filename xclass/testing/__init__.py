"""Conformance suites: what every implementation behind a seam must do. Import the one you need."""
