"""What a search and a model are to those who retrieve with them."""

from __future__ import annotations
