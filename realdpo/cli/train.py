"""Commands of this part; being built."""
