"""r2genkit: a teaching and reproduction kit for radiology report generation."""

__version__ = "0.1.0"
