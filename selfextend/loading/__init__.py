"""Finding, downloading, sizing and loading a model."""
