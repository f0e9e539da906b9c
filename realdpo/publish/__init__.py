"""Publishing to the Hugging Face Hub and back: push, pull, and the cards of data and models."""
