"""Retrieval as a job that goes on after a kill: in this process, in several, on Ray; vectors out of a run."""

from xclass.batch.retrieve import Job, retrieve_to_file

__all__ = ["Job", "retrieve_to_file"]
