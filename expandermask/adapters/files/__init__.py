"""Adapters as files: written whole, read strictly."""
