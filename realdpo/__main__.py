"""`python -m realdpo`."""

from realdpo.cli import main

main()
