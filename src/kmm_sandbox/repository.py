"""This checkout: the sandbox applies and builds what is shipped from it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
