"""realdpo: footage in, a curated dataset, preference pairs and a fine-tuned video model out."""

__version__ = "0.1.0"
