"""The version of mpkir; pyproject.toml and the artifacts take it from here."""

VERSION = "0.1.0"
