"""Run directories: created, trained, grown, opened, inspected."""
