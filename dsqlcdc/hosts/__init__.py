"""Hosts: where pipelines run."""
