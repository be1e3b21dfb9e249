"""Imports Paddle, whose warning harness.py keeps quiet, before a test imports what imports it."""

import harness as harness
