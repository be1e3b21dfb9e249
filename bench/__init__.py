"""Measurements of roofstep against the roof of memory and against every peer: python -m bench."""
