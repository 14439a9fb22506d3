"""Makers of the demo's and the evidence's data. No part of the loader needs them."""
