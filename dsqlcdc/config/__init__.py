"""The config: one YAML file, read strictly, with every mistake found at once."""

from dsqlcdc.config.findings import Finding
from dsqlcdc.config.read import lint, load, load_partial, look
from dsqlcdc.config.resolved import Config, SinkConfig
from dsqlcdc.config.schema import schema
from dsqlcdc.config.show import show

__all__ = ["Config", "Finding", "SinkConfig", "lint", "load", "load_partial", "look", "schema", "show"]
